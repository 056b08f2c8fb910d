"""The panel of the flow."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from dash import dcc
from dash.development.base_component import Component

from analysis.contract.choices import Choices
from analysis.flow_graph.options import DIRECTIONS, FLOW_METHODS, START_TOKEN
from dash_app.jobs.job_and_draw import progress_bar, start_button, stop_button
from dash_app.page.panel import FIGURE, GRAPH_CONFIG, aria, blank_figure, control
from dash_app.page.panes import Pane
from dash_app.page.thin_layout import Lazy, html
from dash_app.state.context import Context
from dash_app.state.options import EFFECTS, SCALES, SINKS, SPLITS
from dash_app.views.flow.specs import options


class FlowId(StrEnum):
    """Ids of this view's components."""

    GRAPH = "flow-graph"
    BOX = "flow-graph-box"
    PICTURE = "flow-picture"
    CANVAS = "flow-canvas"
    DRAWN = "flow-drawn"
    LAYERS = "flow-layers"
    PROGRESS = "flow-progress"
    STOP_GRAPH = "flow-stop"
    LAST = "flow-last"
    OPTIONS = "flow-options"
    SUBTITLE = "flow-subtitle"
    TABLE = "flow-table"
    INSPECTOR = "flow-inspector"
    HEAD = "flow-head"
    LINK_EFFECT = "flow-link-effect"
    CUT = "flow-check-cut"
    COMPARE = "flow-check-compare"
    STOP = "flow-check-stop"
    CHECK_PROGRESS = "flow-check-progress"
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
    ("⤢", "reset", "The whole picture (key 0)"),
)
CANVAS_LABEL = (
    "Flow graph. Keys: plus and minus zoom, Shift with arrows moves, 0 resets. The tab Links has"
    " the same links."
)
LAYERS_HELP = (
    "The layers that are drawn. The other layers are folded into the edges of the picture; the"
    " caption says which."
)
SIGNS = (("positive", "raises the logit"), ("negative", "lowers the logit"))


def _listed(title: str, table: Choices[Any]) -> str:
    """A table in one paragraph."""
    choices = " ".join(f"{choice.label}: {choice.summary}" for choice in table.values())
    return f"{title}. {table.help} {choices}"


HELP = (
    "The flow follows the chosen state back to the embeddings, or up to what it reaches. A state is"
    " a sum of parts (what each head moves from each token, the MLP's output, and the state below),"
    " and each part has a share of the whole.",
    *(f"{method.label}: {method.summary}" for method in FLOW_METHODS.values()),
    "Shares are computed over all parts, also those that are not drawn. The caption says how much"
    " of the flow the drawn links carry. Main paths are always drawn; point at a node to see its"
    " other links. The picture has at most 300 links. One “other” link at the bottom and the pale"
    " part of each node stand for all omitted links, so that every node and the whole picture add"
    " up. At each depth, the height of the “other” link is the flow that is omitted to the right of"
    " it.",
    _listed("Direction", DIRECTIONS),
    _listed("Heads", SPLITS),
    _listed("Effects", EFFECTS) + " The estimate of a large change can be far off. A dashed line or"
    " an open square is an estimate; a solid one is measured.",
    _listed("Scale", SCALES) + " Layers where only the residual is drawn are narrow. To zoom, use"
    " the buttons, Ctrl and the wheel, or + - 0. To move, drag, or use Shift and the arrow keys.",
    _listed("Start token", START_TOKEN),
    _listed("Sinks", SINKS),
    "Click a node to choose that state. Click a link to choose its layer and head, and to see what"
    " it writes.",
)


def layout(context: Context) -> dict[str, Any]:
    """The picture, the list of its links, the causal check, and the chosen link."""
    title = "Where the information comes from, and where it goes"
    stores = (FlowId.LAST, FlowId.PICTURE, FlowId.DRAWN)
    progress = progress_bar(FlowId.PROGRESS, stop_button(FlowId.STOP_GRAPH))
    body = [*(dcc.Store(id=name) for name in stores), progress, _picture(), _tools()]
    flow = Pane(
        "flow",
        "Flow",
        title,
        body,
        HELP,
        caption="What the answer depends on.",
        caption_id=FlowId.SUBTITLE,
        options={
            "": html.Div(options(context.base()), id=FlowId.OPTIONS),
            "Layers": html.Div(control("Layers", _layers()), className="flow-layer-range"),
        },
    )
    table = html.Div(id=FlowId.TABLE, className="flow-table is-scrolled", tabIndex="0")
    links = Pane(
        "links", "Links", "The links of the flow as a table", table, LINKS_HELP,
        caption="The links of the picture. Click a heading to sort, a link to see what it writes.",
        lazy=False,
    )  # fmt: skip
    return {
        flow.name: flow,
        links.name: links,
        "check": _check(),
        "link": [
            html.Div(id=FlowId.LINK_EFFECT),
            html.Div(id=FlowId.INSPECTOR, className="flow-inspector"),
        ],
        "head": html.Div(id=FlowId.HEAD),
    }


LINKS_HELP = (
    "Each row is a link of the picture. Links that are not drawn are listed as sums, so that the"
    " numbers of each node add up.",
)
CHECK_HELP = (
    "Cut the drawn links: cuts one link after another, and measures the change of the answer's"
    " logit. If the picture is right, the links with the largest shares change the logit most.",
    "Compare all methods: does the same for every method that computes shares, and shows the rank"
    " correlation of each.",
)


def _layers() -> Component:
    slider = dcc.RangeSlider(
        id=FlowId.LAYERS, min=0, max=29, step=1, value=[0, 29], marks=None,
        allow_direct_input=True, tooltip={"placement": "bottom"},
    )  # fmt: skip
    return html.Div(slider, className="flow-layers", title=LAYERS_HELP)


def _picture() -> Component:
    """The canvas of the picture by shares, and the figure of signed flow and of messages."""
    canvas = html.Div(
        id=FlowId.CANVAS,
        className="flow-canvas",
        role="group",
        tabIndex="0",
        **aria(label=CANVAS_LABEL, describedby=FlowId.SUBTITLE),
    )
    return html.Div(
        [
            Lazy(
                dcc.Graph(
                    id=FlowId.GRAPH, figure=blank_figure(), config=GRAPH_CONFIG, responsive="auto"
                ),
                "lazy-flow-graph",  # drawn when there is no picture (assets/js/flow.js)
            ),
            canvas,
        ],
        id=FlowId.BOX,
        className=FIGURE,
    )


def _tools() -> Component:
    """The key, the scale, and buttons to zoom."""

    def items(kinds: tuple[tuple[str, str], ...], key: str) -> list[Component]:
        return [
            html.Span(
                [html.Span(className=f"legend-swatch is-{kind}"), name],
                className=f"legend-item {key}",
            )
            for kind, name in kinds
        ]

    bar = [html.Span(className="flow-scale-bar"), html.Span(className="flow-scale-text")]
    scale = html.Span(bar, className="legend-item flow-scale flow-key-shares")
    zoom = html.Div([_zoom(*one) for one in ZOOM], className="flow-zoom flow-key-shares")
    shares, signed = items(KINDS, "flow-key-shares"), items(SIGNS, "flow-key-signed")
    return html.Div([*shares, scale, *signed, zoom], className="flow-tools legend")


def _zoom(text: str, what: str, label: str) -> Component:
    more: Any = {"data-flow-zoom": what, "title": label, **aria(label=label)}
    return html.Button(text, type="button", className="icon-button", **more)


def _check() -> Pane:
    """Buttons that start the causal check, its progress, and its result."""
    buttons = [
        start_button("Cut the drawn links", FlowId.CUT),
        start_button("Compare all methods", FlowId.COMPARE),
    ]
    body = [
        dcc.Store(id=FlowId.CHECK_LAST),
        html.Div(buttons, className="controls"),
        progress_bar(FlowId.CHECK_PROGRESS, stop_button(FlowId.STOP)),
        html.Div(id=FlowId.CHECKED, className="flow-checked is-scrolled"),
    ]
    return Pane(
        "check", "Causal check", "Is the picture right?", body, CHECK_HELP,
        caption="Cuts each link and measures how the logit changes.",
    )  # fmt: skip
