"""What a component or a link promotes, and which neurons write an MLP's output."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.results.base import Floats, Ints, Token, check_shape


@dataclass(frozen=True, slots=True)
class LinkReading:
    """One link's vector, read through the final norm with its scale frozen.

    Attributes:
        kind, layer, head, source_pos, target_pos: Which link; head -1 for all together.
        norm: L2 norm of what it writes.
        share_of_norm: That over the norm of the state it writes into.
        promoted: [k] token ids whose logits it raises most. promoted_logits: [k] by how much.
        suppressed, suppressed_logits: [k] likewise, the lowest first.
        kl_source: KL(lens of the state written into || lens of the vector alone), nats.
        kl_without: KL(lens of the state written into || lens of it less the vector), nats.
        vocabulary: Every token named above, by ascending id.
    """

    kind: str
    layer: int
    head: int
    source_pos: int
    target_pos: int
    norm: float
    share_of_norm: float
    promoted: Ints
    promoted_logits: Floats
    suppressed: Ints
    suppressed_logits: Floats
    kl_source: float
    kl_without: float
    vocabulary: tuple[Token, ...]

    def __post_init__(self) -> None:
        for name in ("promoted_logits", "suppressed", "suppressed_logits"):
            check_shape(name, getattr(self, name), self.promoted.shape)


@dataclass(frozen=True, slots=True)
class Promoted:
    """What one component's output adds to the logits, and takes from them.

    Attributes:
        component: As in ``LensSpec``. layer: Its entry of the first axis (a row for block outputs).
        position: Where it writes. head, source: -1 where there is none.
        reading: "direct": through the final norm with its scale frozen at the final state, no
            biases, so that the values of a state's parts add up to its logits before any soft
            cap. "lens": normed on its own, as a grid reads it; its values don't add up to anything.
        norm: L2 norm of the component's vector.
        promoted: [k] token ids with the largest values, best first. promoted_logits: [k].
        suppressed: [k] those with the lowest, lowest first. suppressed_logits: [k].
        mean: Mean value over the vocabulary: a shift of all logits, which changes no probability.
        vocabulary: Every token named above, by ascending id.
    """

    component: str
    layer: int
    position: int
    head: int
    source: int
    reading: str
    norm: float
    promoted: Ints
    promoted_logits: Floats
    suppressed: Ints
    suppressed_logits: Floats
    mean: float
    vocabulary: tuple[Token, ...]

    def __post_init__(self) -> None:
        for name in ("promoted_logits", "suppressed", "suppressed_logits"):
            check_shape(name, getattr(self, name), self.promoted.shape)


@dataclass(frozen=True, slots=True)
class Neurons:
    """The neurons of one MLP most responsible at one position.

    Attributes:
        layer, position: Where.
        token, foil: Whose logit; foil -1 for a plain logit.
        by: "logit" or "norm": what they are ranked by.
        neuron: [n] their numbers, the most responsible first.
        activation: [n] what enters the down projection.
        logit: [n] activation times output direction: what each adds to the logit.
        norm: [n] L2 norm of what each writes.
        tokens: [n, k] ids that what it writes promotes most. token_logits: [n, k] by how much.
        total: What the whole MLP adds to the logit: all neurons, and ``bias``.
        bias: What its output bias (and a post-norm's) adds.
        size: How many neurons it has.
        vocabulary: Every token named above, by ascending id.
    """

    layer: int
    position: int
    token: int
    foil: int
    by: str
    neuron: Ints
    activation: Floats
    logit: Floats
    norm: Floats
    tokens: Ints
    token_logits: Floats
    total: float
    bias: float
    size: int
    vocabulary: tuple[Token, ...]

    def __post_init__(self) -> None:
        for name in ("activation", "logit", "norm"):
            check_shape(name, getattr(self, name), self.neuron.shape)
        check_shape("tokens", self.tokens, (len(self.neuron), None))
        check_shape("token_logits", self.token_logits, self.tokens.shape)
