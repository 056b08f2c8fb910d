"""The options of interventions, each a table of choices. h is the state that is edited."""

from __future__ import annotations

from analysis.contract.choices import Choice, Choices

ABLATION_VALUES = Choices(
    "ablation value",
    Choice("zero", "Zero", "0", "Zero ablation."),
    Choice(
        "mean", "Mean", "mean over the positions of the run",
        "Mean ablation. A head's mean is taken before the output projection.",
    ),
    help="What replaces an ablated output.",
)  # fmt: skip

PATTERN_DTYPES = Choices(
    "pattern dtype",
    Choice("float32", "32 bits", "", "The weights as the model computes them."),
    Choice(
        "float16", "16 bits", "",
        "It rounds each weight by at most 0.05 %, and a weight below 0.00006 by at most 3e-8.",
    ),
    help="The numbers in which a trace keeps attention patterns.",
)  # fmt: skip

INJECTION_MODES = Choices(
    "injection mode",
    Choice("replace", "Replace", "e", "The token's input embedding replaces the state."),
    Choice(
        "main_component", "Main component", "h + (h · f) · (e − f)",
        "Only the state's largest unembedding direction f, the unit row of its top token, is turned"
        " into the token's unit row e.",
        "InTraVisTo, 2024",
    ),
    help="The part of the state that the token's embedding replaces.",
)  # fmt: skip
