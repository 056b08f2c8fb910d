"""What the heatmap can be asked: every option with its formula and source."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.contract.results import ModelInfo
from dash_app.page.controls import Option

COMPONENTS = (
    Option(
        "block_output",
        "Block output",
        "h after the block: the residual stream itself (logit lens; nostalgebraist, 2020).",
    ),
    Option("attention_output", "Attention output", "What attention adds to the stream: attn(h)."),
    Option("mlp_output", "MLP output", "What the MLP adds to the stream (Geva et al., 2022)."),
    Option("mid_residual", "Mid residual", "h + attn(h): the state between attention and MLP."),
    Option(
        "block_increment",
        "Block adds",
        "Row l + 1 less row l: all that the block adds, attention and MLP together.",
    ),
    Option(
        "head_output",
        "One head",
        "Σⱼ pattern[i, j] · v[j] · W_O of one head: its part of the attention output.",
    ),
    Option(
        "source_output",
        "One head, one source",
        "pattern[i, j] · v[j] · W_O: what the head adds from the source position j alone.",
    ),
)
DECODERS = (
    Option("output", "Output", "U · N(h): the model's own unembedding (nostalgebraist, 2020)."),
    Option("input", "Input", "E · N(h): the embedding matrix that tokens enter by."),
    Option(
        "linear",
        "Linear",
        "(1 − s) · E + s · U with s = row / last row, between input and output (InTraVisTo).",
    ),
    Option("quadratic", "Quadratic", "The same with s = (row / last row)² (InTraVisTo)."),
    Option(
        "max_probability",
        "Max probability",
        "Whichever of output and input is surer of its best token; the cell says which"
        " (o| or i|) (InTraVisTo).",
    ),
    Option(
        "learned",
        "Learned lens",
        "U · N(h + A·h + b), A and b of each row trained on KL(model ‖ lens)"
        " (tuned lens; Belrose et al., 2023).",
    ),
)
NORMS = (
    Option("full", "Full", "The model's final norm with its scale and bias, its statistics from h"),
    Option("unit", "Unit", "The same norm with scale 1 and bias 0: the state is only normalised."),
    Option("none", "None", "h as it is: long states are surer than they would be."),
)
SIMILARITIES = (
    Option("dot", "Dot product", "U · h, as the model itself: gives probabilities by softmax."),
    Option("cosine", "Cosine", "U · h / (|U| · |h|) for each row of U: no length counts."),
    Option("euclidean", "Euclidean", "|U − h| for each row of U: the nearest row comes first."),
)
CANDIDATES = (
    Option("top_k", "Top k", "The five best tokens of the cell."),
    Option(
        "subtraction",
        "Subtraction",
        "Take the best token's row off the state and look again (InTraVisTo's secondary tokens).",
    ),
    Option(
        "matching_pursuit",
        "Matching pursuit",
        "Project the best token's direction out, again and again, with the share of |h|² explained"
        " so far (Mallat and Zhang, 1993).",
    ),
)
COLOURS = (
    Option("probability", "Probability", "p of the token shown in the cell."),
    Option("token_probability", "A token's probability", "p of one token in every cell."),
    Option("token_rank", "A token's rank", "1 is best; ties count in its favour; logarithmic."),
    Option(
        "rank_change",
        "Rank change",
        "Rank that the token shown had in the row before, less its rank here; signed logarithm.",
    ),
    Option("entropy", "Entropy", "−Σ p ln p of the cell's distribution, nats. Low: it is sure."),
    Option("kl", "KL to final", "Σ q ln(q / p), q the model's output and p the cell's, nats."),
    Option("cross_entropy", "Cross-entropy", "−ln p of the token that really comes next, nats."),
    Option("share", "Contribution share", "What part of the block's output one part makes."),
    Option("norm", "Norm of the state", "|h|₂ before any norm; logarithmic."),
    Option("cosine", "Cosine to the row before", "h · h′ / (|h| · |h′|), h′ one row lower."),
)
PARTS = (
    Option("attention", "Attention", "The attention output's share."),
    Option("mlp", "MLP", "The MLP output's share."),
    Option("residual", "Residual", "The share of what was there before the block."),
)
WAYS = (
    Option("norm", "Norm", "|part|₂ / Σ |part|₂ over residual, attention and MLP."),
    Option(
        "proximity",
        "Proximity",
        "max(|y|₁ − |part − y|₁, 0), normalised (Ferrando and Voita, 2024).",
    ),
    Option("kl", "Vocabulary KL", "∝ 1 / KL(lens of y ‖ lens of the part), normalised."),
    Option("hidden_kl", "Hidden KL", "The same on softmax over hidden coordinates (InTraVisTo)."),
)
FOLDS = ((1, "All"), (2, "Every 2nd"), (4, "Every 4th"), (8, "Every 8th"))

NO_CHOICE = "Embeddings are tied: it is the same matrix as Output, so the reading is the same."
NO_LENS = "None is trained for this model: stratascope lens train MODEL"
NOT_FITTED = "It was fitted to block outputs, and reads nothing else."
NO_MID = "Attention and MLP run in parallel here: there is no such state."
NO_SCORES = "Cosine and distance give no probabilities: the score is shown instead."
NO_NORM = "This model has no final norm: the state is read as it is."
PLAIN_NORM = "This model's final norm has no scale and no bias: it is the same as Full."
NO_LENGTH = "Cosine sees no length, which is all that Unit changes here: it is the same as Unit."
SEARCHED = "All positions are searched for the text: empty the search to choose some."
NO_PEELING = "Cosine and distance list the nearest rows themselves; nothing is taken off the state."
#: Candidate lists that take tokens off the state, one after the other.
PEELED = ("subtraction", "matching_pursuit")
#: Decoders that are the output under another name where embeddings are tied.
TIED = ("input", "linear", "quadratic", "max_probability")
_LEARNED = "learned"


def components(info: ModelInfo | None) -> list[Option]:
    """What can be read on a model."""
    parallel = info is not None and info.parallel_blocks
    return _barred(COMPONENTS, {"mid_residual": NO_MID} if parallel else {})


def decoders(info: ModelInfo | None, learned: bool, component: str) -> list[Option]:
    """Decoders of a model; those that are one and the same under another name can't be chosen."""
    tied = info is not None and info.tied_embeddings
    barred = dict.fromkeys(TIED, NO_CHOICE) if tied else {}
    if not learned or component != "block_output":
        barred[_LEARNED] = NOT_FITTED if learned else NO_LENS
    return _barred(DECODERS, barred)


def norms(info: ModelInfo | None, similarity: str) -> list[Option]:
    """Norms, less those that are one and the same under another name."""
    if info is None:
        return list(NORMS)
    barred = {"unit": PLAIN_NORM} if info.plain_norm else {}
    if info.norm == "none":
        barred = {"unit": NO_NORM, "none": NO_NORM}
    elif similarity == "cosine" and info.norm == "RMSNorm":
        barred["none"] = NO_LENGTH
    return _barred(NORMS, barred)


def colours(similarity: str) -> list[Option]:
    """Colours, less those that need probabilities where there are none."""
    none = ("token_probability", "entropy", "kl", "cross_entropy")
    return _barred(COLOURS, dict.fromkeys(none, NO_SCORES) if similarity != "dot" else {})


def candidates(similarity: str) -> list[Option]:
    """Candidate lists; cosine and distance have but one."""
    barred = dict.fromkeys(PEELED, NO_PEELING) if similarity != "dot" else {}
    return _barred(CANDIDATES, barred)


def _barred(options: Sequence[Option], reasons: dict[str, str]) -> list[Option]:
    return [
        Option(option.value, option.title, option.help, reasons.get(option.value, option.unless))
        for option in options
    ]
