"""What is asked about readings: colours, promoted tokens, disagreement, steps, and reports."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from analysis.errors import SpecError
from analysis.specs import Component, Decoder, LensSpec, Norm, check_component, choose

#: What cells, and the parts of a block, can be coloured by; see ``results.Colours``.
Quantity = Literal[
    "cross_entropy", "rank_change", "state_norm", "cosine_before",
    "norm", "proximity", "kl", "hidden_kl",
]  # fmt: skip
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)
#: Those of them that share a block's output out among residual, attention and MLP.
SHARE_METHODS: tuple[Quantity, ...] = ("norm", "proximity", "kl", "hidden_kl")
PromotedReading = Literal["direct", "lens"]


@dataclass(frozen=True, slots=True)
class ColourSpec:
    """Quantities of each cell of a grid, to colour it by.

    Attributes:
        lens: The grid: its component, decoder, norm, similarity, candidates, rows, positions.
            ``k`` and ``target`` change nothing here and are set to their defaults.
        quantities: Which of ``QUANTITIES`` to compute; the others are NaN in the answer.
            "cross_entropy" and "rank_change" decode every cell, "kl" three times as many.
    """

    lens: LensSpec = field(default_factory=LensSpec)
    quantities: tuple[Quantity, ...] = QUANTITIES

    def __post_init__(self) -> None:
        for name in self.quantities:
            choose("The colour", name, Quantity)
        if not self.quantities:
            raise SpecError("There is nothing to colour by.", "Name at least one quantity.")
        ordered = tuple(name for name in QUANTITIES if name in self.quantities)
        object.__setattr__(self, "quantities", ordered)
        object.__setattr__(self, "lens", _plain(self.lens))


def _plain(lens: LensSpec) -> LensSpec:
    """The same grid with the options that change no colour at their defaults: one memo entry."""
    return replace(lens, k=1, target=())


@dataclass(frozen=True, slots=True)
class PromotedSpec:
    """Which tokens one component's output adds to the logits, and takes from them.

    Attributes:
        component: As in ``LensSpec``.
        layer: Entry of its first axis: a row for "block_output", else a layer.
        position: Where it writes.
        head, source: As in ``LensSpec``.
        k: How many promoted and suppressed tokens.
        reading: "direct" sends it through the final norm with its scale frozen at the final
            state, so that the parts of a state add up to its logits; "lens" norms it on its own.
    """

    component: Component
    layer: int
    position: int
    head: int | None = None
    source: int | None = None
    k: int = 10
    reading: PromotedReading = "direct"

    def __post_init__(self) -> None:
        check_component(self.component, self.head, self.source)
        choose("The reading", self.reading, PromotedReading)
        if self.k < 1:
            raise SpecError("At least one token must be asked for.", "Use k = 1 or more.")


@dataclass(frozen=True, slots=True)
class DisagreementSpec:
    """How far several decoders' readings of each block output differ.

    Attributes:
        decoders: Their names, at least two different ones; "max_probability" is no decoder of its
            own, but one of two others.
        norm: As in ``LensSpec``.
        rows, positions: As in ``LensSpec``.
    """

    decoders: tuple[Decoder, ...] = ("output", "input", "linear")
    norm: Norm = "full"
    rows: tuple[int, ...] | None = None
    positions: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        choose("The norm", self.norm, Norm)
        for name in self.decoders:
            choose("The decoder", name, Decoder)
        if "max_probability" in self.decoders:
            raise SpecError(
                "max_probability picks the output or the input decoder: it has no reading of its "
                "own to differ.",
                "Name output and input.",
            )
        if len(set(self.decoders)) != len(self.decoders) or len(self.decoders) < 2:
            raise SpecError(
                "Disagreement takes at least two decoders, each named once.",
                "Try output and input.",
            )


@dataclass(frozen=True, slots=True)
class StepsSpec:
    """How tokens come about at one position, row by row.

    Attributes:
        position: Where.
        tokens: Whose curves; none: the model's own top token there.
        tau: The probability that ``emergence`` asks for.
    """

    position: int = -1
    tokens: tuple[int, ...] = ()
    tau: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 < self.tau <= 1.0:
            raise SpecError("tau is a probability: above 0, at most 1.", "Try 0.5.")


@dataclass(frozen=True, slots=True)
class LargestStepSpec:
    """At every position: what made the largest step of its final token between two rows."""


@dataclass(frozen=True, slots=True)
class SimilaritySpec:
    """How far dot product, cosine and Euclidean distance rank the vocabulary alike.

    Attributes:
        norm: What the states are normed by first: "full", "unit" or "none".
        decoder: Whose rows they are compared with: "output" or "input".
        k: How many best tokens the overlap looks at.
        cells: At most so many (row, position) cells are looked at, drawn evenly by ``seed``.
        seed: Of that draw.
    """

    norm: Norm = "full"
    decoder: Literal["output", "input"] = "output"
    k: int = 10
    cells: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        choose("The norm", self.norm, Norm)
        choose("The decoder", self.decoder, Literal["output", "input"])
        if self.k < 1 or not 1 <= self.cells <= 4096:
            raise SpecError("Look at 1 to 4096 cells and at least one token.", "Try 128 and 10.")


@dataclass(frozen=True, slots=True)
class EmbeddingSpec:
    """Whether a model uses the same embeddings at its input and its output.

    Attributes:
        sample: How many tokens have their nearest row looked for in the other matrix (for each
            the whole matrix is read); None: all of them.
        seed: Of the draw.
    """

    sample: int | None = 2048
    seed: int = 0

    def __post_init__(self) -> None:
        if self.sample is not None and self.sample < 1:
            raise SpecError("At least one token must be looked at.", "Leave it out for all.")


@dataclass(frozen=True, slots=True)
class NormSpec:
    """What a model's normalisation layers are, and their parameters."""
