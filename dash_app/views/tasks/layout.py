"""The panel of suites and reports: its sections, controls and targets of clicks."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from dash import dcc
from dash.development.base_component import Component

from analysis.tasks import suites
from analysis.tasks.sum_specs import MAX_DIGITS, PATCH_POSITIONS
from dash_app.jobs.job_and_draw import progress_bar, start_button
from dash_app.page.panel import (
    GRAPH_CONFIG,
    aria,
    button,
    control,
    data,
    empty_state,
    field,
    help_lines,
    number_field,
    radio,
    select_field,
    target,
)
from dash_app.page.panes import Pane
from dash_app.page.thin_layout import html
from dash_app.state.context import Context
from dash_app.views.tasks.reports import (
    EVERY,
    REPORTS,
    SUITE,
    Part,
    Report,
    ReportOption,
    TasksId,
    of,
)

HELP = (
    "A suite has many prompts with known answers. An answer is right if greedy decoding writes all"
    " of it and no further digit.",
    "The curves show the share of answer tokens that rank first from that layer to the end"
    " (saturation, by the logit lens), for right and wrong answers. Bands are 95 % bootstrap"
    " intervals over prompts, at least as wide as Wilson's. A wrong answer counts with its first"
    " wrong token.",
    "Choose the model in the bar. The link contains the model, the suite, its size and the digits;"
    " a report that the server still has opens with it. An uploaded list is not part of a link.",
    "There are two controls: another prompt's answer token, followed in this prompt (it is "
    "equally frequent), and the right token after the prompt's tokens are shuffled.",
    "Click a point or a cell to open one of its prompts above. Digits is the number of digits of an"
    " operand, in suites of sums and differences and in the reports on sums. Sums for the model"
    " addition-5digit always have five digits.",
)
NOTHING = (
    "Choose a suite and run it. Finished prompts are kept, so you can continue after a cancel."
)
LIST_HELP = (
    "Your own list: a CSV file with a header, or JSON lines. The columns are prompt, answer (exact,"
    " with the leading space of a word), and optionally foil. All other columns are labels."
)
SUITES = [{"label": suites.title(name), "value": name} for name in suites.NAMES]
CHOICES: dict[ReportOption, tuple[str, list[dict[str, str]], str]] = {
    ReportOption.CONTROL: (
        "Show",
        [{"label": "Measured", "value": "no"}, {"label": "Control", "value": "yes"}],
        "no",
    ),
    ReportOption.TRAVELS: (
        "Carry",
        [
            {"label": "From the next column", "value": "no"},
            {"label": "Through a nine", "value": "yes"},
        ],
        "no",
    ),
    ReportOption.POSITIONS: (
        "Patched",
        [{"label": text, "value": name} for name, text in PATCH_POSITIONS.labels],
        PATCH_POSITIONS.default,
    ),
}
#: Label, and width in rem, of options with a list that a result fills.
LISTS: dict[ReportOption, tuple[str, float]] = {
    ReportOption.HEAD: ("Head", 8),
    ReportOption.TARGET: ("Fact", 17),
    ReportOption.COMPONENT: ("Component", 10),
    ReportOption.PLACE: ("Position", 16),
    ReportOption.COLUMN: ("Column", 7),
    ReportOption.PAIR: ("Pair", 26),
}


def layout(context: Context) -> dict[str, Any]:
    """Controls, the suite's report, and the other reports below."""
    pane = Pane(
        "tasks",
        "Many prompts at once",
        "Many prompts at once",
        [
            html.Div(_controls(context), className="controls mb-2"),
            dcc.Store(id=TasksId.LIST),
            dcc.Store(id=TasksId.WANTED),
            dcc.Download(id=TasksId.DOWNLOAD),
            *(
                dcc.Store(id=of(one.name, part))
                for one in EVERY
                for part in (Part.READY, Part.LAST)
            ),
            _own(),
            progress_bar(of(SUITE.name, Part.BAR)),
            html.Div(
                empty_state("No suite was run yet", NOTHING),
                id=of("suite", Part.SUMMARY),
                **aria(live="polite"),
            ),
            _tools(SUITE),
            html.Div(id=of("suite", Part.FIGURES), className="tasks-figures"),
            *(_section(one) for one in REPORTS),
        ],
        HELP,
        caption="Accuracy, emergence with controls, and reports on how the model adds.",
    )
    return {pane.name: pane}


def _controls(context: Context) -> list[Component]:
    most, form = context.settings.max_suite_prompts, context.base()
    return [
        field("Suite", _list(TasksId.SUITE, SUITES, form.suite, 15)),
        field("Prompts", _number(TasksId.SIZE, min(form.prompts, most), most)),
        field("Digits", _number(TasksId.DIGITS, form.digits, MAX_DIGITS)),
        start_button("Run suite", of("suite", Part.BUTTON), "primary"),
        button("Cancel", of("suite", Part.CANCEL), disabled=True),
    ]


def _own() -> Component:
    """An example sum, and the upload of a list."""
    upload = dcc.Upload(
        button("Upload a list…"),
        id=TasksId.UPLOAD,
        accept=".csv,.jsonl",
        multiple=False,
    )
    return html.Div(
        [
            html.Div(id=TasksId.SUM, className="tasks-sum"),
            html.Div(
                [html.Label(upload), html.P(LIST_HELP, className="control-help")],
                className="tasks-own",
            ),
            html.Div(id=TasksId.MESSAGE, className="tasks-said", **aria(live="polite")),
        ],
        className="tasks-top",
    )


def _section(report: Report) -> Component:
    heading = html.Div(
        [html.H3(report.title, className="tasks-title"), help_lines(report.title, report.help)]
    )
    return html.Section(
        [
            heading,
            html.P(report.lead, className="control-help"),
            html.Div(
                [
                    *_size(report),
                    *(_option(report.name, option) for option in report.asks),
                    start_button(report.button, of(report.name, Part.BUTTON)),
                    button("Cancel", of(report.name, Part.CANCEL), disabled=True),
                ],
                className="controls",
            ),
            progress_bar(of(report.name, Part.BAR)),
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
    return [field(label, _number(of(report.name, Part.SIZE), value, most))]


def _option(report: str, option: ReportOption) -> Component:
    name = of(report, option)
    if option in CHOICES:
        label, options, value = CHOICES[option]
        return control(
            label,
            radio(name, {each["value"]: each["label"] for each in options}, value),
        )
    label, width = LISTS[option]
    label = "Each state, carry" if (report, option) == ("patching", ReportOption.COLUMN) else label
    return field(label, _list(name, [], None, width))


def _tools(report: Report) -> Component:
    """Tools of a finished report: options of what is drawn, and its numbers as files."""
    files = [(f"CSV: {sheet}", f"csv-{sheet}") for sheet in report.sheets]
    exports = [
        html.Button(
            text, type="button", className="btn btn-link px-0",
            **data(report=f"{report.name}:{name}"),
        )
        for text, name in (*files, ("JSON: all", "json"))
    ]  # fmt: skip
    return html.Div(
        [*(_option(report.name, option) for option in report.shows), *exports],
        id=of(report.name, Part.TOOLS),
        className="controls tasks-tools",
        hidden=True,
    )


def _list(name: str, options: Any, value: Any, width: float) -> Component:
    return select_field(name, options, value, f"{width}rem")


def _number(name: str, value: int, most: int) -> Component:
    return number_field(name, value, 1, most)


def prompt_target(model: str, text: str, new: int) -> str:
    """The target that opens a prompt with the tokens of its answer; empty without a prompt."""
    return target(model=model, prompt=text, new=new) if text else ""


def state_target(model: str, text: str, new: int, row: int, pos: int) -> str:
    """The same, with a cell of the heatmap chosen."""
    if not text:
        return ""
    return target(model=model, prompt=text, new=new, row=row, pos=pos, layer=max(row - 1, 0))


def part_target(model: str, text: str, new: int, name: str, pos: int) -> str:
    """The same for a component: "row 2", "head 0.3", "mlp 1", "attention 0", "embedding"."""
    kind, _, where = name.partition(" ")
    if not text:
        return ""
    if kind in ("row", "embedding"):
        return state_target(model, text, new, int(where or 0), pos)
    layer, _, head = where.partition(".")
    cell = state_target(model, text, new, int(layer) + 1, pos)
    return f"{cell}&heads={head}" if head else cell


@dataclass(frozen=True, slots=True)
class Drawn:
    """A drawn report.

    Attributes:
        summary: The first lines.
        figures: Figures with their captions.
        lists: For each option with a list: its items, and the chosen value.
    """

    summary: Any
    figures: list[Component] = dataclasses.field(default_factory=list)
    lists: dict[ReportOption, tuple[list[dict[str, Any]], Any]] = dataclasses.field(
        default_factory=dict
    )


def picture(
    figure: dict[str, Any], caption: str, *, wide: bool = False, name: str = ""
) -> Component:
    """A figure with a caption that says how to read it."""
    more: dict[str, Any] = {"id": name} if name else {}
    title = figure["layout"].get("title", {}).get("text") or caption
    size = {"height": f"{figure['layout']['height']}px"}  # the width is the section's
    return html.Figure(
        [
            html.Div(
                dcc.Graph(figure=figure, config=GRAPH_CONFIG, responsive=True, style=size, **more),
                className="figure scroll-x",
                role="img",
                tabIndex="0",
                **aria(label=title),
            ),
            html.Figcaption(caption, className="control-help"),
        ],
        className=f"tasks-figure{' tasks-figure--wide' if wide else ''}",
    )


def chosen(values: list[Any], wanted: Any, default: Any) -> Any:
    """``wanted`` if it is among the values, else ``default``."""
    return wanted if wanted in values else default
