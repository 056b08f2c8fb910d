"""Specs and results of reports on embeddings, norms and similarities."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from analysis.contract.choices import Choices, about, check_choices, one_of
from analysis.contract.specs import Floats, Ints, Result, Spec, check_shape
from analysis.errors import SpecError
from analysis.lens.options import DECODERS, NORMS


@dataclass(frozen=True, slots=True)
class EmbeddingReport(Result):
    """Whether the input and output embeddings are the same.

    Attributes:
        tied: Whether the two matrices hold the same numbers.
        tokens: Number of rows compared: those that both matrices have.
        d_model: Their width.
        cosine_counts: [bin] tokens by the cosine of their input and output row.
        cosine_edges: [bin + 1] the bins' edges, -1 to 1.
        quantile_levels: [level] 0 to 1, for all quantiles below.
        cosine_quantiles: [level] of that cosine. cosine_mean: Its mean.
        unrelated_mean: The mean cosine of each input row with another token's output row, as a
            baseline.
        zero_rows: Tokens with a row of zeros, which are left out of cosines and ranks.
        sampled: Tokens whose nearest row was searched: at most ``tokens - zero_rows``.
        seed: The seed of that sample.
        self_nearest: [2] share of them whose own row is the nearest, by cosine, of all rows of the
            other matrix: input to output, output to input.
        self_rank_quantiles: [2, level] of the own row's rank there (0 is nearest).
        input_norm_quantiles, output_norm_quantiles: [level] of the rows' L2 norms.
        input_norm_mean, output_norm_mean: Their means.
        embedding_scale: The model's factor for input rows; norms are without it.
        output_bias: Whether the unembedding has a bias.
    """

    tied: bool
    tokens: int
    d_model: int
    cosine_counts: Ints
    cosine_edges: Floats
    quantile_levels: Floats
    cosine_quantiles: Floats
    cosine_mean: float
    unrelated_mean: float
    zero_rows: int
    sampled: int
    seed: int
    self_nearest: Floats
    self_rank_quantiles: Floats
    input_norm_quantiles: Floats
    output_norm_quantiles: Floats
    input_norm_mean: float
    output_norm_mean: float
    embedding_scale: float
    output_bias: bool

    def __post_init__(self) -> None:
        levels = (len(self.quantile_levels),)
        check_shape("cosine_edges", self.cosine_edges, (len(self.cosine_counts) + 1,))
        for name in ("cosine_quantiles", "input_norm_quantiles", "output_norm_quantiles"):
            check_shape(name, getattr(self, name), levels)
        check_shape("self_nearest", self.self_nearest, (2,))
        check_shape("self_rank_quantiles", self.self_rank_quantiles, (2, *levels))

    @property
    def exact(self) -> bool:
        """Whether every token's nearest row was searched."""
        return self.sampled == self.tokens - self.zero_rows

    @property
    def sentence(self) -> str:
        """The main result, in one or two sentences."""
        if self.tied:
            more = ", but the unembedding adds a bias" if self.output_bias else ""
            return f"Input and output embeddings are the same matrix (tied){more}."
        which = f"all {self.sampled:,}" if self.exact else f"{self.sampled:,} sampled"
        return (
            "Input and output embeddings differ (untied). The mean cosine of a token's two rows is "
            f"{self.cosine_mean:.2f} (rows of different tokens {self.unrelated_mean:.2f}). For "
            f"{100 * self.self_nearest[0]:.0f} % of {which} tokens, the token's own output row is "
            "the nearest to its input row."
        )


@dataclass(frozen=True, slots=True)
class NormSummary(Result):
    """One normalisation layer.

    Attributes:
        name: The module's name in the model.
        layer: Its block; -1 outside the blocks.
        kind: "LayerNorm" (subtracts the mean) or "RMSNorm".
        stores: "scale", "scale - 1" (Gemma), "nothing" (no parameters), or "something else".
        size: Number of channels it normalises over.
        eps: The constant under the root, as measured on the layer itself.
        scale: [5] minimum, quartiles and maximum of the effective scale.
        bias: [5] likewise; zeros if it has none.
    """

    name: str
    layer: int
    kind: str
    stores: str
    size: int
    eps: float
    scale: Floats
    bias: Floats

    def __post_init__(self) -> None:
        check_shape("scale", self.scale, (5,))
        check_shape("bias", self.bias, (5,))


@dataclass(frozen=True, slots=True)
class NormReport(Result):
    """A model's normalisation layers.

    Attributes:
        final: The final norm; None if the model has none.
        final_scale: [channel] its effective scale. final_bias: [channel].
        others: Every other norm, in the model's order.
    """

    final: NormSummary | None
    final_scale: Floats
    final_bias: Floats
    others: tuple[NormSummary, ...]

    def __post_init__(self) -> None:
        check_shape("final_bias", self.final_bias, self.final_scale.shape)


@dataclass(frozen=True, slots=True)
class SimilarityReport(Result):
    """How similarly cosine, Euclidean distance and dot product rank the vocabulary.

    Overlaps are shares of the k best tokens that two rankings have in common, 0 to 1;
    correlations are Spearman's over the whole vocabulary, -1 to 1.

    Attributes:
        norm, decoder, k, seed: As in ``SimilaritySpec``.
        rows: [cell], positions: [cell] the sample of the ``cells_in_all`` cells.
        state_norm: [cell] L2 norm of the state after ``norm``.
        overlap_euclidean, rank_euclidean: [cell] agreement of cosine and Euclidean distance.
        overlap_dot, rank_dot: [cell] agreement of cosine and dot product.
        bin_edges: [bin + 1] of ``state_norm``; 1, the unit ball's surface, is one of them if it
            lies between. bin_counts: [bin] cells.
        bin_overlap_euclidean, bin_rank_euclidean, bin_overlap_dot, bin_rank_dot: [bin] means; NaN
            in an empty bin.
        swept_norm: [length] lengths that states were scaled to.
        swept_overlap, swept_rank: [length] agreement of cosine and Euclidean distance there, means
            over ``swept_cells`` of the cells: the effect of the state's length alone.
        row_norm: [5] minimum, quartiles and maximum of the decoder rows' L2 norms.
    """

    norm: str
    decoder: str
    k: int
    seed: int
    cells_in_all: int
    rows: Ints
    positions: Ints
    state_norm: Floats
    overlap_euclidean: Floats
    rank_euclidean: Floats
    overlap_dot: Floats
    rank_dot: Floats
    bin_edges: Floats
    bin_counts: Ints
    bin_overlap_euclidean: Floats
    bin_rank_euclidean: Floats
    bin_overlap_dot: Floats
    bin_rank_dot: Floats
    swept_cells: int
    swept_norm: Floats
    swept_overlap: Floats
    swept_rank: Floats
    row_norm: Floats

    def __post_init__(self) -> None:
        cells, bins = self.rows.shape, self.bin_counts.shape
        for name in ("positions", "state_norm"):
            check_shape(name, getattr(self, name), cells)
        for name in ("overlap_euclidean", "rank_euclidean", "overlap_dot", "rank_dot"):
            check_shape(name, getattr(self, name), cells)
            check_shape(f"bin_{name}", getattr(self, f"bin_{name}"), bins)
        check_shape("bin_edges", self.bin_edges, (len(self.bin_counts) + 1,))
        for name in ("swept_overlap", "swept_rank"):
            check_shape(name, getattr(self, name), self.swept_norm.shape)
        check_shape("row_norm", self.row_norm, (5,))

    @property
    def sentence(self) -> str:
        """Whether cosine and Euclidean distance agree on this model, in three sentences."""
        at_one = float(self.swept_overlap[int(np.abs(np.log(self.swept_norm)).argmin())])
        return (
            "At the states' own lengths (median "
            f"{float(np.median(self.state_norm)):.3g}), cosine and Euclidean distance share "
            f"{100 * float(self.overlap_euclidean.mean()):.0f} % of their {self.k} best tokens. "
            f"If the states are scaled to length 1, they share {100 * at_one:.0f} %. The rows are "
            f"{float(self.row_norm[0]):.3g} to {float(self.row_norm[-1]):.3g} long. The two rank "
            "alike at any length only if all rows have the same length."
        )


#: Decoders whose rows can be compared with the states.
ROWS = Choices(
    "decoder for similarities",
    DECODERS["output"],
    DECODERS["input"],
    help="The decoder whose rows are compared with the states.",
)


@dataclass(frozen=True, slots=True)
class SimilaritySpec(Spec[SimilarityReport]):
    """How similarly dot product, cosine and Euclidean distance rank the vocabulary."""

    norm: str = field(default="full", metadata=one_of(NORMS))
    decoder: str = field(default="output", metadata=one_of(ROWS))
    k: int = field(default=10, metadata=about("How many best tokens the overlap counts."))
    cells: int = field(
        default=128, metadata=about("At most this many (row, position) cells are sampled.")
    )
    seed: int = field(default=0, metadata=about("The seed of that sample."))

    def __post_init__(self) -> None:
        check_choices(self)
        if not 1 <= self.k <= 1000 or not 1 <= self.cells <= 4096:
            raise SpecError("Look at 1 to 4096 cells and 1 to 1000 tokens.", "Try 128 and 10.")


@dataclass(frozen=True, slots=True)
class EmbeddingSpec(Spec[EmbeddingReport]):
    """Whether a model uses the same embeddings at its input and its output."""

    sample: int | None = field(
        default=2048,
        metadata=about(
            "Number of tokens whose nearest row in the other matrix is searched. Each search "
            "reads the whole matrix. None: all tokens."
        ),
    )
    seed: int = field(default=0, metadata=about("The seed of that sample."))

    def __post_init__(self) -> None:
        if self.sample is not None and self.sample < 1:
            raise SpecError("The sample needs at least one token.", "Leave it out for all tokens.")


@dataclass(frozen=True, slots=True)
class NormSpec(Spec[NormReport]):
    """A model's normalisation layers and their parameters."""
