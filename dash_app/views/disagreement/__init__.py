"""The heatmap of disagreement between decoders: its panel, job and drawing."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from typing import Any

from dash import Dash, Input, Output, dcc, no_update
from dash.development.base_component import Component

from analysis.contract.choices import Situation
from analysis.learned import library
from analysis.lens.options import DECODERS
from analysis.lens.results import Disagreement
from analysis.lens.specs import DisagreementSpec
from analysis.tracing.specs import RunResult
from dash_app.jobs.job_and_draw import (
    JobParts,
    Work,
    progress_bar,
    register_job,
    run_safely,
    start_button,
    stop_button,
    stored_problem,
)
from dash_app.page.panel import (
    Option,
    aria,
    blank_figure,
    control,
    error_figure,
    graph,
    options_of,
    problem_figure,
    select_button,
    switch,
)
from dash_app.page.panes import Pane
from dash_app.page.thin_layout import html
from dash_app.page.window import PAGE, Window, describe_window, window
from dash_app.state.context import (
    Context,
    Drawing,
    JobStart,
    NewJob,
    PageId,
    Service,
    Shown,
    View,
    result_of,
    trace_of,
)
from dash_app.state.exports import Export
from dash_app.state.options import DIFFERENCES
from dash_app.state.selection import RunRef, Selection, resolve, toggle
from dash_app.views.disagreement.figure import disagreement


class DisagreementId(StrEnum):
    """Ids of this view's components."""

    GRAPH = "disagreement-graph"
    BOX = "disagreement-graph-box"
    OPTIONS = "disagreement-options"
    SUBTITLE = "disagreement-subtitle"
    NOTE = "disagreement-note"
    START = "disagreement-start"
    STOP = "disagreement-stop"
    PROGRESS = "disagreement-progress"
    LAST = "disagreement-last"


HELP = (
    "The same state, decoded by several decoders. If they disagree, do not trust any one of them.",
    *(f"{choice.label}: {choice.summary}" for choice in DIFFERENCES.values()),
    *(f"{choice.label}: {choice.summary}" for choice in DECODERS.values() if choice.single),
    "Norm, rows and positions are those of the tab Predictions.",
    "Click a cell to choose it. Double click a cell to pin its token.",
)


def layout(_context: Context) -> dict[str, Any]:
    """Decoders to choose, a button, and the heatmap."""
    pane = Pane(
        "disagreement",
        "Decoders",
        "Where decoders disagree",
        [
            dcc.Store(id=DisagreementId.LAST),
            html.Div(
                [
                    start_button("Compare decoders", DisagreementId.START),
                    html.Span(id=DisagreementId.NOTE, className="control-help"),
                ],
                className="controls",
            ),
            progress_bar(DisagreementId.PROGRESS, stop_button(DisagreementId.STOP)),
            graph(DisagreementId.GRAPH, "Heatmap of disagreement between decoders"),
        ],
        HELP,
        caption="The colour shows how much several decoders differ on the same state.",
        caption_id=DisagreementId.SUBTITLE,
        options={"How": html.Div(id=DisagreementId.OPTIONS)},
    )
    return {pane.name: pane}


def options(decoders: list[Option], chosen: tuple[str, ...], differ: str) -> list[Component]:
    """Decoders to choose, and the measure of their difference."""
    ticks = [_tick(option, chosen) for option in decoders]
    measures = switch("differ", options_of(DIFFERENCES), differ, "Differ by")
    return [
        control("Decoders", html.Div(ticks, className="segmented")),
        control("Differ by", html.Div(measures, className="segmented")),
    ]


def _tick(option: Option, chosen: tuple[str, ...]) -> Component:
    if option.unless:
        return html.Button(
            option.title,
            type="button",
            className="btn btn-outline-secondary segment is-barred",
            disabled=True,
            title=option.unless,
            **aria(label=f"{option.title}: {option.unless}"),
        )
    on = option.value in chosen
    return select_button(
        option.title,
        toggle("readers", option.value, chosen),
        f"btn btn-outline-secondary segment{' is-selected' if on else ''}",
        label=f"{'Leave out' if on else 'Compare'} {option.title}",
        pressed=on,
        title=option.help,
    )


#: Figure, controls, note, whether the button is disabled.
Drawn = tuple[Any, Any, str, bool]

#: The decoders that are compared by default.
DEFAULT = ("output", "input", "linear", "learned")
ONE_READING = (
    "This model has only one decoder: its embeddings are tied, so the input decoder and its mixes"
    " equal the output decoder. To compare, train a lens with 'stratascope lens train MODEL'."
)
TOO_FEW = "Choose at least two decoders."
WAITING = "Press Compare decoders. It takes seconds to a minute: every decoder decodes every cell."


def decoders(result: RunResult, learned: bool) -> list[Option]:
    """Decoders to compare; those that this model rules out say why."""
    here = Situation(result.info, learned)
    return [option for option in options_of(DECODERS, here) if DECODERS[option.value].single]


def readers(selection: Selection, result: RunResult, learned: bool) -> tuple[str, ...]:
    """The decoders that are compared: the chosen ones, or the default."""
    names = [option.value for option in decoders(result, learned) if not option.unless]
    return tuple(name for name in names if name in (selection.readers or DEFAULT))


def wanted(
    run: RunRef, result: RunResult, selection: Selection, learned: bool
) -> tuple[DisagreementSpec | None, Window]:
    """The spec to compute (None for fewer than two decoders), and the window to draw."""
    chosen = resolve(selection, run)
    shown = window(
        result, False, row=chosen.row, pos=chosen.pos,
        show=selection.show, fold=selection.fold,
    )  # fmt: skip
    names = readers(selection, result, learned)
    if len(names) < 2 or not shown.positions:
        return None, shown
    positions = None if shown.whole else shown.positions
    return DisagreementSpec(names, selection.norm, positions=positions), shown


def specs(service: Service, run: RunRef, selection: Selection) -> list[DisagreementSpec]:
    """The request of the comparison; none with fewer than two decoders."""
    learned = library.available(run.model) is not None
    spec, _ = wanted(run, result_of(service, run), selection, learned)
    return [] if spec is None else [spec]


def compute(
    service: Service, run: RunRef, selection: Selection, job: NewJob
) -> dict[str, Any] | None:
    """Compare the decoders, unless the memo has the result."""

    def work() -> str:
        learned = library.available(run.model) is not None
        spec, _ = wanted(run, result_of(service, run), selection, learned)
        if spec is not None:
            service.ask(trace_of(run), spec, job(0.0, 1.0))
        return repr(spec)

    return run_safely(work)


def draw(
    service: Service, run: RunRef, selection: Selection, theme: Any, ready: dict[str, Any] | None
) -> Drawn:
    """The figure if it is computed, else what to do."""
    try:
        learned = library.available(run.model) is not None
        result = result_of(service, run)
        names = readers(selection, result, learned)
        offered = decoders(result, learned)
        controls: list[Component] = options(offered, names, selection.differ)
        if problem := stored_problem(ready):
            return problem_figure(problem, 200), controls, "", False
        spec, shown = wanted(run, result, selection, learned)
        if spec is None:
            alone = sum(not option.unless for option in offered) < 2
            return blank_figure(20), controls, ONE_READING if alone else TOO_FEW, True
        found = service.peek(trace_of(run), spec)
        if found is None and ready is not None and ready.get("done") == repr(spec):
            found = service.ask(trace_of(run), spec)  # the memo could not store it
        if found is None:
            return blank_figure(20), controls, WAITING, False
        figure = _figure(found, result, run, selection, shown, theme)
        return figure, controls, note(found, shown, selection), True
    except Exception as error:  # noqa: BLE001 - shown in place of the figure
        return error_figure(error), [], "", False


def draw_moved(
    service: Service,
    run: RunRef,
    selection: Selection,
    theme: Any,
    ready: dict[str, Any] | None,
    note: str | None,
) -> Shown:
    """The same, unless only the outline moved, which the browser does."""
    now = key(run, selection, theme, ready)
    if now == note and same_picture(run, selection):
        return Shown((no_update,) * 4, note=now)
    return Shown(draw(service, run, selection, theme, ready), note=now)


def key(run: RunRef, selection: Selection, theme: Any, ready: Any) -> str:
    """Names the picture, whatever cell is chosen."""
    anywhere = selection.model_copy(update={"row": None, "pos": None, "attempt": 0})
    return repr((run.token_ids, run.edits, anywhere, theme, ready))


def same_picture(run: RunRef, selection: Selection) -> bool:
    """Whether the picture is the same for every chosen cell; the browser moves the outline."""
    return len(run.token_ids) <= PAGE and selection.fold == 1


def _figure(
    found: Disagreement,
    result: RunResult,
    run: RunRef,
    selection: Selection,
    shown: Window,
    theme: Any,
) -> Any:
    chosen = resolve(selection, run)
    return disagreement(
        found,
        result,
        shown,
        differ=selection.differ,
        row=chosen.row,
        pos=chosen.pos,
        theme=theme,
    )


def _folded(shown: Window) -> str:
    """A note that the numbers include rows that are not drawn."""
    return " Hidden rows count too." if len(shown.rows) < len(shown.all_rows) else ""


def note(found: Disagreement, shown: Window, selection: Selection) -> str:
    """The decoders compared, how much they agree overall, and which of them coincide."""
    names = ", ".join(DECODERS[name].label.lower() for name in found.decoders)
    agree = float(found.agreement.mean())
    text = (
        f"{names.capitalize()}, {selection.norm} norm: {agree:.0%} of pairs have the same best"
        f" token; mean divergence {float(found.divergence.mean()):.2f} nats."
        f"{_folded(shown)} Shown: {describe_window(shown)}."
    )
    for group in found.coincide:
        same = " and ".join(DECODERS[name].label.lower() for name in group)
        text += f" On this model {same} coincide, so their agreement has no meaning."
    return text


#: The parts of the selection that decide which decoders are compared.
COMPARED = (PageId.LENS, PageId.WINDOW, PageId.DIFFER)
DRAWING = Drawing(
    "disagreement",
    (
        Output(DisagreementId.GRAPH, "figure"),
        Output(DisagreementId.OPTIONS, "children"),
        Output(DisagreementId.NOTE, "children"),
        Output(DisagreementId.START, "disabled"),
    ),
    draw_moved,
    parts=(PageId.CELL, *COMPARED),
    theme=True,
    job=JobStart.ON_REQUEST,
    computed=COMPARED,
    notes=True,
)
JOB = JobParts(DisagreementId.LAST, DisagreementId.PROGRESS, DisagreementId.STOP)


def register(app: Dash, context: Context) -> None:
    """Compare on request."""

    def prepare(run: RunRef, selection: Selection, presses: Any) -> Work | None:
        if not presses:
            return None
        return partial(compute, context.service, run, selection)

    presses = {"presses": Input(DisagreementId.START, "n_clicks")}
    register_job(app, context, DRAWING, JOB, prepare, presses, patient=True)


HINT = "Press 'Compare decoders' in the view, then export it again."
VIEW = View(
    "disagreement",
    layout,
    register,
    drawings=(DRAWING,),
    exports={"disagreement": Export(specs, DRAWING.name, HINT)},
)
