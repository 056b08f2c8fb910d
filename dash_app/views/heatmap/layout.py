"""The panel of the heatmap."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from dash import dcc
from dash.development.base_component import Component

from dash_app.jobs.job_and_draw import progress_bar, start_button, stop_button
from dash_app.page.panel import data, graph
from dash_app.page.panes import Pane
from dash_app.page.thin_layout import html
from dash_app.state.context import Context


class LensId(StrEnum):
    """Ids of this view's components."""

    GRAPH = "lens-graph"
    OPTIONS = "lens-options"
    FIND = "lens-find"
    STATE = "lens-state"
    INSPECTOR = "lens-inspector"
    ADDS = "lens-adds"
    OVERVIEW = "lens-overview"
    LAST = "lens-last"
    PROGRESS = "lens-progress"
    STOP = "lens-stop"
    RESUME = "lens-resume"


HELP = (
    "Each cell is one state, decoded as if it were the last: softmax(U · N(h)). N is the model's"
    " final norm, computed from the state h itself. U is the unembedding (the logit lens;"
    " nostalgebraist, 2020). The cell shows the best token. The menus change which states are"
    " decoded, how, and what colours the cells. Each option shows its formula and source.",
    "The lowest row is the embedding; above it is the state after each layer. The top row gives the"
    " model's own prediction. A part of a layer (attention, MLP, a head) is drawn in the row after"
    " that layer, to which it writes. The state at position i predicts token i + 1, which the top"
    " line (→) shows.",
    "Above the heatmap of a long run, a strip shows all positions: the probability of the model's"
    " first choice and the entropy of its prediction. The band marks the drawn positions. Click a"
    " position to go there.",
    "Point at a cell to see its candidates. Click a cell to choose it. Double click it to pin its"
    " token in the curves. The arrow keys move the choice. The chosen column is computed first.",
)


def layout(_context: Context) -> dict[str, Any]:
    """The heatmap, and the inspector's parts: the chosen cell, and what a component promotes."""
    body = [
        dcc.Store(id=LensId.LAST),
        html.Div(id=LensId.OVERVIEW),
        graph(LensId.GRAPH, "Heatmap of layers by tokens"),
        _job(),
    ]
    pane = Pane(
        "lens",
        "Predictions",
        "What each state predicts",
        body,
        HELP,
        caption="Rows are states of the residual stream, from bottom to top. Columns are tokens.",
        caption_id=LensId.STATE,
        options={
            "": html.Div(id=LensId.OPTIONS, className="menu-bar"),
            "Search": _find(),
        },
    )
    waiting = html.Div(className="skeleton skeleton--figure")
    return {
        pane.name: pane,
        "cell": html.Div(waiting, id=LensId.INSPECTOR),
        "promoted": html.Div(id=LensId.ADDS),
    }


def _find() -> Component:
    box = dcc.Input(
        id=LensId.FIND,
        type="search",
        placeholder="find a token…",
        debounce=True,
        maxLength=60,
        className="find-input",
    )
    count = html.Div(className="control-help", role="status", **data(find_count=""))
    label = html.Label(
        [html.Span("Find", className="control-label"), box],
        title="Mark the tokens and cells that contain this text",
        className="control",
    )
    steps = html.P(
        "Enter chooses the next match, Shift + Enter the one before.", className="control-help"
    )
    return html.Div([label, count, steps])


def _job() -> Component:
    stop = stop_button(LensId.STOP)
    resume = start_button("Compute the rest", LensId.RESUME)
    return progress_bar(LensId.PROGRESS, stop, resume)
