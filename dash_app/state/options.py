"""Options that only the page has, as tables of choices; a spec's options are beside the spec.

p is a token's probability in a cell, q the model's output distribution.
"""

from __future__ import annotations

from analysis.contract.choices import (
    ATTENTION,
    LINEAR_HEAD,
    MLP,
    PER_LAYER_EMBEDDING,
    SEPARATE_HEADS,
    STATE_SPACE_MODEL,
    Choice,
    Choices,
)

PARTS = Choices(
    "part of a block",
    Choice("attention", "Attention", help="The attention output's share.", needs=(ATTENTION,)),
    Choice("mlp", "MLP", help="The MLP output's share.", needs=(MLP,)),
    Choice("residual", "Residual", help="The share of the state before the block."),
    help="Whose share of the block's output colours the heatmap.",
)
PROMOTED_BY = Choices(
    "promoting component",
    Choice("", "None"),
    Choice("attention_output", "Attention", needs=(ATTENTION, LINEAR_HEAD)),
    Choice("mlp_output", "MLP", needs=(MLP, LINEAR_HEAD)),
    Choice("head_output", "Head", needs=(ATTENTION, SEPARATE_HEADS, LINEAR_HEAD)),
    Choice("ssm_output", "Mixer", needs=(STATE_SPACE_MODEL, LINEAR_HEAD)),
    Choice("per_layer_embedding_output", "PLE", needs=(PER_LAYER_EMBEDDING, LINEAR_HEAD)),
    Choice("block_increment", "Block", needs=(LINEAR_HEAD,)),
    help="Which component's promoted and suppressed tokens the inspector lists.",
)
DIFFERENCES = Choices(
    "difference",
    Choice(
        "jsd", "Divergence", "H(mean p) − mean H(p)",
        "Jensen-Shannon divergence with equal weights, in nats.", "Lin, 1991",
    ),
    Choice(
        "top1", "Best token", "pairs that differ / pairs",
        "The share of pairs of decoders whose most probable tokens differ.",
    ),
    help="What measures the disagreement of decoders.",
)  # fmt: skip
CURVES = Choices(
    "curve",
    Choice("probability", "p", "p(token)", "Of each pinned token."),
    Choice("log_probability", "ln p", "ln p(token)", "Of each pinned token."),
    Choice("rank", "Rank", "1 + number of tokens with a higher score", "1 is best."),
    Choice("entropy", "Entropy", "−Σ p · ln p", "Of each row, in nats."),
    Choice("kl", "KL", "Σ q · ln(q / p)", "Of each row, in nats."),
    help="What the curves show.",
)
MAIN_PATHS = Choices(
    "rule",
    Choice("sources", "Sources", help="This many of the strongest attention sources of each node."),
    Choice("mass", "Mass", help="The strongest links that carry this much of the mass together."),
    Choice("least", "Share", help="Every link that carries at least this much of the mass."),
    help="Which links of the flow are drawn at once. The others appear on hover.",
)
SINKS = Choices(
    "choice for sinks",
    Choice("draw", "Draw", help="Attention to sinks is drawn."),
    Choice("fold", "Fold", help="It ends in one short sink link at each state."),
    help="What becomes of attention to sinks.",
)
ROOTS = Choices(
    "root",
    Choice("cell", "Cell", help="The flow into the chosen cell."),
    Choice("answer", "Whole answer", help="The flow into all states that predict the answer."),
    help="What the flow leads into.",
)
SPLITS = Choices(
    "split of heads",
    Choice("sum", "Summed", help="Heads that read the same token are one link, split on hover."),
    Choice("group", "By group", help="Heads that share keys and values are one link."),
    Choice("each", "Each", help="Each head is a link of its own."),
    help="How attention links are joined. For shares by pattern the sum is the heads' mean.",
)
EFFECTS = Choices(
    "kind of effects",
    Choice("estimated", "Estimated", help="From one backward pass. Some MLPs are measured."),
    Choice("measured", "Measured", help="The strongest links are cut, each on its own."),
    help="Where the effects of the links come from.",
)
SCALES = Choices(
    "scale",
    Choice("adaptive", "Adaptive", help="The height of a lane follows the flow through it."),
    Choice(
        "fixed", "Fixed",
        help="The whole flow is 36 pixels tall in every picture, so that pictures can be compared.",
    ),
    help="How tall the links are drawn. The key shows the scale.",
)  # fmt: skip
WEIGHTS = Choices(
    "scale of attention weights",
    Choice("linear", "Linear", "colour = w", "Equal steps of colour are equal steps of weight."),
    Choice(
        "root", "Square root", "colour = √w",
        "Small weights can be seen beside a large one. Numbers stay the model's own.",
    ),
    Choice("log", "Logarithmic", "colour = log w", "Weights below 0.001 are one colour."),
    help="How the colour of the attention pattern grows with the weight.",
)  # fmt: skip
FIRST_KEY = Choices(
    "first token",
    Choice("shown", "Shown", help="Every key is drawn."),
    Choice(
        "hidden", "Left out",
        help="The first token's column is not drawn, and colours end at the largest other weight."
        " Many heads put most of their weight there. No weight is rescaled, so the drawn weights of"
        " a row sum to less than 1.",
        source="Xiao et al. 2023, arXiv 2309.17453, attention sinks",
    ),
    help="Whether the column of the first token is drawn in the attention pattern.",
)  # fmt: skip
CIRCUIT_INPUTS = Choices(
    "input of the circuits",
    Choice("embeddings", "Embeddings", help="What the head does with each token's embedding."),
    Choice("states", "States", help="What it does with the states of the chosen row."),
    help="What the head reads in the view of its circuits.",
)  # fmt: skip
VERSIONS = Choices(
    "version of the run",
    Choice("edited", "Edited", help="The run with the edits."),
    Choice("baseline", "Baseline", help="The run without the edits."),
    Choice(
        "difference", "Difference", "p(edited) − p(baseline)",
        "How the edits change the probability of one token in each cell.",
    ),
    help="Which run the heatmap shows.",
)  # fmt: skip
SAMPLING = Choices(
    "sampling",
    Choice("greedy", "Greedy", help="The most probable token, at each step."),
    Choice(
        "sampled", "Sampled",
        help="Each token is drawn from the model's distribution. The seed makes it repeatable.",
    ),
    help="How the tokens of the answer are chosen.",
)  # fmt: skip
PAGES = Choices(
    "page",
    Choice("explore", "Explore", help="One prompt, layer by layer."),
    Choice("compare", "Compare", help="Two prompts: which states carry the answer."),
    Choice("tasks", "Tasks", help="Many prompts with known answers, and how a model adds."),
    Choice("model", "Model", help="The identities of a model, its weights, embeddings and norms."),
    Choice("history", "History", help="Your runs, and the views that you collected."),
    help="What the page shows.",
)
THEMES = Choices(
    "theme",
    Choice("auto", "Auto", help="Follows the browser."),
    Choice("light", "Light"),
    Choice("dark", "Dark"),
    help="Light or dark colours.",
)
