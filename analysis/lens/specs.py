"""Specs of the lens: which states are decoded, how, and what colours them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

from analysis.contract.arguments import unknown_option
from analysis.contract.choices import about, check_choices, one_of
from analysis.contract.specs import Spec, as_tuple, resolve_index
from analysis.errors import SpecError
from analysis.lens.options import (
    CANDIDATES,
    COMPONENTS,
    DECODERS,
    NORMS,
    PROMOTED_READINGS,
    QUANTITIES,
    SIMILARITIES,
)
from analysis.lens.results import Colours, Disagreement, Grid, Promoted

_HEAD = about("The head, with head_output and source_output.")
_SOURCE = about("The source position, with source_output.")
_POSITIONS = about("Positions to decode; all unless given.")


def check_component(component: str, head: int | None, source: int | None) -> None:
    """Refuse a head or source with a component that has none, or one that lacks it.

    Raises:
        SpecError: In both cases.
    """
    chosen = COMPONENTS[component]
    if chosen.head != (head is not None):
        raise SpecError(
            "A head goes with the components head_output and source_output, and with no other.",
            "Name a head, or choose another component.",
        )
    if chosen.source_position != (source is not None):
        raise SpecError(
            "A source position goes with the component source_output, and with no other.",
            "Name a source position, or choose another component.",
        )


@dataclass(frozen=True, slots=True)
class LensSpec(Spec[Grid]):
    """Hidden states decoded to tokens: the logit lens and its variants.

    ``candidates`` other than "top_k" go with "dot": cosine and distance list their nearest rows.
    """

    component: str = field(default="block_output", metadata=one_of(COMPONENTS))
    decoder: str = field(default="output", metadata=one_of(DECODERS))
    norm: str = field(default="full", metadata=one_of(NORMS))
    similarity: str = field(default="dot", metadata=one_of(SIMILARITIES))
    candidates: str = field(default="top_k", metadata=one_of(CANDIDATES))
    k: int = field(default=5, metadata=about("How many tokens of each cell."))
    target: tuple[int, ...] = field(default=(), metadata=about("Ids of tokens to follow."))
    rows: tuple[int, ...] | None = field(
        default=None,
        metadata=about(
            "Residual rows to decode (layers, for a part of a block); all unless given."
        ),
    )
    positions: tuple[int, ...] | None = field(default=None, metadata=_POSITIONS)
    head: int | None = field(default=None, metadata=_HEAD)
    source: int | None = field(default=None, metadata=_SOURCE)

    def __post_init__(self) -> None:
        check_choices(self)
        check_component(self.component, self.head, self.source)
        if self.decoder == "learned" and self.component != "block_output":
            raise SpecError(
                "A learned lens is fitted to block outputs. It does not apply to other vectors.",
                "Decode the block output, or choose another decoder.",
            )
        if self.k < 1:
            raise SpecError("A cell needs at least one candidate.", "Use k = 1 or more.")


@dataclass(frozen=True, slots=True)
class ColourSpec(Spec[Colours]):
    """Quantities of each cell of a grid, to colour it by.

    ``k`` and ``target`` of the grid change nothing here and are set to their defaults.
    "cross_entropy" and "rank_change" decode every cell, "kl" decodes three times as many.
    """

    lens: LensSpec = field(default_factory=LensSpec, metadata=about("The grid."))
    quantities: tuple[str, ...] = field(
        default_factory=lambda: tuple(QUANTITIES),
        metadata=one_of(QUANTITIES, "Quantities to compute; the others are NaN in the result."),
    )

    def __post_init__(self) -> None:
        check_choices(self)
        if not self.quantities:
            raise SpecError("There is nothing to colour by.", "Name at least one quantity.")
        ordered = tuple(name for name in QUANTITIES if name in self.quantities)
        object.__setattr__(self, "quantities", ordered)
        object.__setattr__(self, "lens", replace(self.lens, k=1, target=()))


@dataclass(frozen=True, slots=True)
class PromotedSpec(Spec[Promoted]):
    """The tokens whose logits one component's output raises most and lowers most."""

    component: str = field(metadata=one_of(COMPONENTS))
    layer: int = field(
        metadata=about("Entry of the component's first axis: a row for block_output, else a layer.")
    )
    position: int = field(metadata=about("The position that it writes to."))
    head: int | None = field(default=None, metadata=_HEAD)
    source: int | None = field(default=None, metadata=_SOURCE)
    k: int = field(default=10, metadata=about("How many promoted and suppressed tokens."))
    reading: str = field(default="direct", metadata=one_of(PROMOTED_READINGS))

    def __post_init__(self) -> None:
        check_choices(self)
        check_component(self.component, self.head, self.source)
        if self.k < 1:
            raise SpecError("At least one token is needed.", "Use k = 1 or more.")


@dataclass(frozen=True, slots=True)
class DisagreementSpec(Spec[Disagreement]):
    """How far several decoders' readings of each block output differ."""

    decoders: tuple[str, ...] = field(
        default=("output", "input", "linear"),
        metadata=one_of(
            DECODERS,
            "At least two different decoders, each with a reading of its own (max_probability has"
            " none: it picks the output or the input decoder).",
        ),
    )
    norm: str = field(default="full", metadata=one_of(NORMS))
    rows: tuple[int, ...] | None = field(
        default=None, metadata=about("Residual rows to decode; all unless given.")
    )
    positions: tuple[int, ...] | None = field(default=None, metadata=_POSITIONS)

    def __post_init__(self) -> None:
        check_choices(self)
        for name in self.decoders:
            if not DECODERS[name].single:
                raise SpecError(
                    f"{name} picks one of several decoders: it has no reading of its own.",
                    "Name those decoders instead.",
                )
        if len(set(self.decoders)) != len(self.decoders) or len(self.decoders) < 2:
            raise SpecError(
                "Disagreement takes at least two decoders, each named once.",
                "Try output and input.",
            )


class DecodeOptions(TypedDict, total=False):
    """Keyword arguments of ``decode`` besides candidates and targets: fields of ``LensSpec``.

    ``docs/reference.md`` lists the choices of each.
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


def lens_spec(options: Mapping[str, Any], **more: Any) -> LensSpec:
    """A spec from the keyword arguments of a public function; None means the default.

    Raises:
        SpecError: If there is no such option, or it has no such value.
    """
    names = LensSpec.__dataclass_fields__
    for name in options:
        if name not in names:
            raise unknown_option(name, names, "The lens")
    given = {name: value for name, value in options.items() if value is not None}
    for name in {"rows", "positions"} & given.keys():
        given[name] = as_tuple(given[name])
    return LensSpec(**given, **more)


def entries(name: str, wanted: tuple[int, ...] | None, size: int) -> list[int]:
    """Selected entries of an axis, counted from the start; all of them for None.

    Args:
        name: The axis, for the error message.
        wanted: Indices; negative ones count from the end.
        size: Length of the axis.

    Raises:
        SpecError: If an entry does not exist, or none is chosen.
    """
    if wanted is None:
        return list(range(size))
    if not wanted:
        raise SpecError(f"No {name.lower()} is chosen.", "Choose one or more, or None for all.")
    return [resolve_index(name, value, size) for value in wanted]
