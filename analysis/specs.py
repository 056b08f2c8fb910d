"""What is asked for: frozen, hashable inputs, and one canonical key for each.

A spec holds only what changes the answer. ``cache_key`` turns specs into the
memo's key, so two users who ask the same thing share one computation.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from analysis.errors import PromptError, SpecError

if TYPE_CHECKING:
    from analysis.lens_specs import (
        ColourSpec,
        DisagreementSpec,
        EmbeddingSpec,
        LargestStepSpec,
        NormSpec,
        PromotedSpec,
        SimilaritySpec,
        StepsSpec,
    )
    from analysis.link_specs import CausalSpec, ComparisonSpec, LinkSpec, NeuronSpec
    from analysis.tasks.spec import StudySpec

#: Raised whenever the meaning or layout of any result changes: old memo entries are then unread.
SCHEMA = 6

Component = Literal[
    "block_output", "attention_output", "mlp_output", "mid_residual", "head_output",
    "source_output", "block_increment",
]  # fmt: skip
Decoder = Literal["output", "input", "linear", "quadratic", "max_probability", "learned"]
Norm = Literal["none", "unit", "full"]
Similarity = Literal["dot", "cosine", "euclidean"]
Candidates = Literal["top_k", "subtraction", "matching_pursuit"]
FlowMethod = Literal[
    "proximity", "norm", "attention", "value_weighted", "residual_norm", "kl", "hidden_kl",
    "rollout", "signed",
]  # fmt: skip
Direction = Literal["down", "up"]
HideStart = Literal["keep", "loss", "reweight"]


def choose(name: str, value: str, options: Any) -> None:
    """Refuse ``value`` unless it is one of a Literal type's values.

    Raises:
        SpecError: Naming the option, the value and what is allowed.
    """
    allowed = get_args(options)
    if value not in allowed:
        raise SpecError(f"{name} can't be {value!r}.", f"Choose one of: {', '.join(allowed)}.")


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
class RunSpec:
    """A prompt as a person gives it.

    Attributes:
        model: A catalogue name, hub id, folder or ``.gguf`` path.
        text: The prompt's text; empty where ``token_ids`` is given.
        token_ids: The prompt's tokens, instead of text.
        new_tokens: How many tokens to generate greedily after it; fewer if the model stops.
        template: Whether the model's own chat template wraps the text.
    """

    model: str
    text: str = ""
    token_ids: tuple[int, ...] = ()
    new_tokens: int = 0
    template: bool = False

    def __post_init__(self) -> None:
        if not self.text and not self.token_ids:
            raise PromptError("The prompt is empty.", "Type some text, or click an example.")
        if self.new_tokens < 0:
            raise SpecError("The number of new tokens can't be negative.", "Use 0 or more.")


@dataclass(frozen=True, slots=True)
class TraceSpec:
    """One forward pass: the exact tokens a model read. Derived results hang on it."""

    model: str
    token_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.token_ids:
            raise PromptError("There are no tokens to read.", "Type some text.")


@dataclass(frozen=True, slots=True)
class LensSpec:
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


@dataclass(frozen=True, slots=True)
class PatternSpec:
    """The attention patterns of one layer."""

    layer: int


@dataclass(frozen=True, slots=True)
class FlowSpec:
    """Which flow graph to draw; the options of ``analysis.flow``.

    Attributes:
        position: The root's position, or several that carry an equal part of the mass each.
        row: The root's residual row.
        method: How shares are computed.
        threshold: Links are kept whose share is above it (signed: part of the absolute mass).
        top_k: At each node, so many of its strongest attention links (signed: of each layer).
        budget: So many links in all, by flow.
        per_head: One attention link for each head and source, or heads summed.
        token, foil: Signed only: whose logit, and what it is held against; None: the model's
            own top token, and nothing.
        direction: "down" from the root to the tokens, or "up" to everything it reaches.
        fold_sinks: Whether attention to positions that soak it up ends in one sink link.
        hide_start: What becomes of attention to a start token or sink at position 0: kept,
            hidden with its mass counted as hidden, or hidden and the node's other shares scaled.
    """

    position: int | tuple[int, ...] = -1
    row: int = -1
    method: FlowMethod = "proximity"
    threshold: float = 0.0
    top_k: int | None = None
    budget: int | None = None
    per_head: bool = True
    token: int | None = None
    foil: int | None = None
    direction: Direction = "down"
    fold_sinks: bool = False
    hide_start: HideStart = "keep"

    def __post_init__(self) -> None:
        choose("The flow method", self.method, FlowMethod)
        choose("The direction", self.direction, Direction)
        choose("Hiding the start", self.hide_start, HideStart)
        if not 0.0 <= self.threshold < 1.0:
            raise SpecError("The threshold must be at least 0 and below 1.", "Try 0.03.")
        for name, value in (("top_k", self.top_k), ("budget", self.budget)):
            if value is not None and value < 1:
                raise SpecError(f"{name} must be 1 or more.", "Leave it out to keep everything.")
        if not isinstance(self.position, int):
            object.__setattr__(self, "position", tuple(int(pos) for pos in self.position))
            if not self.position:
                raise SpecError("There is no root position.", "Name at least one.")
        self._check_signed()

    def _check_signed(self) -> None:
        if self.method != "signed":
            if self.token is not None or self.foil is not None:
                raise SpecError(
                    f"The method {self.method} asks about no token.", "Use the method signed."
                )
            return
        if self.direction == "up" or self.fold_sinks or self.hide_start != "keep":
            raise SpecError(
                "Signed flow is what each part adds to one logit: it goes down, nothing hidden.",
                "Leave direction, fold_sinks and hide_start as they are.",
            )
        if self.foil is not None and self.foil == self.token:
            raise SpecError("A token can't be held against itself.", "Choose another foil.")


@dataclass(frozen=True, slots=True)
class EmergenceSpec:
    """When each position's final token emerges, with the threshold ``tau``.

    Attributes:
        tau: The probability that ``emergence`` asks for.
        causal: Whether the causal commit row is measured too: one pass a row and position.
    """

    tau: float = 0.5
    causal: bool = False

    def __post_init__(self) -> None:
        if not 0.0 < self.tau <= 1.0:
            raise SpecError("tau is a probability: above 0, at most 1.", "Try 0.5.")


@dataclass(frozen=True, slots=True)
class StorySpec:
    """The facts behind the page's one sentence: how ``token`` comes about at ``position``."""

    position: int = -1
    token: int | None = None
    tau: float = 0.5


@dataclass(frozen=True, slots=True)
class LedgerSpec:
    """The identities of one run, attribution and flow at one position."""

    position: int = -1


Spec: TypeAlias = (
    "RunSpec | TraceSpec | LensSpec | PatternSpec | FlowSpec | EmergenceSpec | StorySpec"
    " | LedgerSpec | CausalSpec | ComparisonSpec | LinkSpec | NeuronSpec"
    " | ColourSpec | PromotedSpec | DisagreementSpec | StepsSpec | LargestStepSpec"
    " | SimilaritySpec | EmbeddingSpec | NormSpec | StudySpec"
)


def resolve_index(name: str, value: int, size: int) -> int:
    """Turn an index, possibly counted from the end, into one from the start.

    Raises:
        SpecError: If it is out of range.
    """
    if not -size <= value < size:
        raise SpecError(
            f"{name} {value} does not exist.", f"Use {0} to {size - 1}, or {-size} to -1."
        )
    return value % size


def cache_key(fingerprint: str, *specs: Spec) -> str:
    """One key for one answer.

    Args:
        fingerprint: What identifies the model's weights, revision and dtype.
        *specs: What is asked of it. A spec's ``model`` field is left out: names don't matter.

    Returns:
        64 hexadecimal digits (SHA-256 of a canonical JSON text), never holding prompt text.
    """
    parts: list[Any] = [SCHEMA, fingerprint]
    for spec in specs:
        values = asdict(spec)
        values.pop("model", None)
        parts.append([type(spec).__name__, values])
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def as_tuple(values: int | Sequence[int] | None) -> tuple[int, ...]:
    """One id, several, or none, as a tuple."""
    if values is None:
        return ()
    if isinstance(values, Integral):
        return (int(values),)
    return tuple(int(value) for value in values)  # type: ignore[union-attr]
