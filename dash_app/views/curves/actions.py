"""From pinned tokens to their curves, from a run to its strip, from a click to the selection."""

from __future__ import annotations

from typing import Any

from analysis.trajectory.specs import Emergence, EmergenceSpec, Steps, StepsSpec
from dash_app.errors import Problem
from dash_app.jobs.progress import attempt, trouble_in
from dash_app.page.panel import blank, failed, told
from dash_app.page.theme import palette
from dash_app.page.token_labels import label
from dash_app.page.window import stated, window
from dash_app.state.context import NewJob, Service, result_of, trace_of
from dash_app.state.selection import RunRef, Selection, pinned, resolve
from dash_app.views.curves.emergence_figure import strip
from dash_app.views.curves.figure import OF_THE_ROW, curves
from dash_app.views.curves.layout import TAU, pin_list, steps_table

#: Figure, pins, subtitle, table.
Drawn = tuple[Any, Any, str, Any]
#: Figure, line, whether nothing is left to measure.
Strip = tuple[Any, str, bool]

NOTHING = "Nothing is pinned. Click a candidate of the chosen cell to see it here."
MEASURING = "measured once the page is drawn"
PLAIN, CAUSAL = EmergenceSpec(tau=TAU), EmergenceSpec(tau=TAU, causal=True)


def clicked(value: Any, current: Selection, _run: RunRef | None) -> Selection:
    """A click on a curve chooses the row."""
    return current.model_copy(update={"row": round(value["points"][0]["x"])})


def draw(service: Service, run: RunRef, selection: Selection, theme: Any) -> Drawn:
    """The curves, the pins, a line that says where we are, and the table of tokens."""
    try:
        return _drawn(service, run, selection, theme)
    except Exception as error:  # noqa: BLE001 - said where the figure would be
        return failed(error), [], "", []


def _drawn(service: Service, run: RunRef, selection: Selection, theme: Any) -> Drawn:
    chosen = resolve(selection, run)
    result = result_of(service, run)
    pins = pinned(selection, run, result.top_ids[chosen.pos, :2].tolist())
    steps: Steps = service.ask(trace_of(run), StepsSpec(chosen.pos, pins, TAU))
    line = f"What follows {label(result.tokens[chosen.pos])} (position {chosen.pos})"
    if not pins and selection.curve not in OF_THE_ROW:
        return blank(300, NOTHING), [], line, []
    figure = curves(
        steps,
        quantity=selection.curve,
        theme=theme,
        row=chosen.row,
        chosen=selection.pins is not None,
    )
    colours = palette(theme).categories
    table: Any = steps_table(steps, result, colours) if pins else []
    return figure, pin_list(steps.tokens if pins else (), colours), line, table


def measure(service: Service, run: RunRef, job: NewJob, *, causal: bool) -> dict[str, Any] | None:
    """Measure emergence at every position, commits only when asked; how that ended.

    Returns:
        None if there was nothing to do, or it was cancelled.
    """
    if not causal and measured(service, run) is not None:
        return None

    def work() -> int:
        service.ask(trace_of(run), CAUSAL if causal else PLAIN, job(0.0, 1.0))
        return run.attempt

    return attempt(work)


def measured(service: Service, run: RunRef) -> Emergence | None:
    """The fullest of what has been measured."""
    trace = trace_of(run)
    found: Emergence | None = service.peek(trace, CAUSAL) or service.peek(trace, PLAIN)
    return found


def show_strip(
    service: Service, run: RunRef, selection: Selection, theme: Any, ready: dict[str, Any] | None
) -> Strip:
    """All positions at a glance, as far as they are measured."""
    try:
        wrong, found = trouble_in(ready), measured(service, run)
        if found is None:
            return (told(wrong, 120), "", False) if wrong else (blank(40), MEASURING, False)
        figure, line, whole = _strip(service, run, selection, theme, found)
        return figure, _beside(wrong, line), whole
    except Exception as error:  # noqa: BLE001 - said where the strip would be
        return failed(error, 120), "", False


def _beside(wrong: Problem | None, line: str) -> str:
    """What went wrong, before the line on what was measured earlier and stays."""
    if wrong is None:
        return line
    return f"{wrong.message} {wrong.hint} Request {wrong.request}. Shown: {line}"


def _strip(
    service: Service, run: RunRef, selection: Selection, theme: Any, found: Emergence
) -> Strip:
    result, chosen = result_of(service, run), resolve(selection, run)
    shown = window(
        result, False, row=chosen.row, pos=chosen.pos, show=selection.show, find=selection.find
    )
    figure = strip(found, result, shown.positions, pos=chosen.pos, theme=theme)
    positions = stated(shown, selection.find).partition(", ")[2]
    line = f"the row at which its token emerges; {positions}"
    return figure, line, found.causal_commit is not None
