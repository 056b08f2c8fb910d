"""The result of running a prompt: its tokens, and what the model said at each."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.results.base import Floats, Ints, ModelInfo, Token, check_shape


@dataclass(frozen=True, slots=True)
class RunResult:
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
        added: Positions of prompt tokens that hold nothing of the user's text: written by the
            chat template, or added by the tokenizer.
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
