"""Specs and results of a run: the prompt, its forward pass, the predictions, the patterns."""

from __future__ import annotations

from dataclasses import dataclass, field

from analysis.contract.choices import about
from analysis.contract.specs import Floats, Ints, ModelInfo, Result, Spec, Token, check_shape
from analysis.errors import PromptError, SpecError
from analysis.tracing.interventions import MAX_EDITS, RunEdit


@dataclass(frozen=True, slots=True)
class RunResult(Result):
    """A prompt, the answer generated after it, and the model's own next-token choices.

    Attributes:
        info: The model that ran.
        tokens: Prompt and answer, [pos].
        prompt_length: How many of them are the prompt (template included).
        top_ids: [pos, k] most probable next tokens at each position, best first.
        top_probs: [pos, k] their probabilities, 0 to 1.
        next_prob: [pos] probability of the token that really follows; NaN at the last position.
        next_rank: [pos] its rank (0 is best); -1 at the last position.
        entropy: [pos] entropy of the next-token distribution, nats.
        vocabulary: Every token named by ``top_ids``, by ascending id.
        stopped: "length" or "end of text": why generation ended.
        added: Positions of prompt tokens that contain none of the user's text: the chat template
            or the tokenizer added them.
        given: How many of the answer's first tokens were given, not generated.
    """

    info: ModelInfo
    tokens: tuple[Token, ...]
    prompt_length: int
    top_ids: Ints
    top_probs: Floats
    next_prob: Floats
    next_rank: Ints
    entropy: Floats
    vocabulary: tuple[Token, ...]
    stopped: str = "length"
    added: tuple[int, ...] = ()
    given: int = 0

    def __post_init__(self) -> None:
        size = len(self.tokens)
        check_shape("top_ids", self.top_ids, (size, None))
        check_shape("top_probs", self.top_probs, self.top_ids.shape)
        for name in ("next_prob", "next_rank", "entropy"):
            check_shape(name, getattr(self, name), (size,))

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Ids of prompt and answer, [pos]."""
        return tuple(token.id for token in self.tokens)


@dataclass(frozen=True, slots=True)
class PatternResult(Result):
    """Attention patterns of one layer.

    Attributes:
        layer: The layer.
        pattern: [head, query, key] attention weights; NaN in a layer without attention.
        sink: [head, query] mass that went to a learned sink rather than to a token.
        head_norm: [head, query] L2 norm of what each head adds to the residual stream.
        head_share: [head, query] ``head_norm`` divided by its sum over the heads.
    """

    layer: int
    pattern: Floats
    sink: Floats
    head_norm: Floats
    head_share: Floats

    def __post_init__(self) -> None:
        heads, size = self.pattern.shape[:2]
        check_shape("pattern", self.pattern, (heads, size, size))
        for name in ("sink", "head_norm", "head_share"):
            check_shape(name, getattr(self, name), (heads, size))


@dataclass(frozen=True, slots=True)
class RunSpec(Spec[RunResult]):
    """A prompt, and how many tokens to generate after it."""

    model: str = field(metadata=about("A catalogue name, hub id, folder or .gguf path."))
    text: str = field(default="", metadata=about("The prompt; empty if token ids are given."))
    token_ids: tuple[int, ...] = field(
        default=(), metadata=about("The prompt's token ids, instead of its text.")
    )
    new_tokens: int = field(
        default=0,
        metadata=about("How many tokens to generate; fewer if the model stops."),
    )
    template: bool = field(
        default=False, metadata=about("Wrap the prompt in the model's chat template.")
    )
    begun: tuple[int, ...] = field(
        default=(), metadata=about("Token ids with which the answer begins.")
    )
    own: str = field(default="", metadata=about("A text that follows them, before new tokens."))
    sample: bool = field(
        default=False, metadata=about("Draw each token; else take the most probable one.")
    )
    temperature: float = field(
        default=1.0, metadata=about("Logits are divided by it before a token is drawn.")
    )
    top_p: float = field(
        default=1.0,
        metadata=about("Draw from the fewest tokens whose probabilities sum to this."),
    )
    seed: int = field(default=0, metadata=about("Makes drawn tokens repeatable."))

    def __post_init__(self) -> None:
        if not self.text and not self.token_ids:
            raise PromptError("The prompt is empty.", "Type some text, or click an example.")
        if self.new_tokens < 0:
            raise SpecError("The number of new tokens can't be negative.", "Use 0 or more.")
        check_sampling(self.temperature, self.top_p)


def check_sampling(temperature: float, top_p: float) -> None:
    """Refuse options of sampling that have no meaning.

    Raises:
        SpecError: Saying which.
    """
    if not temperature >= 1e-6:
        raise SpecError(
            "The temperature must be at least 1e-6.", "Use sample=False for greedy tokens."
        )
    if not 0 < top_p <= 1:
        raise SpecError("top_p must be above 0 and at most 1.", "Use 1 to draw from all tokens.")


@dataclass(frozen=True, slots=True)
class TraceSpec(Spec[None]):
    """One forward pass: the exact tokens a model read. Other results are computed from it.

    Attributes:
        model: The model's name.
        token_ids: The tokens.
        edits: Changes to the forward pass; at most 32.
    """

    model: str
    token_ids: tuple[int, ...]
    edits: tuple[RunEdit, ...] = ()

    def __post_init__(self) -> None:
        if not self.token_ids:
            raise PromptError("There are no tokens to read.", "Type some text.")
        if len(self.edits) > MAX_EDITS:
            raise SpecError(
                f"The run has {len(self.edits)} edits; at most {MAX_EDITS} are possible.",
                "Remove some of them.",
            )


@dataclass(frozen=True, slots=True)
class PatternSpec(Spec[PatternResult]):
    """The attention patterns of one layer."""

    layer: int = field(metadata=about("The block."))


@dataclass(frozen=True, slots=True)
class Answer(Result):
    """What an edited run generates after its prompt.

    Attributes:
        tokens: [n] the new tokens.
        stopped: "length" or "end of text": why generation ended.
    """

    tokens: tuple[Token, ...]
    stopped: str


@dataclass(frozen=True, slots=True)
class AnswerSpec(Spec[Answer]):
    """The run's own greedy answer, with its edits in every step."""

    new_tokens: int = field(
        default=1, metadata=about("How many tokens to generate; fewer if the model stops.")
    )
    prompt_length: int = field(
        default=0, metadata=about("How many of the run's tokens are the prompt; 0: all of them.")
    )

    def __post_init__(self) -> None:
        if self.new_tokens < 0 or self.prompt_length < 0:
            raise SpecError("A number of tokens can't be negative.", "Use 0 or more.")
