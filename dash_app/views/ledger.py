"""The ledger: the badge beside the model picker, and every identity with its error."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from typing import Any

from dash import Dash, Output, dcc
from dash.development.base_component import Component

from analysis.contract.ledger import Ledger, LedgerEntry, LedgerSpec, ModelLedgerSpec
from dash_app.errors import Problem, explain
from dash_app.jobs.job_and_draw import (
    JobParts,
    Work,
    fill_id,
    label_id,
    register_job,
    run_safely,
    stored_problem,
)
from dash_app.page.panel import aria, data
from dash_app.page.panes import Pane
from dash_app.page.thin_layout import html
from dash_app.state.context import (
    Context,
    Drawing,
    JobStart,
    NewJob,
    PageId,
    Service,
    View,
    result_of,
    trace_of,
)
from dash_app.state.exports import Export
from dash_app.state.selection import RunRef, Selection, resolve


class LedgerId(StrEnum):
    """Ids of this view's components."""

    MODEL = "ledger-model"
    RUN = "ledger-run"
    SUBTITLE = "ledger-subtitle"
    PROGRESS = "ledger-progress"
    LAST = "ledger-last"


HELP = (
    "Every picture relies on identities: the parts of a state sum to the state, the logit lens at"
    " the last row gives the model's own logits, and the flow into a node equals the flow out of"
    " it. They are measured when the model is loaded (on two short probes of random tokens) and on"
    " this run. The badge beside the model is the run's.",
    "An error is relative: the norm of the difference divided by the largest norm among the parts."
    " The limits are 1e-5 for float32 sums and 1e-4 for logits, and 2e-2 for 16-bit and quantised"
    " models (5e-2 for the heads of quantised weights), whose badge is amber. A model that fails"
    " one of the first five identities is refused.",
)
#: colour of a ledger -> (class, mark, word)
BADGES = {
    "green": ("is-ok", "✓", "adds up"),
    "amber": ("is-warn", "≈", "adds up roughly"),
    "red": ("is-bad", "✕", "does not add up"),
}


def layout(_context: Context) -> dict[str, Any]:
    """Two tables side by side: the model's identities and this run's."""
    pane = Pane(
        "ledger",
        "Identities",
        "Does it add up?",
        [
            dcc.Store(id=LedgerId.LAST),
            _progress(),
            html.Div(
                [
                    html.Div(_waiting("The model"), id=LedgerId.MODEL, className="ledger-part"),
                    html.Div(_waiting("This run"), id=LedgerId.RUN, className="ledger-part"),
                ],
                className="ledger-parts",
            ),
        ],
        HELP,
        caption="The identities that the pictures rely on, and their errors.",
        caption_id=LedgerId.SUBTITLE,
    )
    return {pane.name: pane}


def _progress() -> Component:
    fill = html.Div(id=fill_id(LedgerId.PROGRESS))
    return html.Div(
        [
            html.Div(fill, className="visually-hidden"),
            html.Span("", id=label_id(LedgerId.PROGRESS), className="job-label"),
        ],
        role="status",
    )


def _waiting(title: str) -> list[Component]:
    return [html.H3(title), html.P("Measured after the first run.", className="muted")]


def specs(_service: Service, run: RunRef, selection: Selection) -> list[Any]:
    """The requests of both tables, the run's first."""
    return [LedgerSpec(resolve(selection, run).pos), ModelLedgerSpec()]


def measure(
    service: Service, run: RunRef, selection: Selection, job: NewJob
) -> dict[str, Any] | None:
    """Measure what the memo lacks, the run before the model: the badge is the run's."""

    def work() -> int:
        position = resolve(selection, run).pos
        service.ask(trace_of(run), LedgerSpec(position), job(0.0, 0.4))
        service.ask(run.model, ModelLedgerSpec(), job(0.4, 1.0))
        return position

    return run_safely(work)


def draw(
    service: Service, run: RunRef, selection: Selection, ready: dict[str, Any] | None
) -> tuple[Any, Any, Any]:
    """The run's badge, the model's table and the run's table.

    If one of the tables fails, the other is still shown.
    """
    position = resolve(selection, run).pos
    try:
        own = service.ask(trace_of(run), LedgerSpec(position))
        mark, of_run = badge(own, position), table(f"This run, at position {position}", own)
    except Exception as error:  # noqa: BLE001 - shown in place of the table
        problem = stored_problem(ready) or explain(error)
        mark, of_run = unmeasured(problem), _failed(problem)
    try:
        model = service.ask(run.model, ModelLedgerSpec())
        name = result_of(service, run).info.name
        of_model = table(f"{name}, on random probes", model)
    except Exception as error:  # noqa: BLE001 - shown in place of the table
        of_model = _failed(stored_problem(ready) or explain(error))
    return mark, of_model, of_run


def _failed(problem: Problem) -> list[Component]:
    text = f"{problem.message} {problem.hint} Request {problem.request}"
    return [html.P(text, className="muted")]


def badge(ledger: Ledger, position: int) -> Component:
    """A chip that says whether a run adds up, with the largest error; links to the panel."""
    style, mark, word = BADGES[ledger.colour]
    error = f"{ledger.largest_error:.0e}"
    found = f"{len(ledger.entries)} identities of this run at position {position}"
    return _chip(f"{mark} {word}, error {error}", style, f"Largest relative error of {found}.")


def unmeasured(problem: Problem) -> Component:
    """The chip of a run whose identities could not be measured."""
    return _chip("? not measured", "is-warn", problem.message)


def _chip(label: str, style: str, title: str) -> Component:
    return html.A(
        label,
        href="?page=model",
        className=f"model-chip text-decoration-none {style}",
        title=f"{title} Click to see all identities.",
        **data(page_link="model"),
    )


def table(title: str, ledger: Ledger) -> list[Component]:
    """A table of identities."""
    heads = ("", "Identity", "Largest error", "Allowed")
    return [
        html.H3(title),
        html.Table(
            [
                html.Thead(html.Tr([html.Th(head, scope="col") for head in heads])),
                html.Tbody([_row(entry, exact=ledger.exact) for entry in ledger.entries]),
            ],
            className="table ledger-table",
        ),
    ]


def _row(entry: LedgerEntry, *, exact: bool) -> Component:
    colour = "red" if not entry.passed else "green" if exact else "amber"
    style, mark, word = BADGES[colour]
    note = html.Div(entry.note, className="muted") if entry.note else None
    return html.Tr(
        [
            html.Td(mark, className=f"ledger-mark {style}", **aria(label=word)),
            html.Td([entry.name, note]),
            html.Td(f"{entry.error:.1e}", className="num"),
            html.Td(f"{entry.tolerance:.0e}", className="num"),
        ]
    )


DRAWING = Drawing(
    "ledger",
    (
        Output(PageId.BADGE, "children"),
        Output(LedgerId.MODEL, "children"),
        Output(LedgerId.RUN, "children"),
    ),
    draw,
    parts=(PageId.CELL,),
    job=JobStart.AUTOMATIC,
)
JOB = JobParts(LedgerId.LAST, LedgerId.PROGRESS)


def register(app: Dash, context: Context) -> None:
    """Measure for every run and position."""

    def prepare(run: RunRef, selection: Selection) -> Work:
        return partial(measure, context.service, run, selection)

    register_job(app, context, DRAWING, JOB, prepare)


VIEW = View(
    "ledger",
    layout,
    register,
    drawings=(DRAWING,),
    exports={"ledger": Export(specs)},
)
