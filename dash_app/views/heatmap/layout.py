"""The panel of the heatmap."""

from __future__ import annotations

from enum import StrEnum

from dash import dcc, html
from dash.development.base_component import Component

from dash_app.jobs.job_and_draw import progress_bar, small_button, stop_button
from dash_app.page.panel import aria, graph, panel
from dash_app.state.context import Context
from dash_app.views.heatmap.options import bar


class LensId(StrEnum):
    """Ids of this view's components."""

    GRAPH = "lens-graph"
    OPTIONS = "lens-options"
    FIND = "lens-find"
    STATE = "lens-state"
    INSPECTOR = "lens-inspector"
    ADDS = "lens-adds"
    DRAWN = "lens-drawn"
    WANTED = "lens-wanted"
    READY = "lens-ready"
    LAST = "lens-last"
    PROGRESS = "lens-progress"
    STOP = "lens-stop"
    RESUME = "lens-resume"


HELP = (
    "Each cell is one state, decoded as if it were the last: softmax(U · N(h)). N is the model's"
    " final norm, computed from the state h itself. U is the unembedding (the logit lens;"
    " nostalgebraist, 2020). The cell shows the best token. The menus change which states are"
    " decoded, how, and what colours the cells. Each option shows its formula and source.",
    "Row 0 is the embedding, and row l is the output of block l − 1. The last row gives the model's"
    " own prediction. A part of layer l (attention, MLP, a head) is drawn at row l + 1, the row"
    " that it writes to. The state at position i predicts token i + 1, which the top line (→)"
    " shows.",
    "Point at a cell to see its candidates. Click a cell to choose it. Double click it to pin its"
    " token in the curves. The arrow keys move the choice. The chosen column is computed first.",
)


def layout(context: Context) -> Component:
    """Controls, caption, heatmap, inspector."""
    body = [
        *(dcc.Store(id=name) for name in (LensId.DRAWN, LensId.WANTED, LensId.READY, LensId.LAST)),
        html.Div(
            [html.Div(bar(context.base()), id=LensId.OPTIONS, className="menu-bar"), _find()],
            className="lens-controls",
        ),
        html.Div(id=LensId.STATE, className="lens-line"),
        _job(),
        html.Div(
            [
                graph(LensId.GRAPH, "Heatmap of layers by tokens", height=560),
                html.Aside(
                    [
                        html.Div(
                            html.Div(className="skeleton skeleton--figure"),
                            id=LensId.INSPECTOR,
                            **aria(live="polite"),
                        ),
                        html.Div(id=LensId.ADDS, className="lens-adds", **aria(live="polite")),
                    ],
                    className="inspector",
                    **aria(label="Chosen cell"),
                ),
            ],
            className="lens-body",
        ),
    ]
    return panel(
        "lens",
        "What each state predicts",
        body,
        help_text=HELP,
        subtitle="Rows are states of the residual stream, from bottom to top. Columns are tokens.",
        wide=True,
    )


def _find() -> Component:
    box = dcc.Input(
        id=LensId.FIND,
        type="search",
        placeholder="find a token…",
        debounce=True,
        maxLength=60,
        className="find-input",
    )
    return html.Label(
        [html.Span("Find", className="visually-hidden"), box],
        title="Show only positions whose token contains this text (press Enter)",
    )


def _job() -> Component:
    stop = stop_button(LensId.STOP)
    resume = small_button("Compute the rest", LensId.RESUME)
    return progress_bar(LensId.PROGRESS, stop, resume)
