"""Specs and results of an opened block, an attention score, and the report on aggregation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from analysis.contract.choices import about, check_choices, one_of
from analysis.contract.specs import Floats, Ints, Result, Spec, Token, check_shape
from analysis.errors import SpecError
from analysis.lens.options import DECODERS


@dataclass(frozen=True, slots=True)
class OpenedBlock(Result):
    """What one block computes at one position, in the model's order.

    Attributes:
        layer, position: The block and the position.
        parallel: Whether attention and MLP read the same state.
        steps: [step] names of the vectors, such as "State in" and "Attention output".
        lengths: [step] their L2 norms. cosines: [step] cosine with the state that comes in.
        step_tokens: [step, k] tokens: of a state by the decoder, of a part by its direct effect on
            the logits; -1 for normed states, and where the decoder does not apply (a learned lens
            at the state after attention).
        coordinates, coordinate_values: [step, 5] the largest coordinates.
        norm_names: [norm] "attention" and "MLP", if a norm stands before them.
        norm_factors: [norm] factor of the norm's root: 1 / √(mean x² + ε).
        norm_cosines: [norm] cosine before and after. norm_coordinates: [norm, 5] coordinates
            whose scale is the largest in size. norm_scales: [norm, 5] those scales.
        content, rotation: [head, key] the two parts of each score before the softmax: at distance
            0, and what the distance changes. NaN if ``scores_missing``.
        bias: [head, key] what is added to the score: 0, ALiBi, or -inf where a key is masked.
        softcap: The soft cap of the scores; 0 if there is none.
        position_by: "rotation", "states" (positions are in the states) or "bias".
        score_error: Largest difference between the weights and the softmax of these scores.
        weights: [head, key] the attention weights.
        brought, brought_cosines: [head, key] length of what each source brings through value and
            output projection, and its cosine with the whole attention output.
        head_lengths, head_cosines: [head] the same of each head. head_tokens: [head, k].
        neurons: [n] neurons with the largest effect on the logit.
        activations, effects: [n] their activation, and what they add to the logit.
        neuron_reads: [n, reader, k] tokens whose embeddings the neuron's rows point to.
        neuron_readers: [reader] names of the matrices with these rows.
        neuron_writes: [n, k] tokens that the neuron promotes.
        token, foil: The logit's token; -1 for no foil.
        attention_error, mlp_error, state_error: Relative errors of the sums: heads and bias,
            neurons and bias (NaN if ``neurons_missing``), and the whole block.
        scores_missing, heads_missing, neurons_missing: Why a part is missing; else empty.
        vocabulary: The tokens that occur.
    """

    layer: int
    position: int
    parallel: bool
    steps: tuple[str, ...]
    lengths: Floats
    cosines: Floats
    step_tokens: Ints
    coordinates: Ints
    coordinate_values: Floats
    norm_names: tuple[str, ...]
    norm_factors: Floats
    norm_cosines: Floats
    norm_coordinates: Ints
    norm_scales: Floats
    content: Floats
    rotation: Floats
    bias: Floats
    softcap: float
    position_by: str
    score_error: float
    weights: Floats
    brought: Floats
    brought_cosines: Floats
    head_lengths: Floats
    head_cosines: Floats
    head_tokens: Ints
    neurons: Ints
    activations: Floats
    effects: Floats
    neuron_reads: Ints
    neuron_readers: tuple[str, ...]
    neuron_writes: Ints
    token: int
    foil: int
    attention_error: float
    mlp_error: float
    state_error: float
    scores_missing: str
    heads_missing: str
    neurons_missing: str
    vocabulary: tuple[Token, ...]

    def __post_init__(self) -> None:
        for name in ("cosines", "step_tokens", "coordinates"):
            check_shape(name, getattr(self, name)[..., :0].reshape(len(self.steps), -1),
                        (len(self.steps), None))  # fmt: skip
        for name in ("rotation", "bias", "weights", "brought", "brought_cosines"):
            check_shape(name, getattr(self, name), self.content.shape)


@dataclass(frozen=True, slots=True)
class BlockSpec(Spec[OpenedBlock]):
    """One block at one position, step by step."""

    layer: int = field(metadata=about("The block."))
    position: int = field(default=-1, metadata=about("The position."))
    k: int = field(default=4, metadata=about("Tokens in each list, 1 to 20."))
    neurons: int = field(default=6, metadata=about("Neurons that are listed, 1 to 50."))
    token: int | None = field(
        default=None,
        metadata=about("The id of the token whose logit ranks the neurons; the model's top token."),
    )
    foil: int | None = field(
        default=None, metadata=about("The id of the token whose logit is subtracted.")
    )
    decoder: str = field(default=DECODERS.default, metadata=one_of(DECODERS))

    def __post_init__(self) -> None:
        check_choices(self)
        if not 1 <= self.k <= 20:
            raise SpecError(f"A list of {self.k} tokens is not possible.", "Choose 1 to 20 tokens.")
        if not 1 <= self.neurons <= 50:
            raise SpecError(f"{self.neurons} neurons are not possible.", "Choose 1 to 50 neurons.")


@dataclass(frozen=True, slots=True)
class Experts(Result):
    """The experts of an MLP at one position, and what each writes.

    Attributes:
        layer, position: The place.
        chosen: [expert] numbers of the chosen experts, the largest weight first.
        weights: [expert] the router's weights, as multiplied with the outputs.
        count: Number of experts in the layer.
        lengths, cosines, effects: [expert + 1] L2 norm of what each writes, its cosine with the
            MLP's output, and what it adds to the logit. The last entry is the rest: shared experts
            and biases.
        tokens: [expert + 1, k] tokens that it promotes.
        token, foil: The logit's token; -1 for no foil.
        error: Relative error of the sum of the chosen experts, each run alone.
        missing: Why no experts are listed; else empty. The rest is then the whole output.
        vocabulary: The tokens that occur.
    """

    layer: int
    position: int
    chosen: Ints
    weights: Floats
    count: int
    lengths: Floats
    cosines: Floats
    effects: Floats
    tokens: Ints
    token: int
    foil: int
    error: float
    missing: str
    vocabulary: tuple[Token, ...]

    def __post_init__(self) -> None:
        check_shape("weights", self.weights, self.chosen.shape)
        for name in ("lengths", "cosines", "effects"):
            check_shape(name, getattr(self, name), (len(self.chosen) + 1,))
        check_shape("tokens", self.tokens, (len(self.chosen) + 1, None))

    def name(self, at: int) -> str:
        """An entry of ``lengths`` in words."""
        return f"Expert {self.chosen[at]}" if at < len(self.chosen) else "Shared experts and biases"


@dataclass(frozen=True, slots=True)
class ExpertSpec(Spec[Experts]):
    """The experts that an MLP uses at one position: their weights, and what each writes."""

    layer: int = field(metadata=about("The block."))
    position: int = field(default=-1, metadata=about("The position."))
    k: int = field(default=4, metadata=about("Tokens in each list, 1 to 20."))
    token: int | None = field(
        default=None,
        metadata=about("The id of the token whose logit is measured; the model's top token."),
    )
    foil: int | None = field(
        default=None, metadata=about("The id of the token whose logit is subtracted.")
    )

    def __post_init__(self) -> None:
        if not 1 <= self.k <= 20:
            raise SpecError(f"A list of {self.k} tokens is not possible.", "Choose 1 to 20 tokens.")


class ScoreEntry(NamedTuple):
    """One product of a query part and a key part.

    Attributes:
        query_part, key_part: Names of the parts. score: Their product, in units of the score.
    """

    query_part: str
    key_part: str
    score: float


@dataclass(frozen=True, slots=True)
class ScoreParts(Result):
    """An attention score before the softmax, split by the parts of the query's and key's state.

    Attributes:
        layer, head, query, key: The score.
        kinds, part_layers, part_heads: [part] "embedding", "head", "attention_bias", "attention",
            "mlp", ... or "bias" (of the norm and of the projections); their layer and head, or -1.
        matrix: [query part, key part] contributions.
        score: The model's own scaled product of query and key, before any soft cap and mask.
        weight: The attention weight.
    """

    layer: int
    head: int
    query: int
    key: int
    kinds: tuple[str, ...]
    part_layers: Ints
    part_heads: Ints
    matrix: Floats
    score: float
    weight: float

    def __post_init__(self) -> None:
        check_shape("matrix", self.matrix, (len(self.kinds), len(self.kinds)))

    @property
    def total(self) -> float:
        """The sum of all contributions."""
        return float(self.matrix.astype(np.float64).sum())

    @property
    def residual_error(self) -> float:
        """``total`` minus ``score``."""
        return self.total - self.score

    def name(self, part: int) -> str:
        """A part in words, such as "layer 3, head 2"."""
        kind, layer = self.kinds[part], int(self.part_layers[part])
        if kind == "head":
            return f"layer {layer}, head {int(self.part_heads[part])}"
        words = kind.replace("_", " ").replace("mlp", "MLP")
        return words if layer < 0 else f"layer {layer}, {words}"

    def largest(self, count: int) -> tuple[ScoreEntry, ...]:
        """The entries that are largest in size, the largest first."""
        order = np.argsort(-np.abs(self.matrix), axis=None, kind="stable")[:count]
        places = [divmod(int(one), len(self.kinds)) for one in order]
        return tuple(
            ScoreEntry(self.name(row), self.name(column), float(self.matrix[row, column]))
            for row, column in places
        )


@dataclass(frozen=True, slots=True)
class ScoreSpec(Spec[ScoreParts]):
    """Why a head looks from one position to another: the score, by earlier components."""

    layer: int = field(metadata=about("The block."))
    head: int = field(metadata=about("The head."))
    query: int = field(default=-1, metadata=about("The position that reads."))
    key: int = field(default=0, metadata=about("The position that is read."))


@dataclass(frozen=True, slots=True)
class AggregationReport(Result):
    """How much of what attention and MLPs write lies in the span of the states that they read.

    Shares are squared lengths, 0 to 1, and means over ``positions`` positions.

    Attributes:
        rank: Dimensions of the span: the largest singular vectors of the states that are visible.
        d_model: Dimensions in all. positions: Number of positions in the means.
        attention, mlp: [layer] share inside the span; NaN where a layer writes nothing.
        attention_control, mlp_control: [layer] the same with W_O and W_out replaced by random
            matrices of the same spectrum.
        seed: The seed of these matrices.
    """

    rank: int
    d_model: int
    positions: int
    attention: Floats
    mlp: Floats
    attention_control: Floats
    mlp_control: Floats
    seed: int

    def __post_init__(self) -> None:
        for name in ("mlp", "attention_control", "mlp_control"):
            check_shape(name, getattr(self, name), self.attention.shape)

    @property
    def sentence(self) -> str:
        """The main result, in two sentences."""
        inside, other = (100 * float(np.nanmean(one)) for one in (self.attention, self.mlp))
        control = 100 * float(np.nanmean(self.attention_control))
        return (
            f"On average {inside:.0f} % of attention's squared output lies in the {self.rank} main"
            f" directions of the states that it reads, and {other:.0f} % of the MLPs'. The rest is"
            f" new. With random matrices of the same spectrum {control:.1f} % lies inside."
        )


@dataclass(frozen=True, slots=True)
class AggregationSpec(Spec[AggregationReport]):
    """How much of attention's and the MLPs' output is in the span of the states read, by layer."""

    rank: int = field(default=4, metadata=about("Dimensions of the span, 1 to 64."))
    seed: int = field(default=0, metadata=about("The seed of the random matrices."))

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= 64:
            raise SpecError(f"Rank {self.rank} is not possible.", "Choose 1 to 64.")
