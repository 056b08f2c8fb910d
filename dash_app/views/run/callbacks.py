"""Wiring of the run view."""

from __future__ import annotations

from typing import Any

from dash import Dash, Input, Output, State, ctx, no_update, set_props
from dash.exceptions import PreventUpdate

from analysis.contract.results import InfoSpec
from dash_app.errors import explain
from dash_app.jobs.progress import begun, job
from dash_app.state.context import Context, Mirror, PageId
from dash_app.state.stores import PARTS, join, read_run
from dash_app.views.run import actions
from dash_app.views.run.layout import RunId, chips, examples

#: What Run asks for is read in the browser when it is pressed (``assets/js/controls.js``).
MIRRORS = {
    name: Mirror(component, (RunId.BUTTON,))
    for name, component in (
        ("model", RunId.MODEL),
        ("prompt", RunId.PROMPT),
        ("new", RunId.NEW),
        ("template", RunId.TEMPLATE),
    )
}


def register(app: Dash, context: Context) -> None:
    """Add the job, what adopts its result, and what reports on it."""
    _register_job(app, context)
    _register_adoption(app, context)
    _register_reports(app, context)
    _register_examples(app)


def _register_job(app: Dash, context: Context) -> None:
    @app.callback(
        Output(RunId.LAST, "data"),
        Input(PageId.REQUEST, "data"),
        **job(context, RunId.PROGRESS, RunId.CANCEL),
    )
    def work(set_progress: Any, asked: dict[str, Any]) -> int:
        # Set, not returned: Dash would hold back every view that hangs on the result, and with
        # it every click on the picture at hand, until the job is over.
        outcome = actions.status(context, join(asked), context.jobs(begun(set_progress)))
        if outcome is None:
            raise PreventUpdate
        set_props(PageId.STATUS, {"data": outcome})
        return int(outcome["attempt"])


def _register_adoption(app: Dash, context: Context) -> None:
    @app.callback(
        Output(PageId.RUN, "data"),
        Input(PageId.STATUS, "data"),
        State(PageId.REQUEST, "data"),
        State(PageId.RUN, "data"),
        prevent_initial_call=True,
    )
    def adopt(status: Any, asked: Any, shown: Any) -> Any:
        return actions.adopt(status, asked, shown) or no_update

    @app.callback(
        Output(PageId.STATUS, "data"),
        Input(PageId.REQUEST, "data"),
        prevent_initial_call=True,
    )
    def remembered(asked: dict[str, Any]) -> Any:
        # What is in the memo need not wait for a job to be polled.
        return actions.remembered(context, join(asked)) or no_update


def _register_reports(app: Dash, context: Context) -> None:
    @app.callback(
        Output(PageId.ALERT, "children"),
        Input(PageId.STATUS, "data"),
        State(PageId.QUERY, "data"),
        *(State(part, "data") for part in PARTS),
        prevent_initial_call=True,
    )
    def ended(status: Any, note: Any, *stored: Any) -> Any:
        told = actions.ended(status, note, join(*stored), context.service.problem)
        return no_update if told is None else told

    @app.callback(
        Output(PageId.ALERT, "children", allow_duplicate=True),
        Input(PageId.REQUEST, "data"),
        Input(PageId.QUERY, "data"),
        Input(RunId.CANCEL, "n_clicks"),
        Input(PageId.DISMISS, "n_clicks"),
        prevent_initial_call=True,
    )
    def said(_asked: Any, note: Any, _cancel: Any, _dismiss: Any) -> Any:
        shown = actions.said(_sources(), note)
        return no_update if shown is None else shown

    @app.callback(Output(RunId.CHIPS, "children"), Input(PageId.RUN, "data"))
    def describe(data: dict[str, Any] | None) -> Any:
        run = read_run(data)
        if run is None:
            return no_update
        try:
            return chips(context.service.ask(run.model, InfoSpec()))
        except Exception as error:  # noqa: BLE001 - chips are not worth a dead page
            explain(error)
            return no_update


def _register_examples(app: Dash) -> None:
    @app.callback(
        Output(RunId.EXAMPLES, "children"),
        Input(RunId.MODEL, "value"),
        prevent_initial_call=True,
    )
    def offer(model: Any) -> Any:
        return examples(str(model or ""))


def _sources() -> frozenset[str]:
    """Ids of all that triggered the callback: Dash may report several at once."""
    return frozenset(str(item["prop_id"]).rpartition(".")[0] for item in ctx.triggered)
