"""Spec and result of the texts on which neurons fire most."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from analysis.contract.choices import about
from analysis.contract.specs import Floats, Ints, Result, Spec, Token, check_shape, resolve_index
from analysis.errors import SpecError
from analysis.tasks.suite_specs import MAX_PROMPTS, MODEL, SEED, check_count

#: Most characters of own texts, and most texts that are kept for each neuron.
MOST_CHARACTERS, MOST_KEPT = 200_000, 20


class Firing(NamedTuple):
    """A text on which a neuron fires.

    Attributes:
        text: Its number. position: The token at which it fires most.
        activation: The activation there, with its sign.
        before, token, after: The text around that token.
    """

    text: int
    position: int
    activation: float
    before: str
    token: str
    after: str


@dataclass(frozen=True, slots=True)
class NeuronTexts(Result):
    """The texts on which the neurons of a layer fire most, and where in them.

    Attributes:
        layer: The block.
        texts: [text] the texts. token_ids: [text] their tokens.
        best: [neuron, k] numbers of the texts, the largest activation in size first.
        positions: [neuron, k] the token at which the neuron fires most in the text.
        activations: [neuron, k] the activation there: the input of the down projection.
        vocabulary: The tokens that occur.
    """

    layer: int
    texts: tuple[str, ...]
    token_ids: tuple[tuple[int, ...], ...]
    best: Ints
    positions: Ints
    activations: Floats
    vocabulary: tuple[Token, ...]

    def __post_init__(self) -> None:
        check_shape("positions", self.positions, self.best.shape)
        check_shape("activations", self.activations, self.best.shape)

    def of(self, neuron: int, around: int = 8) -> tuple[Firing, ...]:
        """The texts of one neuron, with ``around`` tokens on each side.

        Raises:
            SpecError: If the layer has no such neuron.
        """
        at = resolve_index("Neuron", neuron, len(self.best))
        names = {token.id: token.text for token in self.vocabulary}
        found = []
        for text, place, value in zip(
            self.best[at].tolist(), self.positions[at].tolist(), self.activations[at], strict=True
        ):
            words = [names[one] for one in self.token_ids[text]]
            before, after = words[max(0, place - around) : place], words[place + 1 :][:around]
            ends = ("".join(before), words[place], "".join(after))
            found.append(Firing(text, place, float(value), *ends))
        return tuple(found)


@dataclass(frozen=True, slots=True)
class NeuronTextSpec(Spec[NeuronTexts]):
    """On which of many texts each neuron of a layer fires most."""

    model: str = field(metadata=MODEL)
    layer: int = field(metadata=about("The block."))
    suite: str = field(default="facts", metadata=about("The name of a built-in suite of prompts."))
    size: int = field(default=60, metadata=about("How many prompts of the suite."))
    digits: int = field(default=3, metadata=about("Digits of each operand, in suites of sums."))
    seed: int = field(default=0, metadata=SEED)
    texts: str = field(
        default="", metadata=about("Your own texts, one a line; they replace the suite.")
    )
    k: int = field(default=5, metadata=about("Texts kept for each neuron, 1 to 20."))

    def __post_init__(self) -> None:
        check_count("There can't be {} prompts.", self.size, MAX_PROMPTS)
        check_count("{} texts for each neuron are not possible.", self.k, MOST_KEPT)
        if len(self.texts) > MOST_CHARACTERS:
            raise SpecError(
                f"The texts have {len(self.texts):,} characters.",
                f"Use at most {MOST_CHARACTERS:,}.",
            )
        if self.texts and not self.own:
            raise SpecError("The texts are empty.", "Write one text a line.")
        check_count("There can't be {} texts.", max(len(self.own), 1), MAX_PROMPTS)

    @property
    def own(self) -> tuple[str, ...]:
        """The user's own texts, without empty lines."""
        return tuple(line.strip() for line in self.texts.splitlines() if line.strip())
