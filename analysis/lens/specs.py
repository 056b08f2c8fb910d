"""Specs of readings: which states are decoded, by what, and what colours them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypedDict, get_args

from analysis.contract.specs import Spec, choose
from analysis.errors import SpecError
from analysis.lens.results import Colours, Disagreement, Grid, Promoted

Component = Literal[
    "block_output", "attention_output", "mlp_output", "mid_residual", "head_output",
    "source_output", "block_increment",
]  # fmt: skip
Decoder = Literal["output", "input", "linear", "quadratic", "max_probability", "learned"]
Norm = Literal["none", "unit", "full"]
Similarity = Literal["dot", "cosine", "euclidean"]
Candidates = Literal["top_k", "subtraction", "matching_pursuit"]


def check_component(component: str, head: int | None, source: int | None) -> None:
    """Refuse a head or source with a component that has none, or one that lacks it.

    Raises:
        SpecError: Then, or if there is no such component.
    """
    choose("The component", component, Component)
    if (component in ("head_output", "source_output")) != (head is not None):
        raise SpecError(
            "A head goes with the components head_output and source_output, and with no other.",
            "Name a head, or choose another component.",
        )
    if (component == "source_output") != (source is not None):
        raise SpecError(
            "A source position goes with the component source_output, and with no other.",
            "Name a source position, or choose another component.",
        )


@dataclass(frozen=True, slots=True)
class LensSpec(Spec[Grid]):
    """How hidden states are read as tokens; the options of ``analysis.decode``.

    ``head`` goes with "head_output" and "source_output", ``source`` (a position) with the latter.
    ``candidates`` other than "top_k" go with "dot": cosine and distance list their nearest rows.
    """

    component: Component = "block_output"
    decoder: Decoder = "output"
    norm: Norm = "full"
    similarity: Similarity = "dot"
    candidates: Candidates = "top_k"
    k: int = 5
    target: tuple[int, ...] = ()
    rows: tuple[int, ...] | None = None
    positions: tuple[int, ...] | None = None
    head: int | None = None
    source: int | None = None

    def __post_init__(self) -> None:
        check_component(self.component, self.head, self.source)
        choose("The decoder", self.decoder, Decoder)
        choose("The norm", self.norm, Norm)
        choose("The similarity", self.similarity, Similarity)
        choose("The candidate list", self.candidates, Candidates)
        if self.decoder == "learned" and self.component != "block_output":
            raise SpecError(
                "A learned lens was fitted to the rows of the residual stream: of block outputs it "
                "says what the model would answer, of other vectors nothing.",
                "Read the block output, or choose another decoder.",
            )
        if self.k < 1:
            raise SpecError("At least one candidate must be asked for.", "Use k = 1 or more.")


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
class ColourSpec(Spec[Colours]):
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
class PromotedSpec(Spec[Promoted]):
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
class DisagreementSpec(Spec[Disagreement]):
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


class DecodeOptions(TypedDict, total=False):
    """What ``decode`` can be asked for besides candidates and targets.

    Attributes:
        component: "block_output" (first axis: row), or "attention_output", "mlp_output",
            "mid_residual", "head_output", "source_output", "block_increment" (first axis: layer).
        decoder: "output", "input", "linear", "quadratic", "max_probability", or "learned" (block
            outputs only, of a model that has a learned lens).
        norm: "full" (the final norm), "unit" (normalise only) or "none".
        similarity: "dot" (the lens), "cosine" or "euclidean" to the decoder's rows.
        candidates: "top_k", "subtraction" or "matching_pursuit".
        rows: Which entries of the first axis; all unless given.
        positions: Which positions; all unless given.
        head: Which head, with ``head_output`` and ``source_output``.
        source: Which source position's share of the head, with ``source_output``.
    """

    component: str
    decoder: str
    norm: str
    similarity: str
    candidates: str
    rows: Sequence[int] | None
    positions: Sequence[int] | None
    head: int | None
    source: int | None
