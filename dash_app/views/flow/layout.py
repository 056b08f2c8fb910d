"""The flow's panel."""

from __future__ import annotations

from dash import dcc, html
from dash.development.base_component import Component

from dash_app.components.go import switch
from dash_app.components.panel import control, graph, panel
from dash_app.shell import Context
from dash_app.views.flow.ids import FlowId

METHODS = (("proximity", "Proximity"), ("attention", "Attention"))
KINDS = (("residual", "residual"), ("attention", "attention"), ("mlp", "MLP"), ("bias", "bias"))
HELP = (
    "Where the chosen state comes from, walked back to the embeddings. A state is a sum of parts"
    " (each head's reading of each token, the MLP's output, what was there before); a part z of a"
    " whole y gets the share max(‖y‖₁ − ‖z − y‖₁, 0), normalised over all parts (information flow"
    " routes; Ferrando and Voita, 2024).",
    "By attention instead: residual and attention split by their L2 norms, and attention's part by"
    " the weights of its pattern over the heads.",
    "Shares are over all parts, those not drawn included; the line under the title says how much of"
    " the flow the drawn links carry. At each node you see the residual, the MLP and the two"
    " strongest attention sources (heads summed), at most 300 links.",
    "Point at a node to bring out its own links; click one to choose that state.",
)


def layout(context: Context) -> Component:
    """Switch, picture, key."""
    method = html.Div(
        switch("method", METHODS, context.base().method, "Shares"),
        id=FlowId.METHOD,
        className="segmented",
    )
    key = html.Div(
        [
            html.Span(
                [html.Span(className=f"legend-swatch is-{kind}"), name], className="legend-item"
            )
            for kind, name in KINDS
        ],
        className="legend",
    )
    return panel(
        "flow",
        "Where it comes from",
        [
            dcc.Store(id=FlowId.READY),
            dcc.Store(id=FlowId.LAST),
            html.Div(
                html.Div(id=FlowId.FILL, className="progress-fill"),
                className="progress-track flow-progress",
            ),
            graph(FlowId.GRAPH, "Flow into the chosen state", height=520),
            key,
        ],
        help_text=HELP,
        subtitle="The flow into the chosen state.",
        subtitle_id=FlowId.SUBTITLE,
        controls=control("Shares by", method),
        wide=True,
    )
