"""The attention patterns of one layer: layer, heads and matrices, and how a click selects."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Any

from dash import ClientsideFunction, Dash, Input, Output, dcc
from dash.development.base_component import Component

from analysis.contract.specs import NO_ATTENTION
from analysis.tracing.specs import PatternResult, PatternSpec, RunResult
from dash_app.page.panel import (
    aria,
    control,
    data,
    error_figure,
    graph,
    message_figure,
    options_of,
    segmented,
    select_button,
    switch,
    target,
)
from dash_app.page.panes import Pane
from dash_app.page.thin_layout import html
from dash_app.page.token_labels import label, percent
from dash_app.state.context import (
    Context,
    Drawing,
    EventHandler,
    PageId,
    Service,
    View,
    result_of,
    trace_of,
)
from dash_app.state.exports import Export
from dash_app.state.options import FIRST_KEY, WEIGHTS
from dash_app.state.selection import Chosen, RunRef, Selection, resolve, toggle
from dash_app.state.update import clicked_point
from dash_app.views.attention.figure import attention


class AttentionId(StrEnum):
    """Ids of this view's components."""

    GRAPH = "attention-graph"
    LAYER = "attention-layer"
    HEADS = "attention-heads"
    SUBTITLE = "attention-subtitle"
    OPTIONS = "attention-options"


HELP = (
    "Rows are queries (the token that reads), columns are keys (the token that is read). Each row"
    " sums to 1: softmax(q · k / √d_head) over the tokens up to the query (Vaswani et al., 2017).",
    "Heads are ordered by how much they write at the chosen position in this layer: the L2 norm of"
    " what the head adds to the residual stream, divided by the sum of these norms. A bright cell"
    " does not mean that the head writes much.",
    "Choose several heads to see them side by side. Without a choice the panel shows the mean of"
    " all heads, which hides much of the structure. Click a cell to choose"
    " this layer's output at the query. The inspector shows what the head moves there from the"
    " key.",
    "Where the cells are lower than a line of text, some names along the axes are left out. The"
    " hover box names each pair; maximise the panel to see all names.",
)


def layout(_context: Context) -> dict[str, Any]:
    """Heads and matrices; the layer is an option."""
    slider = html.Div(
        dcc.Slider(
            id=AttentionId.LAYER,
            min=0,
            max=29,
            step=1,
            value=0,
            marks=None,
            included=False,
            allow_direct_input=True,
            tooltip={"placement": "bottom"},
        ),
        className="layer-slider",
    )
    body = [
        html.Div(
            id=AttentionId.HEADS,
            className="head-list",
            role="group",
            **aria(label="Heads, by how much they write"),
        ),
        graph(AttentionId.GRAPH, "Attention pattern: queries by keys"),
    ]
    pane = Pane(
        "attention",
        "Attention",
        "Which token reads which",
        body,
        HELP,
        caption="Attention of the chosen layer and heads.",
        caption_id=AttentionId.SUBTITLE,
        options={"What": control("Layer", slider), "How": html.Div(id=AttentionId.OPTIONS)},
    )
    return {pane.name: pane}


def select_clicked(value: Any, current: Selection, run: RunRef | None) -> Selection:
    """A click on (query, key) chooses this layer's output at the query, and the link between them.

    The link is that of the clicked head; in the mean of all heads, that of all heads together.
    """
    if run is None:
        return current
    chosen = resolve(current, run)
    pos, key, pane = clicked_point(value, "y", "x", "curveNumber")
    layer = chosen.layer
    head = chosen.heads[pane] if pane < len(chosen.heads) else -1
    change: dict[str, Any] = {"pos": pos, "layer": layer, "row": layer + 1}
    if key <= pos:
        change["link"] = f"attention:{layer}:{key}:{pos}:{head}"
    return current.model_copy(update=change)


def specs(_service: Service, run: RunRef, selection: Selection) -> list[PatternSpec]:
    """The request of the patterns of the chosen layer, all heads."""
    return [PatternSpec(resolve(selection, run).layer)]


def draw(
    service: Service, run: RunRef, selection: Selection, theme: Any
) -> tuple[Any, Any, str, list[Component]]:
    """The matrices, the list of heads, a sentence about the strongest weight, and the options."""
    try:
        chosen, result = resolve(selection, run), result_of(service, run)
        if not result.info.heads:
            return message_figure(NO_ATTENTION), [], "No attention to show.", []
        pattern = service.ask(trace_of(run), PatternSpec(chosen.layer))
        scaling: Any = selection.weights
        figure = attention(
            pattern, result, heads=chosen.heads, pos=chosen.pos, theme=theme,
            scaling=scaling, first_key=selection.first_key == "shown",
        )  # fmt: skip
        heads = head_list(pattern, chosen.pos, chosen.heads)
        words = f"{_strongest(pattern, result, chosen)}{drawn_as(selection)}"
        return figure, heads, words, options(selection)
    except Exception as error:  # noqa: BLE001 - shown in place of the figure
        return error_figure(error), [], "", options(selection)


def options(selection: Selection) -> list[Component]:
    """The scale of the colours, and whether the first token is a column."""
    return [
        control("Colours", segmented(
            switch("weights", options_of(WEIGHTS), selection.weights, "Colours")
        )),
        control("First token", segmented(
            switch("first_key", options_of(FIRST_KEY), selection.first_key, "First token")
        )),
    ]  # fmt: skip


def drawn_as(selection: Selection) -> str:
    """What differs from a plain picture of the weights, in words."""
    scaled = {"root": " Colours show the square root of the weight.",
              "log": " Colours show the logarithm of the weight."}  # fmt: skip
    without = " The first token's column is left out; no weight is rescaled."
    return scaled.get(selection.weights, "") + (without if selection.first_key == "hidden" else "")


def _strongest(pattern: PatternResult, result: RunResult, chosen: Chosen) -> str:
    weights = pattern.pattern[list(chosen.heads) or slice(None), chosen.pos].mean(axis=0)
    query = label(result.tokens[chosen.pos])
    if math.isnan(weights[0]):
        return f"Layer {chosen.layer} has no attention."
    key = int(weights.argmax())
    read = "itself" if key == chosen.pos else f"{label(result.tokens[key])} ({key})"
    return (
        f"In layer {chosen.layer}, {query} ({chosen.pos}) reads {read} most:"
        f" {percent(float(weights[key]))}."
    )


def head_list(pattern: PatternResult, pos: int, chosen: tuple[int, ...]) -> list[Component]:
    """One button for each head, ordered by how much the head writes, and one for the mean."""
    shares = pattern.head_share[:, pos]
    order = sorted(range(len(shares)), key=lambda head: -float(shares[head]))
    most = max(float(shares[order[0]]), 1e-9)
    mean = select_button(
        "mean",
        target(heads=()),
        f"head{'' if chosen else ' is-selected'}",
        label="Mean of all heads",
        pressed=not chosen,
    )
    return [mean, *(_head(head, float(shares[head]), most, chosen) for head in order)]


def _head(head: int, share: float, most: float, chosen: tuple[int, ...]) -> Component:
    on = head in chosen
    width = f"{share / most * 100:.0f}%" if math.isfinite(share) else "0%"
    return select_button(
        [
            html.Span(f"H{head}", className="head-name"),
            html.Span(percent(share), className="head-share num"),
            html.Span(className="head-bar", style={"width": width}),
        ],
        toggle("heads", head, chosen),
        f"head{' is-selected' if on else ''}",
        label=f"Head {head}, writes {percent(share)}",
        pressed=on,
        further=data(change=target(heads=(head,))),
    )


DRAWING = Drawing(
    "attention",
    (
        Output(AttentionId.GRAPH, "figure"),
        Output(AttentionId.HEADS, "children"),
        Output(AttentionId.SUBTITLE, "children"),
        Output(AttentionId.OPTIONS, "children"),
    ),
    draw,
    parts=(PageId.FOCUS, PageId.CELL),
    theme=True,
)


def register(app: Dash, _context: Context) -> None:
    """Let the browser set the slider of layers."""
    browser: Any = app.clientside_callback  # Dash has no types for it
    browser(
        ClientsideFunction("stratascope", "reportAttentionLayer"),
        Input(AttentionId.LAYER, "value"),
        prevent_initial_call=True,
    )
    browser(
        ClientsideFunction("stratascope", "showAttentionLayer"),
        Input(PageId.FOCUS, "data"),
        Input(PageId.RUN, "data"),
        Input(PageId.QUERY, "data"),
    )


VIEW = View(
    "attention",
    layout,
    register,
    (EventHandler(AttentionId.GRAPH, "clickData", select_clicked),),
    drawings=(DRAWING,),
    exports={"attention": Export(specs, DRAWING.name)},
)
