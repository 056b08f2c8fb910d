"""The specs and results of experiments on two prompts: a patching sweep, and a comparison.

Notation: m is the metric, h a state of the run that is patched, h* the state of the other run at
the same place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from analysis.contract.choices import (
    ATTENTION,
    SEPARATE_HEADS,
    Choice,
    Choices,
    about,
    check_choices,
    one_of,
)
from analysis.contract.specs import Floats, Ints, Result, Spec, Token, check_shape
from analysis.errors import AnalysisError, SpecError


@dataclass(frozen=True, slots=True)
class Axes(Choice):
    """What the cells of a sweep are.

    Attributes:
        names: The names of the result's axes.
    """

    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Metric(Choice):
    """What a sweep measures.

    Attributes:
        estimated: Whether it has a gradient, as an estimate needs.
    """

    estimated: bool = True


AXES = Choices(
    "axes of a sweep",
    Axes(
        "state", "State and position", help="One state of the residual stream is patched.",
        source="Meng et al., 2022, causal tracing", names=("row", "position"),
    ),
    Axes(
        "head", "Layer and head", help="One head's output is patched at all positions.",
        source="Wang et al., 2023, path patching of heads", needs=(ATTENTION, SEPARATE_HEADS),
        names=("layer", "head"),
    ),
    Axes(
        "part", "Attention or MLP", help="The output of one layer's attention or MLP is patched at"
        " one position.", source="Meng et al., 2022", names=("layer", "part", "position"),
    ),
    Axes(
        "head_position", "Head and position", help="One head's output in a chosen layer is patched"
        " at one position.", source="Wang et al., 2023", needs=(ATTENTION, SEPARATE_HEADS),
        names=("head", "position"),
    ),
    help="What each cell patches.",
)  # fmt: skip
PATCH_DIRECTIONS = Choices(
    "direction of patching",
    Choice(
        "denoise", "Denoise", "(m(patched) − m(corrupted)) / (m(clean) − m(corrupted))",
        "Clean states are patched into the corrupted run: which of them restore the answer?",
        "Meng et al., 2022",
    ),
    Choice(
        "noise", "Noise", "(m(clean) − m(patched)) / (m(clean) − m(corrupted))",
        "Corrupted states are patched into the clean run: which of them destroy the answer?",
        "Wang et al., 2023",
    ),
    help="Which run is patched, and from which run the states come.",
)  # fmt: skip
METRICS = Choices(
    "metric of a sweep",
    Metric(
        "logit_difference", "Logit difference", "logit(answer) − logit(foil)",
        "Linear in the last state, apart from the norm.", "Wang et al., 2023",
    ),
    Metric("probability", "Probability", "p(answer)", source="Meng et al., 2022"),
    Metric(
        "kl", "KL", "Σ q · ln(q / p)",
        "q is the output of the clean run, p that of the patched run. In nats; the foil and the"
        " answer do not matter.",
        "Conmy et al., 2023",
    ),
    Metric(
        "rank", "Rank", "number of tokens with a higher logit than the answer",
        "0 is best. It has no gradient, so it can't be estimated.", estimated=False,
    ),
    help="What is measured at the last position.",
)  # fmt: skip
ALIGNMENTS = Choices(
    "alignment of two prompts",
    Choice("position", "By position", help="Each position with the same position. The prompts need"
           " the same number of tokens."),
    Choice("token", "By token", help="Equal tokens with each other, by a longest common"
           " subsequence. Other positions are not patched."),
    help="Which positions of the two prompts belong together.",
)  # fmt: skip
DIFFERENCES = Choices(
    "difference of two prompts",
    Choice("kl", "KL", "Σ q · ln(q / p)",
           "q is the decoded output of the clean run, p that of the corrupted run. In nats."),
    Choice("probability", "Probability", "p_corrupted(answer) − p_clean(answer)",
           "Of the answer, or of the clean run's top token."),
    Choice("clean", "Clean", "p_clean(answer)", "The same probability in the clean run alone."),
    Choice("corrupted", "Corrupted", "p_corrupted(answer)", "In the corrupted run alone."),
    help="What the comparison of the two runs shows: their difference, or one of them.",
)  # fmt: skip
#: Changes of an alignment, in both specs.
_CHANGES = about(
    "Changes of the alignment: 3-5 makes position 3 of the first prompt and 5 of the second"
    " partners; 3- leaves 3 without a partner."
)
#: The second axis of a sweep over parts.
PARTS = ("attention", "mlp")
#: How messages name a field of the spec. The page uses it to mark the field.
FIELDS = {
    "clean": "The clean prompt",
    "corrupted": "The corrupted prompt",
    "answer": "The answer",
    "foil": "The foil",
    "layer": "Layer",
    "a": "Prompt A",
    "b": "Prompt B",
    "tokens": "The followed token",
    "other": "Model B",
}


def field_of(message: str) -> str:
    """The field of a spec of this file that a message names at its start; empty for none."""
    return next((name for name, text in FIELDS.items() if message.startswith(text)), "")


def about_second(error: AnalysisError) -> AnalysisError:
    """An error that the second model of a comparison causes; its message names that model."""
    return type(error)(f"{FIELDS['other']} can't be used. {error.message}", error.hint)


def mismatch(
    names: Sequence[str],
    layers: Sequence[int],
    vocab: Sequence[int],
    read: Mapping[str, Sequence[Sequence[int]]],
) -> str:
    """Why the states of two models can't be compared one by one; empty if they can.

    Args:
        names: The names of the models.
        layers: The numbers of their layers.
        vocab: The sizes of their vocabularies.
        read: The ids of the tokens that each of them reads, by the prompt's name in ``FIELDS``.
    """
    for what, (one, two) in (("layers", layers), ("tokens in the vocabulary", vocab)):
        if one != two:
            return f"{names[0]} has {one} {what} and {names[1]} has {two}."
    for name, (a, b) in read.items():
        if tuple(a) != tuple(b):
            return (
                f"The tokenizers of the models read {FIELDS[name]} as different tokens:"
                f" {len(a)} and {len(b)}."
            )
    return ""


@dataclass(frozen=True, slots=True)
class Sweep(Result):
    """How much of a metric each patch restores, or destroys.

    Attributes:
        axes, direction, metric, alignment: As in the spec.
        raw: [cell axes of ``names``] the metric of the patched run; NaN where there is nothing to
            patch, or where nothing was computed.
        effect: The same, normalised: 0 as without a patch, 1 as with everything patched. It can be
            below 0 and above 1.
        measured: The same shape: 1 where the value is measured, 0 where it is estimated or
            missing.
        clean_value, corrupted_value: The metric of the two runs.
        names: Names of the axes.
        answer, foil: The tokens of the metric. Without a foil in the request it is the corrupted
            run's top token.
        clean, corrupted: [pos] tokens of the prompts.
        partners: [pos of the patched run] the position in the other run, or -1.
        layer: The layer of a sweep over heads and positions; -1 for others.
        passes: Sequences that ran, whole or from the patched layer on.
    """

    axes: str
    direction: str
    metric: str
    alignment: str
    raw: Floats
    effect: Floats
    measured: Ints
    clean_value: float
    corrupted_value: float
    names: tuple[str, ...]
    answer: Token
    foil: Token
    clean: tuple[Token, ...]
    corrupted: tuple[Token, ...]
    partners: Ints
    layer: int = -1
    passes: int = 0

    def __post_init__(self) -> None:
        check_shape("raw", self.raw, (None,) * len(self.names))
        check_shape("effect", self.effect, self.raw.shape)
        check_shape("measured", self.measured, self.raw.shape)
        check_shape("partners", self.partners, (len(self.patched),))

    @property
    def patched(self) -> tuple[Token, ...]:
        """[pos] tokens of the run that is patched."""
        return self.corrupted if self.direction == "denoise" else self.clean

    def with_measured(self, other: Sweep) -> Sweep:
        """This sweep with the measured cells of another one of the same shape."""
        taken = other.measured > 0
        return replace(
            self,
            raw=np.where(taken, other.raw, self.raw),
            effect=np.where(taken, other.effect, self.effect),
            measured=np.maximum(self.measured, other.measured),
            passes=self.passes + other.passes,
        )


@dataclass(frozen=True, slots=True)
class SweepSpec(Spec[Sweep]):
    """A patching sweep: what carries the answer from one prompt to another."""

    model: str = field(metadata=about("A catalogue name."))
    clean: str = field(metadata=about("The prompt after which the model gives the answer."))
    corrupted: str = field(metadata=about("The prompt after which it gives another one."))
    answer: str = field(
        default="",
        metadata=about("One token, with its leading space; the clean run's top token if empty."),
    )
    foil: str = field(
        default="",
        metadata=about("Another token, to compare with; the corrupted run's top token if empty."),
    )
    axes: str = field(default="state", metadata=one_of(AXES))
    direction: str = field(default="denoise", metadata=one_of(PATCH_DIRECTIONS))
    metric: str = field(default="logit_difference", metadata=one_of(METRICS))
    alignment: str = field(default="position", metadata=one_of(ALIGNMENTS))
    pairs: tuple[str, ...] = field(default=(), metadata=_CHANGES)
    layer: int | None = field(
        default=None,
        metadata=about("The layer of a sweep over heads and positions; the middle one if empty."),
    )
    exact: bool = field(
        default=True,
        metadata=about("Measure each cell; else estimate all with one backward pass."),
    )
    first: int = field(
        default=0, metadata=about("The first index of the first axis that is measured.")
    )
    last: int | None = field(
        default=None, metadata=about("The last index that is measured; all if empty.")
    )

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("clean", "corrupted"):
            if not getattr(self, name):
                raise SpecError(f"{FIELDS[name]} is empty.", "Type some text, or choose a pair.")
        if self.answer and self.answer == self.foil:
            raise SpecError(f"{FIELDS['foil']} is the answer itself.", "Choose another token.")
        check_estimate(self.metric, self.direction, self.exact)


def check_estimate(metric: str, direction: str, exact: bool) -> None:
    """Refuse an estimate that would be 0 everywhere.

    Raises:
        SpecError: Saying why.
    """
    if exact:
        return
    if not METRICS[metric].estimated:
        raise SpecError("A rank has no gradient, so it can't be estimated.", "Measure it.")
    if metric == "kl" and direction == "noise":
        raise SpecError(
            "The KL divergence from the clean run is smallest in the clean run itself, so its"
            " gradient there is 0 and estimates nothing.",
            "Measure it, or choose the direction denoise.",
        )


@dataclass(frozen=True, slots=True)
class PromptComparison(Result):
    """How the states of two prompts differ under the logit lens, on aligned tokens.

    Attributes:
        pairs: [pair, 2] aligned positions of the prompts; the last positions are always a pair.
        kl, kl_back: [row, pair] KL(A || B) and KL(B || A) of the decoded distributions, in nats.
        followed: Ids of the tokens that are followed.
        a_probs, b_probs: [row, pair, token] their probabilities.
        a_top, b_top: [row, pair] the most probable token of each state.
        a, b: [pos] tokens of the prompts.
        vocabulary: The tokens that appear in the result.
    """

    pairs: Ints
    kl: Floats
    kl_back: Floats
    followed: tuple[int, ...]
    a_probs: Floats
    b_probs: Floats
    a_top: Ints
    b_top: Ints
    a: tuple[Token, ...]
    b: tuple[Token, ...]
    vocabulary: tuple[Token, ...]

    def __post_init__(self) -> None:
        shape = (len(self.kl), len(self.pairs))
        for name in ("kl", "kl_back", "a_top", "b_top"):
            check_shape(name, getattr(self, name), shape)
        for name in ("a_probs", "b_probs"):
            check_shape(name, getattr(self, name), (*shape, len(self.followed)))

    def token(self, number: int) -> Token:
        """A token of the result by its id."""
        return next(token for token in self.vocabulary if token.id == number)


@dataclass(frozen=True, slots=True)
class PromptSpec(Spec[PromptComparison]):
    """Two prompts, or two models on one prompt, compared state by state by the logit lens.

    A server refuses an ``other`` that it does not offer: an address must not name a path or hub id.
    """

    model: str = field(metadata=about("A catalogue name."))
    a: str = field(metadata=about("One prompt."))
    b: str = field(
        default="", metadata=about("The other prompt; with another model, the same one if empty.")
    )
    tokens: tuple[str, ...] = field(
        default=(),
        metadata=about("Tokens whose probabilities are followed; the runs' top tokens if empty."),
    )
    alignment: str = field(default="token", metadata=one_of(ALIGNMENTS))
    pairs: tuple[str, ...] = field(default=(), metadata=_CHANGES)
    other: str = field(default="", metadata=about("The model that reads the other prompt."))

    def __post_init__(self) -> None:
        ALIGNMENTS.check(self.alignment)
        for name in ("a", "b"):
            if not getattr(self, name) and not (name == "b" and self.other):
                raise SpecError(f"{FIELDS[name]} is empty.", "Type some text, or choose a pair.")
