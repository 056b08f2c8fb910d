"""The flow's panel."""

from __future__ import annotations

from dash import dcc, html
from dash.development.base_component import Component

from dash_app.components.attributes import aria
from dash_app.components.panel import graph, panel
from dash_app.shell import Context
from dash_app.views.flow.ids import FlowId
from dash_app.views.flow.methods import METHODS
from dash_app.views.flow.options import options

KINDS = (("residual", "residual"), ("attention", "attention"), ("mlp", "MLP"), ("sink", "sink"))
SIGNS = (("positive", "raises the logit"), ("negative", "lowers it"))
HELP = (
    "Where the chosen state comes from, walked back to the embeddings. A state is a sum of parts"
    " (each head's reading of each token, the MLP's output, what was there before), and each part"
    " gets a share of the whole. " + " ".join(f"{way.title}: {way.help}" for way in METHODS),
    "Shares are over all parts, those not drawn included; the line under the title says how much of"
    " the flow the drawn links carry. Main paths are drawn at once, heads summed; the others come"
    " out when you point at their node. Never more than 300 links.",
    "A start token or sink is where heads park attention. Hide: its links go, their mass counts as"
    " not shown. Re-weight: the other shares are scaled to sum to 1. Fold: attention to all sinks"
    " ends in a short sink link at each state.",
    "Click a node to choose that state; click a link to choose its layer and head, and to read what"
    " it writes.",
)


def layout(context: Context) -> Component:
    """Controls, picture, key, table, inspector, causal check."""
    return panel(
        "flow",
        "Where it comes from",
        [
            dcc.Store(id=FlowId.READY),
            dcc.Store(id=FlowId.LAST),
            html.Div(options(context.base()), id=FlowId.OPTIONS, className="flow-options"),
            html.Div(
                html.Div(id=FlowId.FILL, className="progress-fill"),
                className="progress-track flow-progress",
            ),
            graph(FlowId.GRAPH, "Flow into the chosen state", height=520),
            _key(),
            html.Div(
                id=FlowId.INSPECTOR,
                className="flow-inspector",
                **aria(label="Chosen link", live="polite"),
            ),
            html.Details(
                [
                    html.Summary("List of these links"),
                    html.Div(id=FlowId.TABLE, className="flow-table"),
                ],
                className="flow-list",
            ),
            _check(),
        ],
        help_text=HELP,
        subtitle="The flow into the chosen state.",
        subtitle_id=FlowId.SUBTITLE,
        wide=True,
    )


def _key() -> Component:
    def items(kinds: tuple[tuple[str, str], ...]) -> list[Component]:
        return [
            html.Span(
                [html.Span(className=f"legend-swatch is-{kind}"), name], className="legend-item"
            )
            for kind, name in kinds
        ]

    return html.Div(
        [
            html.Div(items(KINDS), className="legend flow-key-shares"),
            html.Div(items(SIGNS), className="legend flow-key-signed"),
        ]
    )


def _check() -> Component:
    """Buttons that start the causal check, its progress, and where its result comes."""
    fill = html.Div(id=FlowId.CHECK_FILL, className="progress-fill")
    return html.Section(
        [
            dcc.Store(id=FlowId.CHECK_READY),
            dcc.Store(id=FlowId.CHECK_LAST),
            html.H3("Does the picture tell the truth?", className="flow-check-title"),
            html.Div(
                [
                    _button("Cut the drawn links", FlowId.CUT),
                    _button("Compare all methods", FlowId.COMPARE),
                    html.Span(
                        "Cuts each link and measures what that does to the logit.",
                        className="control-help",
                    ),
                ],
                className="controls",
            ),
            html.Div(
                [
                    html.Div(fill, className="progress-track"),
                    html.Span(id=FlowId.CHECK_LABEL, className="progress-label"),
                    _button("Stop", FlowId.STOP),
                ],
                id=FlowId.CHECK_PROGRESS,
                className="progress is-idle",
                role="status",
            ),
            html.Div(id=FlowId.CHECKED, className="flow-checked"),
        ],
        className="flow-check",
        **aria(label="Causal check"),
    )


def _button(text: str, name: str) -> Component:
    return html.Button(text, id=name, type="button", className="button button--small")
