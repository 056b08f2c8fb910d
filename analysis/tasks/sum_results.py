"""How a model does sums: what writes, holds and hands over each digit and each carry."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from analysis.contract.results import Floats, Ints, Result, check_shape


def _no_ints() -> Ints:
    return np.zeros(0, np.int64)


def _no_table() -> Ints:
    return np.zeros((0, 0), np.int64)


@dataclass(frozen=True, slots=True)
class ContributionReport(Result):
    """What writes each answer digit, and what each head reads to do so; means over sums.

    Contributions are logits of the right digit less those of the digit that the other carry
    would give (direct logit attribution, the final norm's scale frozen).

    Attributes:
        columns: [digit] the answer's columns.
        sources: [source] names of the positions read.
        counts: [digit, 2] sums without and with a carry into the column.
        heads: [digit, 2, layer, head]. mlps: [digit, 2, layer]. embedding: [digit, 2].
        spread: [digit, 2, layer, head] half a 95 % interval of ``heads``; NaN of one sum alone.
        attention: [digit, layer, head, source] mean pattern from the position that predicts the
            digit.
        positions: [digit] the positions that predict them.
        prompts: [sum] what was asked. carry: [sum, digit] the carry into each column.
        length: Tokens of each answer.
    """

    columns: Ints
    sources: tuple[str, ...]
    counts: Ints
    heads: Floats
    mlps: Floats
    embedding: Floats
    spread: Floats
    attention: Floats
    positions: Ints = field(default_factory=_no_ints)
    prompts: tuple[str, ...] = ()
    carry: Ints = field(default_factory=_no_table)
    length: int = 0

    def __post_init__(self) -> None:
        check_shape("heads", self.heads, (len(self.columns), 2, None, None))
        check_shape("attention", self.attention, (len(self.columns), None, None, len(self.sources)))


@dataclass(frozen=True, slots=True)
class ProbeReport(Result):
    """How well a linear probe reads each fact off each state, on sums it was not fitted on.

    Attributes:
        components: [component] "row 0", "attention 0", "head 0.3", "mlp 0", ...
        places: [place] names of the positions.
        targets: [target] "carry1" to "carry5" (into the column), "sum0" to "sum4" (raw).
        accuracy: [target, component, place] balanced for carries, plain for the raw sums.
        control: The same with the labels shuffled.
        chance: [target] what guessing gives.
        fitted, held_out: Sums.
        positions: [place] their positions.
        written: [target] place at whose state the column is written: of a carry the column that
            it enters, of a raw sum its own.
        prompts: [example] some of the sums. values: [example, target] what is true of each.
        length: Tokens of each answer.
    """

    components: tuple[str, ...]
    places: tuple[str, ...]
    targets: tuple[str, ...]
    accuracy: Floats
    control: Floats
    chance: Floats
    fitted: int
    held_out: int
    positions: Ints = field(default_factory=_no_ints)
    written: Ints = field(default_factory=_no_ints)
    prompts: tuple[str, ...] = ()
    values: Ints = field(default_factory=_no_table)
    length: int = 0

    def __post_init__(self) -> None:
        shape = (len(self.targets), len(self.components), len(self.places))
        check_shape("accuracy", self.accuracy, shape)
        check_shape("control", self.control, shape)


@dataclass(frozen=True, slots=True)
class Projection(Result):
    """States of one component at one place on their two main axes (PCA).

    Attributes:
        component, place: Which states.
        points: [sum, 2]. explained: [2] share of the variance.
        carry: [sum] the carry into the column. digit_sum: [sum] its two digits added.
        column: Which column.
        position: Of the place. prompts: [sum] what was asked. length: Tokens of each answer.
    """

    component: str
    place: str
    points: Floats
    explained: Floats
    carry: Ints
    digit_sum: Ints
    column: int
    position: int = 0
    prompts: tuple[str, ...] = ()
    length: int = 0


@dataclass(frozen=True, slots=True)
class PatchReport(Result):
    """A component taken from a sum with a carry into one without: does the digit become one more?

    Attributes:
        components: [component]. places: [place], the last one "everywhere".
        columns: [column] the carry into which is handed over.
        effect: [column, component, place] share of pairs whose digit becomes one more.
        control: The same with a donor that has no carry either.
        pairs: [column] those that the model has right without a patch: only they are patched, and
            of fewer than five nothing is said (NaN).
        asked: How many were asked of each column.
        positions: [column] of the state that writes the digit.
        receivers, donors, harmless: [column] the sums of one pair, without a carry, with one, and
            of the control; empty where the model has none right.
        length: Tokens of each answer.
    """

    components: tuple[str, ...]
    places: tuple[str, ...]
    columns: Ints
    effect: Floats
    control: Floats
    pairs: Ints
    asked: int = 0
    positions: Ints = field(default_factory=_no_ints)
    receivers: tuple[str, ...] = ()
    donors: tuple[str, ...] = ()
    harmless: tuple[str, ...] = ()
    length: int = 0

    def __post_init__(self) -> None:
        shape = (len(self.columns), len(self.components), len(self.places))
        check_shape("effect", self.effect, shape)
        check_shape("control", self.control, shape)
