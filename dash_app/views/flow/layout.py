"""The flow's panel."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from dash import dcc, html
from dash.development.base_component import Component

from analysis.contract.choices import Choices
from analysis.flow_graph.options import DIRECTIONS, FLOW_METHODS, START_TOKEN
from dash_app.jobs.progress import progress, small_button, stop_button
from dash_app.page.controls import aria
from dash_app.page.panel import FIGURE, GRAPH_CONFIG, blank, control, panel
from dash_app.state.context import Context
from dash_app.state.options import SCALES, SINKS, SPLITS
from dash_app.views.flow.options import options


class FlowId(StrEnum):
    """What callbacks of this view name."""

    GRAPH = "flow-graph"
    BOX = "flow-graph-box"
    PICTURE = "flow-picture"
    CANVAS = "flow-canvas"
    DRAWN = "flow-drawn"
    LAYERS = "flow-layers"
    FILL = "flow-progress-fill"
    LAST = "flow-last"
    READY = "flow-ready"
    OPTIONS = "flow-options"
    SUBTITLE = "flow-subtitle"
    TABLE = "flow-table"
    INSPECTOR = "flow-inspector"
    CUT = "flow-check-cut"
    COMPARE = "flow-check-compare"
    STOP = "flow-check-stop"
    CHECK_PROGRESS = "flow-check-progress"
    CHECK_READY = "flow-check-ready"
    CHECK_LAST = "flow-check-last"
    CHECKED = "flow-checked"


KINDS = (
    ("residual", "residual"),
    ("attention", "attention"),
    ("mlp", "MLP"),
    ("sink", "sink"),
    ("other", "other: not drawn"),
)
ZOOM = (
    ("−", "out", "Zoom out (key -)"),
    ("+", "in", "Zoom in (key +)"),
    ("←", "left", "Move left (Shift and arrow)"),
    ("→", "right", "Move right (Shift and arrow)"),
    ("↑", "up", "Move up (Shift and arrow)"),
    ("↓", "down", "Move down (Shift and arrow)"),
    ("Reset", "reset", "The whole picture (key 0)"),
)
CANVAS_LABEL = (
    "Flow graph. Keys: plus and minus zoom, Shift with arrows moves, 0 resets. The list below has"
    " the same links."
)
LAYERS_HELP = (
    "Which layers are drawn. What lies outside is folded into the picture's edges; the line under"
    " the title says so."
)
SIGNS = (("positive", "raises the logit"), ("negative", "lowers it"))


def _listed(title: str, table: Choices[Any]) -> str:
    """A table in one paragraph."""
    choices = " ".join(f"{choice.label}: {choice.summary}" for choice in table.values())
    return f"{title}. {table.help} {choices}"


HELP = (
    "Where the chosen state comes from, walked back to the embeddings, or what it reaches. A state"
    " is a sum of parts"
    " (each head's reading of each token, the MLP's output, what was there before), and each part"
    " gets a share of the whole.",
    *(f"{method.label}: {method.summary}" for method in FLOW_METHODS.values()),
    "Shares are over all parts, those not drawn included; the line under the title says how much of"
    " the flow the drawn links carry. Main paths are drawn at once, heads summed; the others come"
    ' out when you point at their node. Never more than 300 links: the rest is one "other" link'
    " at the bottom, as tall at each depth as what was left out to the right of it, and the pale"
    " part of each node; so every node and the whole picture add up.",
    _listed("Direction", DIRECTIONS),
    _listed("Heads", SPLITS),
    _listed("Scale", SCALES) + " Layers in which nothing but the residual is drawn are narrow. Zoom"
    " with the buttons, Ctrl and the wheel, or + - 0; drag, or Shift and arrows, to move.",
    _listed("Start token", START_TOKEN),
    _listed("Sinks", SINKS),
    "Click a node to choose that state; click a link to choose its layer and head, and to read what"
    " it writes.",
)


def layout(context: Context) -> Component:
    """Controls, picture, key, table, inspector, causal check."""
    return panel(
        "flow",
        "Where it comes from, and goes",
        [
            dcc.Store(id=FlowId.READY),
            dcc.Store(id=FlowId.LAST),
            dcc.Store(id=FlowId.PICTURE),
            dcc.Store(id=FlowId.DRAWN),
            html.Div(options(context.base()), id=FlowId.OPTIONS, className="flow-options"),
            html.Div(
                html.Div(id=FlowId.FILL, className="progress-fill"),
                className="progress-track flow-progress",
            ),
            control("Layers", _layers(), wide=True),
            _picture(),
            _tools(),
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


def _layers() -> Component:
    slider = dcc.RangeSlider(
        id=FlowId.LAYERS, min=0, max=29, step=1, value=[0, 29], marks=None,
        allow_direct_input=True, tooltip={"placement": "bottom"},
    )  # fmt: skip
    return html.Div(slider, className="layer-slider flow-layers", title=LAYERS_HELP)


def _picture() -> Component:
    """Where the picture by shares is drawn, and the figure of signed flow and of messages."""
    canvas = html.Div(
        id=FlowId.CANVAS,
        className="flow-canvas",
        role="group",
        tabIndex="0",
        **aria(label=CANVAS_LABEL, describedby=FlowId.SUBTITLE),
    )
    return html.Div(
        [
            dcc.Graph(id=FlowId.GRAPH, figure=blank(520), config=GRAPH_CONFIG, responsive=False),
            html.Div(canvas, className="flow-picture"),
        ],
        id=FlowId.BOX,
        className=FIGURE,
    )


def _tools() -> Component:
    """The key, the scale, and buttons to zoom."""

    def items(kinds: tuple[tuple[str, str], ...]) -> list[Component]:
        return [
            html.Span(
                [html.Span(className=f"legend-swatch is-{kind}"), name], className="legend-item"
            )
            for kind, name in kinds
        ]

    bar = [html.Span(className="flow-scale-bar"), html.Span(className="flow-scale-text")]
    scale = html.Span(bar, className="legend-item flow-scale")
    return html.Div(
        [
            html.Div([*items(KINDS), scale], className="legend flow-key-shares"),
            html.Div(items(SIGNS), className="legend flow-key-signed"),
            html.Div([_zoom(*one) for one in ZOOM], className="flow-zoom flow-key-shares"),
        ],
        className="flow-tools",
    )


def _zoom(text: str, what: str, label: str) -> Component:
    more: Any = {"data-flow-zoom": what, "title": label, **aria(label=label)}
    return html.Button(text, type="button", className="button button--small", **more)


def _check() -> Component:
    """Buttons that start the causal check, its progress, and where its result comes."""
    return html.Section(
        [
            dcc.Store(id=FlowId.CHECK_READY),
            dcc.Store(id=FlowId.CHECK_LAST),
            html.H3("Does the picture tell the truth?", className="flow-check-title"),
            html.Div(
                [
                    small_button("Cut the drawn links", FlowId.CUT),
                    small_button("Compare all methods", FlowId.COMPARE),
                    html.Span(
                        "Cuts each link and measures what that does to the logit.",
                        className="control-help",
                    ),
                ],
                className="controls",
            ),
            progress(FlowId.CHECK_PROGRESS, stop_button(FlowId.STOP)),
            html.Div(id=FlowId.CHECKED, className="flow-checked"),
        ],
        className="flow-check",
        **aria(label="Causal check"),
    )
