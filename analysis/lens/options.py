"""The options of the lens, each a table of choices, and what a choice needs.

Notation: h is a state, N the final norm, U the unembedding, E the input embedding, p the
distribution of a cell, q the model's output distribution.
"""

from __future__ import annotations

from dataclasses import dataclass

from analysis.contract.choices import (
    ATTENTION,
    FINAL_NORM,
    LINEAR_HEAD,
    MLP,
    NORM_PARAMETERS,
    PER_LAYER_EMBEDDING,
    SEPARATE_HEADS,
    SEQUENTIAL,
    UNTIED,
    Choice,
    Choices,
    Need,
    Situation,
)
from analysis.contract.choices import STATE_SPACE_MODEL as SSM


def _length_matters(situation: Situation) -> bool:
    """Whether a norm without parameters changes a score: under cosine an RMSNorm does not."""
    model = situation.model
    return (
        model is None or situation.options.get("similarity") != "cosine" or model.norm != "RMSNorm"
    )


def _dot_product(situation: Situation) -> bool:
    return situation.options.get("similarity", "dot") == "dot"


LEARNED_LENS = Need(
    "a learned lens for the model",
    "No lens is trained for this model. Train one with 'stratascope lens train MODEL'.",
    lambda situation: situation.learned_lens,
)
BLOCK_OUTPUT = Need(
    "the component block output",
    "A learned lens is fitted to block outputs and decodes nothing else.",
    lambda situation: situation.options.get("component", "block_output") == "block_output",
)
LENGTH = Need(
    "a similarity that depends on length",
    "Cosine ignores length, and here Unit changes only the length: None is the same as Unit.",
    _length_matters,
)
PROBABILITIES = Need(
    "probabilities (similarity dot product)",
    "Cosine and distance give no probabilities. The score is shown instead.",
    _dot_product,
)
DOT_PRODUCT = Need(
    "similarity dot product",
    "Cosine and distance list the nearest rows. Nothing is subtracted from the state.",
    _dot_product,
)


@dataclass(frozen=True, slots=True)
class Component(Choice):
    """Which states are decoded.

    Its function takes (model, trace, spec, index) and gives [pos, d_model] states.

    Attributes:
        by_row: Whether the first axis of a grid counts residual rows; else it counts layers.
        head: Whether it is of one head. source_position: Whether it is of one source position.
        phrase: What the state is, in a sentence; ``{head}`` and ``{source}`` are filled in.
        short: The name in the heatmap's row labels.
    """

    by_row: bool = False
    head: bool = False
    source_position: bool = False
    phrase: str = ""
    short: str = ""


_CELLS = "analysis.lens.cells"
COMPONENTS = Choices(
    "component",
    Component(
        "block_output", "Block output", "resid[l]", "The residual stream after the block.",
        "logit lens; nostalgebraist, 2020", function=f"{_CELLS}:block_output", by_row=True,
        phrase="the block's output",
    ),
    Component(
        "attention_output", "Attention output", "attn(h)",
        "What attention adds; in a layer without attention, the mixer in its place.",
        needs=(ATTENTION,),
        function=f"{_CELLS}:attention_output", phrase="what attention adds", short="attention",
    ),
    Component(
        "mlp_output", "MLP output", "mlp(h)", "What the MLP adds to the residual stream.",
        "Geva et al., 2022", (MLP,), function=f"{_CELLS}:mlp_output", phrase="what the MLP adds",
        short="MLP",
    ),
    Component(
        "ssm_output", "Mixer output", "ssm(h)",
        "What a state space model, convolution or linear attention adds.",
        "Gu and Dao, 2023", (SSM,), f"{_CELLS}:ssm_output",
        phrase="what the mixer besides attention adds", short="mixer",
    ),
    Component(
        "per_layer_embedding_output", "Per-layer embedding", "ple(h, token)",
        "What a block adds from an embedding of its own for the token.", "Gemma 3n, 2025",
        (PER_LAYER_EMBEDDING,), f"{_CELLS}:per_layer_embedding_output",
        phrase="what the per-layer embedding adds", short="PLE",
    ),
    Component(
        "mid_residual", "Mid residual", "h + attn(h)", "The state between attention and MLP.",
        needs=(SEQUENTIAL,), function=f"{_CELLS}:mid_residual",
        phrase="the state between attention and MLP", short="mid",
    ),
    Component(
        "block_increment", "Block increment", "resid[l + 1] − resid[l]",
        "What the block adds: attention and MLP together.",
        function=f"{_CELLS}:block_increment",
        phrase="what the block adds (this row minus the one before)", short="block adds",
    ),
    Component(
        "head_output", "One head", "Σⱼ pattern[i, j] · v[j] · W_O",
        "What one head adds: its part of the attention output.",
        needs=(ATTENTION, SEPARATE_HEADS), function=f"{_CELLS}:head_output", head=True,
        phrase="what {head} adds", short="head",
    ),
    Component(
        "source_output", "One head, one source", "pattern[i, j] · v[j] · W_O",
        "What one head adds from the source position j alone.", "Kobayashi et al., 2020",
        needs=(ATTENTION, SEPARATE_HEADS), function=f"{_CELLS}:source_output", head=True,
        source_position=True, phrase="what {head} adds from {source}", short="head",
    ),
    help="Which states are decoded.",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Decoder(Choice):
    """Which matrix decodes a state.

    Its function takes (readout, row / last row) and gives a list of ``lens.cells.Reader``: one,
    or several, of which the one with the highest top probability decodes the cell.

    Attributes:
        matrices: The matrix of each reader, as a formula.
        state: The state that they decode, as a formula.
        by_row: Whether the matrix changes from row to row.
    """

    matrices: tuple[str, ...] = ("U",)
    state: str = "h"
    by_row: bool = False

    @property
    def single(self) -> bool:
        """Whether it has its own reading; otherwise it picks one of several."""
        return len(self.matrices) == 1


DECODERS = Choices(
    "decoder",
    Decoder(
        "output", "Output", "U · N(h)", "The model's own unembedding.",
        "logit lens; nostalgebraist, 2020", function=f"{_CELLS}:output_matrix",
        misleads="An early row can decode to nonsense that later layers still use: training never"
        " asks the unembedding to read it.",
    ),
    Decoder(
        "input", "Input", "E · N(h)", "The input embedding.",
        needs=(UNTIED, LINEAR_HEAD), function=f"{_CELLS}:input_matrix", matrices=("E",),
        misleads="At early rows it finds the token that the model has just read. That says where"
        " the state began, not what the model computes.",
    ),
    Decoder(
        "linear", "Linear", "((1 − s) · E + s · U) · N(h), s = row / last row",
        "Moves from the input to the output matrix with depth.", "InTraVisTo, 2024",
        (UNTIED, LINEAR_HEAD), f"{_CELLS}:linear", matrices=("((1 − s)·E + s·U)",), by_row=True,
        misleads="The matrix changes from row to row. A change of the reading can come from it,"
        " not from the states.",
    ),
    Decoder(
        "quadratic", "Quadratic", "((1 − s) · E + s · U) · N(h), s = (row / last row)²",
        "As Linear, but stays near the input matrix for longer.", "InTraVisTo, 2024",
        (UNTIED, LINEAR_HEAD),
        f"{_CELLS}:quadratic", matrices=("((1 − s²)·E + s²·U)",), by_row=True,
        misleads="As Linear: a change of the reading can come from the matrix. Midpoint is the"
        " control.",
    ),
    Decoder(
        "midpoint", "Midpoint", "½ · (E + U) · N(h)",
        "The mean of the input and output matrix at every row. Compare it with Linear and Quadratic"
        " to see what their change with depth does.",
        needs=(UNTIED, LINEAR_HEAD), function=f"{_CELLS}:midpoint", matrices=("½·(E + U)",),
        misleads="No part of the model reads states with this mean. Use it as a control only.",
    ),
    Decoder(
        "max_probability", "Max probability", "U · N(h) or E · N(h)",
        "The decoder whose top token has the higher probability. o| marks a cell of the output"
        " decoder, i| one of the input decoder.",
        "InTraVisTo, 2024", (UNTIED, LINEAR_HEAD),
        f"{_CELLS}:output_and_input", matrices=("U", "E"),
        misleads="The more certain decoder is not the more correct one, and rows of different"
        " decoders are hard to compare.",
    ),
    Decoder(
        "learned", "Learned lens", "U · N(h + A · h + b)",
        "A and b of each row are trained on KL(model ‖ lens).",
        "tuned lens; Belrose et al., 2023", (LEARNED_LENS, BLOCK_OUTPUT),
        f"{_CELLS}:output_matrix", state="h + A·h + b",
        misleads="A translator can predict an answer from statistics of its training text, where"
        " the model itself does not use the state in that way.",
    ),
    help="Which matrix maps a normalised state to scores.",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Notated(Choice):
    """A choice that appears in the formula of a reading.

    Attributes:
        notation: Its formula, with ``{}`` for each argument.
    """

    notation: str = "{}"


NORMS = Choices(
    "norm",
    Notated(
        "full", "Full", "N(h)",
        "The model's final norm with its scale and bias. Its statistics are taken from h.",
        notation="N({})",
    ),
    Notated(
        "unit", "Unit", "N(h) with scale 1 and bias 0", "Only normalises the state.",
        needs=(FINAL_NORM, NORM_PARAMETERS), notation="N₁({})",
    ),
    Notated(
        "none", "None", "h", "The state as it is. Long states give sharper distributions.",
        needs=(FINAL_NORM, LENGTH),
    ),
    help="How a state is normalised before it is decoded.",
)  # fmt: skip

SIMILARITIES = Choices(
    "similarity",
    Notated(
        "dot", "Dot product", "U · h", "The model's own score. Softmax gives probabilities.",
        notation="softmax({} · {})",
    ),
    Notated(
        "cosine", "Cosine", "U · h / (|U| · |h|)", "For each row of U. Ignores lengths.",
        needs=(LINEAR_HEAD,), notation="cos({}, {})",
    ),
    Notated(
        "euclidean", "Euclidean", "|U − h|", "For each row of U. The nearest row comes first.",
        needs=(LINEAR_HEAD,), notation="|{} − {}|",
    ),
    help="How a state is compared with the decoder's rows.",
)  # fmt: skip

CANDIDATES = Choices(
    "candidate list",
    Choice("top_k", "Top k", help="The k tokens with the highest scores."),
    Choice(
        "subtraction", "Subtraction", "h ← h − U[best token]",
        "Subtracts the best token's row from the state and decodes it again.",
        "InTraVisTo's secondary tokens, 2024", (DOT_PRODUCT, LINEAR_HEAD),
    ),
    Choice(
        "matching_pursuit", "Matching pursuit", "h ← h − (h · u) · u, u = U[best] / |U[best]|",
        "Repeatedly projects the best token's direction out of the state. Gives the share of"
        " |h|² explained so far.",
        "Mallat and Zhang, 1993", (DOT_PRODUCT, LINEAR_HEAD),
    ),
    help="How the tokens of a cell are listed.",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Colour(Choice):
    """What a cell of the heatmap is coloured by.

    Attributes:
        of_grid: Whether a ``Grid`` contains it; otherwise a ``Colours`` does.
        of_token: Whether it describes one token that the user chooses.
        of_distribution: Whether it needs probabilities; without them a score replaces it.
        of_state: Whether it describes the state, whatever the decoder.
    """

    of_grid: bool = False
    of_token: bool = False
    of_distribution: bool = False
    of_state: bool = False


COLOURS = Choices(
    "colour",
    Colour(
        "probability", "Probability", "p(token shown)", "Of the token that the cell shows.",
        of_grid=True, of_distribution=True,
    ),
    Colour(
        "token_probability", "A token's probability", "p(token)", "Of one token in every cell.",
        needs=(PROBABILITIES,), of_grid=True, of_token=True, of_distribution=True,
    ),
    Colour(
        "token_rank", "A token's rank", "1 + number of tokens with a higher score",
        "1 is best. Logarithmic scale.", of_grid=True, of_token=True,
    ),
    Colour(
        "rank_change", "Rank change", "rank in the row before − rank here",
        "Of the token that the cell shows. Signed logarithmic scale.",
    ),
    Colour(
        "entropy", "Entropy", "−Σ p · ln p", "Of the cell's distribution, in nats. Low means sure.",
        needs=(PROBABILITIES,), of_grid=True, of_distribution=True,
    ),
    Colour(
        "kl", "KL to final", "Σ q · ln(q / p)",
        "Divergence of the cell's distribution p from the model's output q, in nats.",
        needs=(PROBABILITIES,), of_grid=True, of_distribution=True,
    ),
    Colour(
        "cross_entropy", "Cross-entropy", "−ln p(next token)",
        "Of the token that really comes next, in nats.",
        needs=(PROBABILITIES,), of_distribution=True,
    ),
    Colour(
        "share", "Contribution share", "share(part) of resid[l + 1]",
        "The share of the block's output that one of its parts makes up. Choose the part and the"
        " method.",
    ),
    Colour(
        "state_norm", "Norm of the state", "|h|₂", "Before any norm. Logarithmic scale.",
        of_state=True,
    ),
    Colour(
        "cosine_before", "Cosine to the row before", "h · h′ / (|h| · |h′|)",
        "h′ is the state one row lower.", of_state=True,
    ),
    help="What a cell is coloured by.",
)  # fmt: skip

SHARE_METHODS = Choices(
    "share method",
    Choice("norm", "Norm", "|z|₂ / Σ |z|₂", "Over residual, attention and MLP."),
    Choice(
        "proximity", "Proximity", "max(|y|₁ − |z − y|₁, 0)",
        "Of a part z in the whole y, normalised over the parts.", "Ferrando and Voita, 2024",
    ),
    Choice(
        "kl", "Vocabulary KL", "1 / KL(lens(y) ‖ lens(z))",
        "On distributions over the vocabulary, normalised over the parts.",
    ),
    Choice(
        "hidden_kl", "Hidden KL", "1 / KL(softmax(N(y)) ‖ softmax(N(z)))",
        "On a softmax over hidden coordinates.", "InTraVisTo, 2024",
    ),
    help="How a block's output is divided among residual, attention and MLP.",
)  # fmt: skip

#: What a ``ColourSpec`` computes.
QUANTITIES: Choices[Choice] = Choices(
    "quantity",
    *(COLOURS[name] for name in ("cross_entropy", "rank_change", "state_norm", "cosine_before")),
    *SHARE_METHODS.values(),
    help="Which quantities of the cells to compute.",
)

PROMOTED_READINGS = Choices(
    "reading",
    Choice(
        "direct", "Direct", "U · N(z) with the scale of N frozen at the final state",
        "The direct effect on the logits. The parts of a state add up to its logits.",
        "Elhage et al., 2021",
    ),
    Choice("lens", "Lens", "U · N(z)", "The part is normalised on its own, as in the heatmap."),
    help="How a component is decoded.",
)  # fmt: skip
