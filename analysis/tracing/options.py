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
