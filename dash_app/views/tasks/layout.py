"""The panel of suites: what to run, and what came of it."""

from __future__ import annotations

from dash import dcc, html
from dash.development.base_component import Component

from analysis.tasks import suites
from analysis.tasks.spec import MOST_PROMPTS
from dash_app.components.attributes import aria
from dash_app.components.panel import control, empty, graph, panel
from dash_app.shell import Context
from dash_app.views.tasks.ids import TasksId

HELP = (
    "A suite asks the page's model many questions whose answers are known. An answer is right if"
    " greedy decoding writes all of it, and no further digit.",
    "The curves say for how many answer tokens the model's choice ranks first from that row on"
    " (saturation), for right and for wrong answers; bands are 95 % bootstrap intervals over"
    " prompts. Wrong answers count by their first wrong token.",
    "Two controls: another prompt's answer token in this prompt (so it is as frequent), and the"
    " right token after the prompt with its tokens in another order.",
    "Each dot is a prompt: click one to open it in the page. Sums of the model addition-5digit"
    " always have its five digits.",
)
NOTHING = "Choose a suite and run it. Finished prompts are kept, so a cancelled run goes on."


def layout(_context: Context) -> Component:
    """Controls, progress, and room for the report."""
    return panel(
        "tasks",
        "Many prompts at once",
        [
            dcc.Store(id=TasksId.READY),
            _progress(),
            html.Div(
                empty("No suite has been run", NOTHING), id=TasksId.SUMMARY, **aria(live="polite")
            ),
            html.Div(_results(), id=TasksId.RESULTS, hidden=True),
        ],
        help_text=HELP,
        subtitle="Accuracy, and when answers emerge: right ones, wrong ones, and controls.",
        controls=_controls(),
        wide=True,
    )


def _controls() -> list[Component]:
    suite = dcc.Dropdown(
        id=TasksId.SUITE,
        options=[{"label": suites.title(name), "value": name} for name in suites.NAMES],
        value="addition",
        clearable=False,
        searchable=False,
        style={"minWidth": "15rem"},
    )
    return [
        control("Suite", suite),
        control("Prompts", _number(TasksId.SIZE, 60, MOST_PROMPTS)),
        control("Digits", _number(TasksId.DIGITS, 2, 15)),
        html.Button("Run suite", id=TasksId.BUTTON, type="button", className="button"),
        html.Button("Cancel", id=TasksId.CANCEL, type="button", className="button", disabled=True),
    ]


def _number(name: str, value: int, most: int) -> Component:
    field = dcc.Input(
        id=name, type="number", value=value, min=1, max=most, step=1, className="number-input"
    )
    return html.Div(field, style={"width": "7rem"})  # a flex child would shrink to nothing


def _progress() -> Component:
    return html.Div(
        [
            html.Div(
                html.Div(id=TasksId.FILL, className="progress-fill", style={"width": "0%"}),
                className="progress-track",
            ),
            html.Span("", id=TasksId.LABEL, className="progress-label"),
        ],
        className="progress",
        role="status",
    )


def _results() -> list[Component]:
    return [
        graph(TasksId.BARS, "Share of right answers", height=260),
        graph(TasksId.CURVES, "When answers emerge", height=360),
        graph(TasksId.DOTS, "Prompts: click one to open it", height=220),
        html.Div(id=TasksId.WRONG),
    ]
