"""The panel of suites and reports: what to run, and what came of it."""

from __future__ import annotations

from typing import Any

from dash import dcc, html
from dash.development.base_component import Component

from analysis.tasks import suites
from analysis.tasks.sum_specs import MAX_DIGITS, PATCH_POSITIONS
from dash_app.jobs.progress import progress
from dash_app.page.controls import aria
from dash_app.page.panel import control, empty, helping, panel
from dash_app.state.context import Context
from dash_app.views.tasks.ids import Option, Part, TasksId, of
from dash_app.views.tasks.reports import EVERY, REPORTS, SUITE, Report

HELP = (
    "A suite asks a model many questions whose answers are known. An answer is right if"
    " greedy decoding writes all of it, and no further digit.",
    "The curves say for how many answer tokens the model's choice ranks first from that row on"
    " (saturation, by the logit lens), for right and for wrong answers; bands are 95 % bootstrap"
    " intervals over prompts, no narrower than Wilson's. Wrong answers count by their first wrong"
    " token.",
    "Two controls: another prompt's answer token in this prompt (so it is as frequent), and the"
    " right token after the prompt with its tokens in another order.",
    "A click on any point or cell opens a prompt that it stands for above. Digits are those of an"
    " operand, in the suites of sums and differences and in the reports on sums; other suites have"
    " none. Sums of the model addition-5digit always have its five.",
)
NOTHING = "Choose a suite and run it. Finished prompts are kept, so a cancelled run goes on."
LIST_HELP = (
    "A list of your own: CSV with a header, or JSON lines. Columns prompt and answer (to the"
    " letter, with the leading space of a word), optionally foil; all others are labels."
)
SUITES = [{"label": suites.title(name), "value": name} for name in suites.NAMES]
CHOICES: dict[Option, tuple[str, list[dict[str, str]], str]] = {
    Option.CONTROL: (
        "Show",
        [{"label": "Measured", "value": "no"}, {"label": "Control", "value": "yes"}],
        "no",
    ),
    Option.TRAVELS: (
        "Carry",
        [{"label": "Made next door", "value": "no"}, {"label": "Through a nine", "value": "yes"}],
        "no",
    ),
    Option.POSITIONS: (
        "Patched",
        [{"label": text, "value": name} for name, text in PATCH_POSITIONS.labels],
        PATCH_POSITIONS.default,
    ),
}
#: Label and width in rem of options that are lists; filled from a result.
LISTS: dict[Option, tuple[str, float]] = {
    Option.HEAD: ("Head", 8),
    Option.TARGET: ("Fact", 17),
    Option.COMPONENT: ("Component", 10),
    Option.PLACE: ("Position", 16),
    Option.COLUMN: ("Column", 7),
    Option.PAIR: ("Pair", 26),
}


def layout(context: Context) -> Component:
    """Controls, the suite's report, and the others below."""
    return panel(
        "tasks",
        "Many prompts at once",
        [
            dcc.Store(id=TasksId.LIST),
            dcc.Download(id=TasksId.DOWNLOAD),
            *(
                dcc.Store(id=of(one.name, part))
                for one in EVERY
                for part in (Part.READY, Part.LAST)
            ),
            _own(),
            progress(of(SUITE.name, Part.BAR)),
            html.Div(
                empty("No suite has been run", NOTHING),
                id=of("suite", Part.SUMMARY),
                **aria(live="polite"),
            ),
            _tools(SUITE),
            html.Div(id=of("suite", Part.FIGURES), className="tasks-figures"),
            *(_section(one) for one in REPORTS),
        ],
        help_text=HELP,
        subtitle="Accuracy, emergence with controls, and reports on how sums are done.",
        controls=_controls(context),
        wide=True,
    )


def _controls(context: Context) -> list[Component]:
    models = [{"label": name, "value": name} for name, _ in context.models]
    most = context.settings.max_suite_prompts
    return [
        control("Model", _list(TasksId.MODEL, models, context.settings.default_model, 15)),
        control("Suite", _list(TasksId.SUITE, SUITES, "addition", 15)),
        control("Prompts", _number(TasksId.SIZE, min(60, most), most)),
        control("Digits", _number(TasksId.DIGITS, 2, MAX_DIGITS)),
        _button("Run suite", of("suite", Part.BUTTON), "button button--primary"),
        _button("Cancel", of("suite", Part.CANCEL), "button", disabled=True),
    ]


def _own() -> Component:
    """The notes' own sum, and a list of one's own."""
    upload = dcc.Upload(
        html.Button("Upload a list…", type="button", className="button button--small"),
        id=TasksId.UPLOAD,
        accept=".csv,.jsonl",
        multiple=False,
    )
    return html.Div(
        [
            html.Div(id=TasksId.SUM, className="tasks-sum"),
            html.Div([upload, html.P(LIST_HELP, className="control-help")], className="tasks-own"),
            html.Div(id=TasksId.SAID, className="tasks-said", **aria(live="polite")),
        ],
        className="tasks-top",
    )


def _section(report: Report) -> Component:
    heading = html.Div(
        [html.H3(report.title, className="tasks-title"), helping(report.title, report.help)],
        className="tasks-heading",
    )
    return html.Section(
        [
            heading,
            html.P(report.lead, className="control-help"),
            html.Div(
                [
                    *_size(report),
                    *(_option(report.name, option) for option in report.asks),
                    _button(report.button, of(report.name, Part.BUTTON), "button button--small"),
                    _button(
                        "Cancel",
                        of(report.name, Part.CANCEL),
                        "button button--small",
                        disabled=True,
                    ),
                ],
                className="controls",
            ),
            progress(of(report.name, Part.BAR)),
            html.Div(id=of(report.name, Part.SUMMARY), **aria(live="polite")),
            _tools(report),
            html.Div(id=of(report.name, Part.FIGURES), className="tasks-figures"),
        ],
        className="tasks-report",
        **aria(label=report.title),
    )


def _size(report: Report) -> list[Component]:
    if report.size is None:
        return []
    label, value, most = report.size
    return [control(label, _number(of(report.name, Part.SIZE), value, most))]


def _option(report: str, option: Option) -> Component:
    name = of(report, option)
    if option in CHOICES:
        label, options, value = CHOICES[option]
        return control(
            label,
            dcc.RadioItems(
                id=name, options=options, value=value, inline=True, className="segmented",
                labelClassName="segment", inputClassName="visually-hidden",
            ),
        )  # fmt: skip
    label, width = LISTS[option]
    label = "Each state, carry" if (report, option) == ("patching", Option.COLUMN) else label
    return control(label, _list(name, [], None, width))


def _tools(report: Report) -> Component:
    """What a finished report can be asked for: what is drawn, and its numbers as files."""
    files = [(f"CSV: {sheet}", f"csv-{sheet}") for sheet in report.sheets]
    exports = [
        _button(text, of(report.name, name), "button button--small button--ghost")
        for text, name in (*files, ("JSON: all", "json"))
    ]
    return html.Div(
        [*(_option(report.name, option) for option in report.shows), *exports],
        id=of(report.name, Part.TOOLS),
        className="controls tasks-tools",
        hidden=True,
    )


def _list(name: str, options: Any, value: Any, width: float) -> Component:
    return dcc.Dropdown(
        id=name,
        options=options,
        value=value,
        clearable=False,
        searchable=False,
        style={"minWidth": f"{width}rem"},
    )


def _number(name: str, value: int, most: int) -> Component:
    field = dcc.Input(
        id=name, type="number", value=value, min=1, max=most, step=1, className="number-input"
    )
    return html.Div(field, style={"width": "7rem"})  # a flex child would shrink to nothing


def _button(text: str, name: str, class_name: str, *, disabled: bool = False) -> Component:
    return html.Button(text, id=name, type="button", className=class_name, disabled=disabled)
