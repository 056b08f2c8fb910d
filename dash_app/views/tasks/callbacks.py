"""Wiring of the tasks view: the form, one job and one drawing a report, exports."""

from __future__ import annotations

from typing import Any

from dash import Dash, Input, Output, State, ctx, no_update
from dash.exceptions import PreventUpdate

from analysis.tasks.suite_specs import OWN
from dash_app.jobs.progress import begun, hand_over, job
from dash_app.state.context import Context, PageId
from dash_app.state.stores import join, read_run
from dash_app.views.tasks import actions, showing
from dash_app.views.tasks.ids import Option, Part, TasksId, of
from dash_app.views.tasks.reports import EVERY, Report

#: The form that all reports share, as the names in ``actions`` have it.
FORM = {
    "model": TasksId.MODEL,
    "suite": TasksId.SUITE,
    "size": TasksId.SIZE,
    "digits": TasksId.DIGITS,
}


def register(app: Dash, context: Context) -> None:
    """Run suites and reports in the background; draw them; hand their numbers out."""
    _register_form(app, context)
    _register_lists(app, context)
    for report in EVERY:
        _register_job(app, context, report)
        _register_drawing(app, context, report)
    _register_exports(app, context)


def _register_form(app: Dash, context: Context) -> None:
    @app.callback(
        Output(TasksId.MODEL, "value"), Input(PageId.REQUEST, "data"), State(PageId.RUN, "data")
    )
    def follow(request: Any, shown: Any) -> Any:
        return _new(join(request).model or context.settings.default_model, model_of(shown))

    @app.callback(
        Output(TasksId.SUM, "children"),
        Output(TasksId.DIGITS, "value"),
        Output(TasksId.DIGITS, "disabled"),
        Input(TasksId.MODEL, "value"),
        State(TasksId.DIGITS, "value"),
        State(TasksId.DIGITS, "disabled"),
    )
    def of_model(model: Any, digits: Any, fixed: Any) -> Any:
        count, own = actions.digits_of(str(model), digits, bool(fixed))
        return actions.own_sum(str(model)), _new(count, digits), own

    @app.callback(
        Output(TasksId.SAID, "children"),
        Output(TasksId.LIST, "data"),
        Output(TasksId.SUITE, "options"),
        Output(TasksId.SUITE, "value"),
        Output(TasksId.UPLOAD, "contents"),
        Input(TasksId.UPLOAD, "contents"),
        State(TasksId.UPLOAD, "filename"),
        prevent_initial_call=True,
    )
    def upload(contents: Any, filename: Any) -> Any:
        if not contents:
            raise PreventUpdate
        limits = context.settings
        found = actions.upload(
            context.service, contents, filename,
            most_bytes=limits.max_list_kib << 10, most_rows=limits.max_suite_prompts,
        )  # fmt: skip
        if found.kept is None:  # what was chosen before stays
            return found.said, no_update, no_update, no_update, None
        return found.said, found.kept, actions.suite_options(found.kept), OWN, None


def _register_lists(app: Dash, context: Context) -> None:
    component, place, column = (
        of("projection", option) for option in (Option.COMPONENT, Option.PLACE, Option.COLUMN)
    )

    @app.callback(
        *(
            Output(name, prop)
            for name in (component, place, column)
            for prop in ("options", "value")
        ),
        Input(TasksId.MODEL, "value"),
        Input(PageId.RUN, "data"),
        Input(of("probes", Part.READY), "data"),
        Input(TasksId.DIGITS, "value"),
        *(State(name, "value") for name in (component, place, column)),
    )
    def fill(model: Any, _run: Any, probed: Any, digits: Any, *chosen: Any) -> Any:
        found = showing.projection_lists(context.service, model, probed, digits, chosen)
        values = [_new(value, held) for value, held in zip(found[1::2], chosen, strict=True)]
        return [one for pair in zip(found[::2], values, strict=True) for one in pair]


def _register_job(app: Dash, context: Context, report: Report) -> None:
    name = report.name
    own = {str(option): of(name, option) for option in report.asks}
    if report.size is not None:
        own["own"] = of(name, Part.SIZE)
    inputs: dict[str, str] = {**FORM, **own}

    @app.callback(
        Output(of(name, Part.LAST), "data"),
        Input(of(name, Part.BUTTON), "n_clicks"),
        State(TasksId.LIST, "data"),
        *(State(component, "value") for component in inputs.values()),
        **job(
            context,
            of(name, Part.BAR),
            of(name, Part.CANCEL),
            [(Output(of(name, Part.BUTTON), "disabled"), True, False)],
        ),
    )
    def work(set_progress: Any, clicks: Any, kept: Any, *values: Any) -> Any:
        if not clicks:
            raise PreventUpdate
        form = {**dict(zip(inputs, values, strict=True)), "list": kept}
        jobs = context.jobs(begun(set_progress), patient=True)
        hand_over(of(name, Part.READY), actions.run(context.service, name, form, jobs))
        return clicks


def _register_drawing(app: Dash, context: Context, report: Report) -> None:
    name = report.name
    lists = [option for option in report.shows if option != Option.CONTROL]

    @app.callback(
        Output(of(name, Part.SUMMARY), "children"),
        Output(of(name, Part.FIGURES), "children"),
        Output(of(name, Part.TOOLS), "hidden"),
        *(Output(of(name, option), prop) for option in lists for prop in ("options", "value")),
        Input(of(name, Part.READY), "data"),
        Input(PageId.SCHEME, "data"),
        *(Input(of(name, option), "value") for option in report.shows),
        prevent_initial_call=True,
    )
    def show(ready: Any, theme: Any, *values: Any) -> Any:
        if not isinstance(ready, dict):
            raise PreventUpdate
        options = dict(zip(report.shows, values, strict=True))
        drawn = showing.show(context.service, name, ready, options, theme)
        if drawn is None:
            return actions.ended(ready), *(no_update,) * (2 + 2 * len(lists))
        filled = [drawn.lists.get(option, ([], None)) for option in lists]
        flat = [value for pair in filled for value in pair]
        return drawn.summary, drawn.figures, not drawn.figures, *flat

    @app.callback(
        Output(of(name, Part.SUMMARY), "children", allow_duplicate=True),
        Input(of(name, Part.CANCEL), "n_clicks"),
        prevent_initial_call=True,
    )
    def cancelled(clicks: Any) -> Any:
        return actions.cancelled() if clicks else no_update


def _register_exports(app: Dash, context: Context) -> None:
    buttons = {
        of(report.name, part): (report.name, part)
        for report in EVERY
        for part in (*(f"csv-{sheet}" for sheet in report.sheets), "json")
    }

    @app.callback(
        Output(TasksId.DOWNLOAD, "data"),
        *(Input(button, "n_clicks") for button in buttons),
        *(State(of(report.name, Part.READY), "data") for report in EVERY),
        prevent_initial_call=True,
    )
    def export(*values: Any) -> Any:
        asked = buttons.get(str(ctx.triggered_id))
        if asked is None or not any(values[: len(buttons)]):
            raise PreventUpdate
        ready = dict(zip((one.name for one in EVERY), values[len(buttons) :], strict=True))
        file = showing.file_of(context.service, *asked, ready[asked[0]])
        if file is None:
            raise PreventUpdate
        return {"content": file.text, "filename": file.name}


def model_of(data: Any) -> str | None:
    """The model of the run that the page shows: another prompt on it sets no model here."""
    run = read_run(data)
    return run.model if run else None


def _new(value: Any, held: Any) -> Any:
    """What a control is set to; nothing where it is so: what was chosen since would be undone."""
    return no_update if value == held else value
