"""The ways of sharing out the flow: name, formula and source of each."""

from __future__ import annotations

from typing import NamedTuple


class Method(NamedTuple):
    """One method: its value in the selection, its name, and one line of help."""

    value: str
    title: str
    help: str


METHODS = (
    Method(
        "proximity",
        "Proximity",
        "Part z of the whole y: max(‖y‖₁ − ‖z − y‖₁, 0), normalised over all parts"
        " (information flow routes; Ferrando and Voita, 2024).",
    ),
    Method("norm", "Norm", "‖z‖₂ over the sum of all parts' norms; blind to direction."),
    Method(
        "residual_norm",
        "Residual norm",
        "Two parts, ‖x‖ / (‖x‖ + ‖a‖); attention's part divided by the mean pattern of the heads"
        " (InTraVisTo).",
    ),
    Method(
        "kl",
        "KL",
        "1 / KL(p(whole) ‖ p(part)) on vocabulary distributions, normalised over residual,"
        " attention and MLP; attention's part divided by the pattern.",
    ),
    Method(
        "hidden_kl",
        "Hidden KL",
        "The same on a softmax over hidden coordinates, as InTraVisTo has it.",
    ),
    Method(
        "attention",
        "Attention",
        "Residual and attention split by L2 norm; attention's part by pattern / heads.",
    ),
    Method(
        "rollout",
        "Rollout",
        "½ · mean of the heads' patterns + ½ · identity in each layer; MLPs carry none"
        " (Abnar and Zuidema, 2020).",
    ),
    Method(
        "value_weighted",
        "Value-weighted",
        "Attention weighted by what is moved: ‖pattern[i, j] · vⱼ · W_O‖₂ (Kobayashi et al.,"
        " 2020).",
    ),
    Method(
        "signed",
        "Signed",
        "What each direct path adds to one token's logit, or to the difference of two: its vector"
        " through the final norm, scale frozen, times the unembedding (direct logit attribution)."
        " Sums to the logit.",
    ),
)
HELP_OF = {method.value: method.help for method in METHODS}
