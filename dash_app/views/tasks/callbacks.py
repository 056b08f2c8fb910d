"""The callbacks of the tasks view: the form, the reports' jobs and drawings, and exports."""

from __future__ import annotations

from functools import partial
from typing import Any

from dash import ClientsideFunction, Dash, Input, Output, State, no_update
from dash.exceptions import PreventUpdate

from analysis.tasks.suite_specs import OWN
from dash_app.jobs.job_and_draw import JobParts, Work, register_work
from dash_app.state.context import Context, PageId, join
from dash_app.views.tasks import actions
from dash_app.views.tasks.reports import EVERY, Part, Report, ReportOption, TasksId, of

#: The part of the form that all reports share, by its names in ``actions``.
FORM = {"suite": TasksId.SUITE, "size": TasksId.SIZE, "digits": TasksId.DIGITS}


def register(app: Dash, context: Context) -> None:
    """Run suites and reports in the background, draw them, and export their numbers."""
    _register_form(app, context)
    _register_reopening(app, context)
    _register_upload(app, context)
    _register_lists(app, context)
    for report in EVERY:
        _register_job(app, context, report)
        _register_drawing(app, context, report)
    _register_exports(app, context)


def _picker(context: Context) -> str:
    """The model picker in the bar."""
    return str(context.mirrors["model"].component)


def _form_of(report: Report) -> dict[str, str]:
    """The components with a report's form, by their names in ``actions``."""
    own = {"own": of(report.name, Part.SIZE)} if report.size is not None else {}
    return {**FORM, **{str(option): of(report.name, option) for option in report.asks}, **own}


def _register_form(app: Dash, context: Context) -> None:
    browser: Any = app.clientside_callback  # Dash has no types for it
    browser(
        ClientsideFunction("stratascope", "reportTasks"),
        *(Input(component, "value") for component in FORM.values()),
        prevent_initial_call=True,
    )
    browser(
        ClientsideFunction("stratascope", "showTasks"),
        Input(PageId.SUITE, "data"),
        Input(PageId.QUERY, "data"),
    )

    @app.callback(
        Output(TasksId.SUM, "children"),
        Output(TasksId.DIGITS, "value"),
        Output(TasksId.DIGITS, "disabled"),
        Input(_picker(context), "value"),
        State(TasksId.DIGITS, "value"),
        State(TasksId.DIGITS, "disabled"),
    )
    def digits(model: Any, digits: Any, fixed: Any) -> Any:
        count, own = actions.digits_of(str(model), digits, bool(fixed))
        return actions.own_sum(str(model)), _if_new(count, digits), own


def _register_reopening(app: Dash, context: Context) -> None:
    """Show the reports of the form that the memo has, so that a link or a reload keeps them."""
    forms = {
        report.name: {name: State(part, "value") for name, part in _form_of(report).items()}
        for report in EVERY
    }

    @app.callback(
        *(Output(of(report.name, Part.READY), "data") for report in EVERY),
        inputs={
            "model": Input(_picker(context), "value"),
            "arrangement": Input(PageId.ARRANGEMENT, "data"),
            "suite": Input(PageId.SUITE, "data"),
            "forms": forms,
            "kept": State(TasksId.LIST, "data"),
            "shown": {report.name: State(of(report.name, Part.READY), "data") for report in EVERY},
        },
        prevent_initial_call=True,
    )
    def reopen(model: Any, arrangement: Any, suite: Any, forms: Any, kept: Any, shown: Any) -> Any:
        if join(arrangement).page != "tasks":
            raise PreventUpdate
        chosen = {"model": model, "list": kept}
        filled = {
            name: actions.from_address({**form, **chosen}, join(suite))
            for name, form in forms.items()
        }
        known = [actions.known(context.service, name, form) for name, form in filled.items()]
        return [
            _if_new(found or held, held) for found, held in zip(known, shown.values(), strict=True)
        ]


def _register_upload(app: Dash, context: Context) -> None:
    @app.callback(
        Output(TasksId.MESSAGE, "children"),
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
        if found.kept is None:  # the earlier choice stays
            return found.message, no_update, no_update, no_update, None
        return found.message, found.kept, actions.suite_options(found.kept), OWN, None


def _register_lists(app: Dash, context: Context) -> None:
    lists = [
        of("projection", option)
        for option in (ReportOption.COMPONENT, ReportOption.PLACE, ReportOption.COLUMN)
    ]

    @app.callback(
        *(Output(name, prop) for name in lists for prop in ("options", "value")),
        Input(_picker(context), "value"),
        Input(PageId.RUN, "data"),
        Input(of("probes", Part.READY), "data"),
        Input(TasksId.DIGITS, "value"),
        *(State(name, "value") for name in lists),
    )
    def fill(model: Any, _run: Any, probed: Any, digits: Any, *chosen: Any) -> Any:
        found = actions.projection_lists(context.service, model, probed, digits, chosen)
        values = [_if_new(value, held) for value, held in zip(found[1::2], chosen, strict=True)]
        return [one for pair in zip(found[::2], values, strict=True) for one in pair]


def _register_job(app: Dash, context: Context, report: Report) -> None:
    name = report.name
    form = {**_form_of(report), "model": _picker(context)}

    def prepare(clicks: Any, kept: Any, **values: Any) -> Work | None:
        if not clicks:
            return None
        return partial(actions.run, context.service, name, {**values, "list": kept})

    parts = JobParts(*(of(name, part) for part in (Part.LAST, Part.BAR, Part.CANCEL)))
    inputs = {
        "clicks": Input(of(name, Part.BUTTON), "n_clicks"),
        "kept": State(TasksId.LIST, "data"),
        **{field: State(component, "value") for field, component in form.items()},
    }
    disabled = [(Output(of(name, Part.BUTTON), "disabled"), True, False)]
    ready = of(name, Part.READY)
    register_work(app, context, ready, parts, inputs, prepare, patient=True, running=disabled)


def _register_drawing(app: Dash, context: Context, report: Report) -> None:
    name = report.name
    lists = [option for option in report.shows if option != ReportOption.CONTROL]

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
    def draw(ready: Any, theme: Any, *values: Any) -> Any:
        if not isinstance(ready, dict):
            raise PreventUpdate
        options = dict(zip(report.shows, values, strict=True))
        drawn = actions.draw(context.service, name, ready, options, theme)
        if drawn is None:
            return actions.message_without_report(ready), *(no_update,) * (2 + 2 * len(lists))
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
    parts = {
        f"{report.name}:{part}": (report.name, part)
        for report in EVERY
        for part in (*(f"csv-{sheet}" for sheet in report.sheets), "json")
    }

    @app.callback(
        Output(TasksId.DOWNLOAD, "data"),
        Input(TasksId.WANTED, "data"),
        *(State(of(report.name, Part.READY), "data") for report in EVERY),
        prevent_initial_call=True,
    )
    def export(pressed: Any, *values: Any) -> Any:
        wanted = parts.get(str(pressed.get("name"))) if isinstance(pressed, dict) else None
        if wanted is None:
            raise PreventUpdate
        ready = dict(zip((one.name for one in EVERY), values, strict=True))
        file = actions.file_of(context.service, *wanted, ready[wanted[0]])
        if file is None:
            raise PreventUpdate
        return {"content": file.text, "filename": file.name}


def _if_new(value: Any, current: Any) -> Any:
    """A new value for a control; none if it is unchanged, to keep a newer choice of the user."""
    return no_update if value == current else value
