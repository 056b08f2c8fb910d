"""The options of a flow graph, each a table of choices.

Notation: y is a state, z one of its parts, x the residual, a what attention or the MLP adds. Of
the method effect: a is an edge's attention weight, v the source's value, z the head's mixed value,
m an MLP's output and b its baseline.
"""

from __future__ import annotations

from dataclasses import dataclass

from analysis.contract.choices import LINEAR_HEAD, SEPARATE_HEADS, Choice, Choices, Need
from analysis.tracing.interventions import ABLATION_VALUES


@dataclass(frozen=True, slots=True)
class FlowMethod(Choice):
    """What the links of a flow graph say.

    The function of a method with shares takes a ``flow_graph.methods.Step`` and gives
    ``flow_graph.methods.Shares``. That of a signed method takes (model, trace, spec) and gives the
    ``Graph``.

    Attributes:
        vectors: Whether it needs the vector that each head reads from each source.
        per_head: Whether its attention links have heads; else they are the mean of the heads.
        signed: Whether its links are logits of either sign; else they are shares.
    """

    vectors: bool = False
    per_head: bool = True
    signed: bool = False


BACKWARD = Need(
    "weights that can run backward",
    "4-bit weights can't run backward, as this method needs.",
    lambda situation: situation.model is None or situation.model.quantised != "4bit",
)
PARTS_TO_CUT = Need(
    "attention heads or MLPs",
    "This model has neither attention heads nor MLPs, so no link can be cut.",
    lambda situation: (
        situation.model is None or situation.model.heads > 0 or "mlp" in situation.model.parts
    ),
)

#: The method where effects can't be taken: the model can't run backward, or the graph needs shares.
SHARES = "proximity"
_SHARES = "analysis.flow_graph.methods"
FLOW_METHODS = Choices(
    "flow method",
    FlowMethod(
        "effect", "Effect", "a / (1 − a) · ∂logit/∂z · (v − z) for an edge; ∂logit/∂m · (m − b)"
        " for an MLP",
        "How much a logit falls if the link is cut: estimated with one backward pass, then (option"
        " exact) measured: all links where that costs little, else those whose cut changes a state"
        " much, and MLPs at the root's position."
        " Effects overlap, so they do not sum to the logit.",
        "attribution patching; Nanda, 2023; Kramár et al., 2024",
        (PARTS_TO_CUT, SEPARATE_HEADS, BACKWARD),
        "analysis.flow_graph.effect:effect", signed=True,
        misleads="If another part takes over after a cut, the effect is small although the model"
        " uses the link. An estimate is poor where a softmax or the norm saturates.",
    ),
    FlowMethod(
        "proximity", "Proximity", "max(‖y‖₁ − ‖z − y‖₁, 0)",
        "How close a part z is to the whole y, normalised over all parts.",
        "information flow routes; Ferrando and Voita, 2024", (SEPARATE_HEADS,),
        f"{_SHARES}:proximity", vectors=True,
        misleads="It says what a state is made of, not what the answer depends on. One very large"
        " coordinate can decide all shares, and a part that points away from the state"
        " gets 0.",
    ),
    FlowMethod(
        "norm", "Norm", "‖z‖₂ / Σ ‖z‖₂", "The length of a part. Ignores its direction.",
        needs=(SEPARATE_HEADS,), function=f"{_SHARES}:norm", vectors=True,
        misleads="A long part gets a large share even if other parts cancel it.",
    ),
    FlowMethod(
        "projection", "Projection", "max(⟨y, z⟩, 0)",
        "How far a part z lies along the whole y, normalised over all parts. The scores of all "
        "parts sum to ‖y‖₂² before negative scores are set to 0.",
        needs=(SEPARATE_HEADS,), function=f"{_SHARES}:projection", vectors=True,
        misleads="A part that points against the state gets 0, so the picture hides what cancels.",
    ),
    FlowMethod(
        "residual_norm", "Residual norm", "‖x‖ / (‖x‖ + ‖a‖)",
        "Two parts at a time. Attention's part is divided by the mean pattern of the heads.",
        "InTraVisTo, 2024", function=f"{_SHARES}:residual_norm", per_head=False,
        misleads="Heads are averaged: a head that reads elsewhere than the others disappears."
        " Attention and MLP are split one after the other, by length only.",
    ),
    FlowMethod(
        "kl", "KL", "1 / KL(lens(y) ‖ lens(z))",
        "On distributions over the vocabulary, normalised over residual, attention and MLP."
        " Attention's part is divided by the pattern.",
        function=f"{_SHARES}:kl",
        misleads="A part is decoded without the other parts. One that matters only together with"
        " others decodes to something arbitrary.",
    ),
    FlowMethod(
        "hidden_kl", "Hidden KL", "1 / KL(softmax(N(y)) ‖ softmax(N(z)))",
        "As KL, on a softmax over hidden coordinates.", "InTraVisTo, 2024",
        function=f"{_SHARES}:kl_of_coordinates",
        misleads="Hidden coordinates are not tokens. Another basis of the same states would give"
        " other shares.",
    ),
    FlowMethod(
        "attention", "Attention", "pattern[i, j] / heads",
        "Residual and attention are split by L2 norm, attention's part by the pattern.",
        function=f"{_SHARES}:attention",
        misleads="A weight says where a head reads, not what it moves. Attention sinks get large"
        " weights and move little.",
    ),
    FlowMethod(
        "rollout", "Rollout", "½ · mean pattern of the heads + ½ · identity",
        "In each layer. MLPs carry nothing.", "Abnar and Zuidema, 2020",
        function=f"{_SHARES}:rollout", per_head=False,
        misleads="It ignores values and MLPs, and one half for the residual is an assumption. It"
        " describes patterns, not the model.",
    ),
    FlowMethod(
        "value_weighted", "Value-weighted", "‖pattern[i, j] · v[j] · W_O‖₂",
        "Attention weighted by what it moves.", "Kobayashi et al., 2020", (SEPARATE_HEADS,),
        f"{_SHARES}:value_weighted", vectors=True,
        misleads="A long vector counts even if it points away from the state, or if another head"
        " cancels it.",
    ),
    FlowMethod(
        "signed", "Signed", "U[token] · N(z) with the scale of N frozen at the final state",
        "What each direct path adds to one token's logit, or to the difference of two logits. The"
        " paths sum to the logit.",
        "direct logit attribution; Elhage et al., 2021", (SEPARATE_HEADS, LINEAR_HEAD),
        "analysis.flow_graph.signed:signed", signed=True,
        misleads="It sees direct paths only. A head whose output a later head or MLP uses gets"
        " little or nothing.",
    ),
    help="What the width of a link means.",
)  # fmt: skip

BASELINES = Choices(
    "baseline",
    *ABLATION_VALUES.values(),
    Choice(
        "reference", "Reference mean", "mean over the positions of the reference prompts",
        "Mean ablation over a reference set.",
    ),
    Choice(
        "resample", "Second prompt", "the same position of a second prompt",
        "The graph then shows what differs between the two prompts: attention edges are replaced by"
        " those of the second prompt too, instead of being knocked out.",
        "activation patching; Zhang and Nanda, 2024",
    ),
    help="What replaces a component that is cut.",
)  # fmt: skip

TARGETS = Choices(
    "target",
    Choice("logit", "Logit", "logit[token] − logit[foil]", "The token's logit, or its lead."),
    Choice(
        "kl",
        "KL",
        "−KL(second prompt’s output ‖ output)",
        "How far the output is from that of a second prompt.",
    ),
    help="What an effect is measured on.",
)

DIRECTIONS = Choices(
    "direction",
    Choice("down", "Down", help="Where the chosen state comes from, down to the tokens."),
    Choice(
        "up", "Up",
        help="Everything that the chosen state reaches. Shares refer to the states that it "
        "reaches. If a cell of the last row is chosen, the flow starts at its token.",
    ),
    help="Whether the flow is followed down to the tokens or up from the chosen state.",
)  # fmt: skip

START_TOKEN = Choices(
    "start token",
    Choice("keep", "Keep", help="Attention to the start token is drawn."),
    Choice("loss", "Hide", help="It is hidden, and its mass counts as hidden."),
    Choice("reweight", "Re-weight", help="It is hidden, and each node's other shares are scaled."),
    help="What becomes of attention to a start token or sink at position 0.",
)

LINKS = Choices(
    "kind of link",
    Choice("attention", "Attention", help="From a source position, by one head or all."),
    Choice("residual", "Residual", help="The state that the block reads."),
    Choice("mlp", "MLP", help="What the MLP adds."),
    Choice("bias", "Bias", help="What attention's bias adds."),
    Choice("ssm", "Mixer", help="What a mixer besides attention adds."),
    Choice("per_layer_embedding", "Per-layer embedding", help="What it adds."),
    Choice("whole_block", "Whole block", help="What a block adds that can't be split."),
    help="The kind of the link.",
)

NEURON_ORDERS = Choices(
    "order",
    Choice(
        "logit", "Logit", "U[token] · activation · output direction", "What it adds to a logit."
    ),
    Choice("norm", "Norm", "|activation| · ‖output direction‖₂", "The length of what it writes."),
    help="What neurons are ranked by.",
)
