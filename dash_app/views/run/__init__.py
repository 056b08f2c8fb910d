"""Model, prompt, Run and Cancel: everything that requests a run, and reports on it."""

from __future__ import annotations

from functools import partial
from typing import Any

from dash import Dash, Input, Output, State, ctx, no_update

from dash_app.jobs.job_and_draw import JobParts, Work, draw_run, register_job
from dash_app.state.context import Context, Mirror, PageId, View
from dash_app.state.stores import PARTS, join
from dash_app.views.run import actions
from dash_app.views.run.layout import RunId, examples, layout

#: The browser reads the form when Run is pressed (``assets/js/controls.js``).
MIRRORS = {
    name: Mirror(component, (RunId.BUTTON,))
    for name, component in (
        ("model", RunId.MODEL),
        ("prompt", RunId.PROMPT),
        ("new", RunId.NEW),
        ("template", RunId.TEMPLATE),
    )
}
#: The result is handed over to STATUS. If it were returned, Dash would delay every view that
#: depends on it, and with that every click on the current picture, until the job ends.
JOB = JobParts(RunId.LAST, RunId.PROGRESS, PageId.STATUS, RunId.CANCEL)


def register(app: Dash, context: Context) -> None:
    """Add the job, the callbacks that adopt its result, and the messages."""

    def prepare(request: Any) -> Work:
        return partial(actions.status, context, join(request))

    register_job(app, context, JOB, {"request": Input(PageId.REQUEST, "data")}, prepare)
    _register_adoption(app, context)
    _register_messages(app, context)
    draw_run(app, [Output(RunId.CHIPS, "children")], partial(actions.model_chips, context.service))

    @app.callback(
        Output(RunId.EXAMPLES, "children"),
        Input(RunId.MODEL, "value"),
        prevent_initial_call=True,
    )
    def offer(model: Any) -> Any:
        return examples(str(model or ""))


def _register_adoption(app: Dash, context: Context) -> None:
    @app.callback(
        Output(PageId.RUN, "data"),
        Input(PageId.STATUS, "data"),
        State(PageId.REQUEST, "data"),
        State(PageId.RUN, "data"),
        prevent_initial_call=True,
    )
    def adopt(status: Any, request: Any, shown: Any) -> Any:
        return actions.adopt(status, request, shown) or no_update

    @app.callback(
        Output(PageId.STATUS, "data"),
        Input(PageId.REQUEST, "data"),
        prevent_initial_call=True,
    )
    def remembered(request: Any) -> Any:
        # Results in the memo need not wait until the page polls the job.
        return actions.remembered(context, join(request)) or no_update


def _register_messages(app: Dash, context: Context) -> None:
    @app.callback(
        Output(PageId.ALERT, "children"),
        Input(PageId.STATUS, "data"),
        State(PageId.QUERY, "data"),
        *(State(part, "data") for part in PARTS),
        prevent_initial_call=True,
    )
    def after_run(status: Any, note: Any, *stored: Any) -> Any:
        shown = actions.messages_after_run(status, note, join(*stored), context.service.problem)
        return no_update if shown is None else shown

    @app.callback(
        Output(PageId.ALERT, "children", allow_duplicate=True),
        Input(PageId.REQUEST, "data"),
        Input(PageId.QUERY, "data"),
        Input(RunId.CANCEL, "n_clicks"),
        Input(PageId.DISMISS, "n_clicks"),
        prevent_initial_call=True,
    )
    def at_once(_request: Any, note: Any, _cancel: Any, _dismiss: Any) -> Any:
        sources = frozenset(str(item["prop_id"]).rpartition(".")[0] for item in ctx.triggered)
        shown = actions.messages_at_once(sources, note)
        return no_update if shown is None else shown


VIEW = View("run", layout, register, mirrors=MIRRORS)
