"""Which ways into a node are the main ones: the rule that a person chooses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from dash_app.figures.flow_parts import Heads

RuleName = Literal["sources", "mass", "least"]

#: Main links carry at least this part of the root's mass, unless the rule says otherwise.
LEAST = 0.004
#: The rules that go by mass take any number of sources.
ANY = 10_000
#: Where the search for the fewest links that carry enough begins and ends, and its step.
_FROM, _TO, _STEP = 0.6, 1e-4, 0.85


@dataclass(frozen=True, slots=True)
class Rule:
    """What makes a link a main one.

    Attributes:
        name: "sources": at each node the strongest attention sources, so many; "mass": the
            strongest links that together carry so much of the root's mass; "least": every link
            that carries so much of it.
        sources: For "sources".
        mass: For "mass", 0 to 1.
        least: For "least", 0 to 1.
    """

    name: RuleName = "sources"
    sources: int = 2
    mass: float = 0.8
    least: float = 0.02

    @property
    def at_each(self) -> int:
        """How many attention sources of a node may be main."""
        return self.sources if self.name == "sources" else ANY

    def thresholds(self) -> Iterator[float]:
        """Masses below which a link is not main, in the order in which they are tried.

        "mass" lets more in from try to try until enough is carried; the others let fewer in until
        the picture can hold them.
        """
        if self.name == "mass":
            threshold = _FROM
            while threshold > _TO:
                yield threshold
                threshold *= _STEP
            return
        threshold = self.least if self.name == "least" else LEAST
        while True:
            yield threshold
            threshold *= 1.15

    def enough(self, shown: float) -> bool:
        """Whether the search may stop at a picture that fits and carries ``shown``."""
        return self.name != "mass" or shown >= self.mass


#: The rule until a person chooses one.
USUAL = Rule()


@dataclass(frozen=True, slots=True)
class Look:
    """Which part of a graph is drawn, and how.

    Attributes:
        first, last: The layers; None: from the bottom, to the top.
        heads: Which heads that read the same source are one link.
        group_size: Query heads that share keys and values.
        adaptive: Whether lanes are as tall as what passes them; else the whole flow is as tall in
            every picture.
    """

    first: int | None = None
    last: int | None = None
    heads: Heads = "sum"
    group_size: int = 1
    adaptive: bool = True


#: The look until a person chooses another.
PLAIN = Look()
