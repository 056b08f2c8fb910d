"""Compares the two prompts of the form under the logit lens, and draws the difference."""

from __future__ import annotations

from typing import Any

from dash.development.base_component import Component

from analysis.experiments.specs import DIFFERENCES, PromptComparison, PromptSpec
from dash_app.jobs.job_and_draw import run_safely, stored_problem
from dash_app.page.panel import (
    blank_figure,
    control,
    error_figure,
    options_of,
    problem_figure,
    segmented,
    switch,
)
from dash_app.state.context import NewJob, Service, Shown
from dash_app.state.selection import RunRef, Selection
from dash_app.views.compare.figure import difference_caption, difference_figure

EMPTY = "Choose a pair of prompts, or type your own."
PANE = "difference"


def spec_of(selection: Selection) -> PromptSpec | None:
    """The comparison of the selection; None if there is no pair.

    Raises:
        SpecError: If one of the prompts is empty.
    """
    if not selection.clean and not selection.corrupted:
        return None
    tokens = tuple(filter(None, (selection.answer, selection.against)))
    tokens = tokens if selection.answer else ()  # the clean run's top token is followed
    return PromptSpec(
        selection.model, selection.clean, selection.corrupted, tokens, selection.align,
        selection.pairs,
    )  # fmt: skip


def specs(_service: Service, _run: RunRef | None, selection: Selection) -> list[PromptSpec]:
    """The request of the comparison; none if there is no pair."""
    spec = spec_of(selection)
    return [] if spec is None else [spec]


def compute(service: Service, selection: Selection, job: NewJob) -> dict[str, Any] | None:
    """Compare the prompts, unless the memo has the result."""

    def work() -> int:
        spec = spec_of(selection)
        if spec is not None:
            service.ask(spec.model, spec, job(0.0, 1.0))
        return 1

    return run_safely(work)


def draw(
    service: Service,
    _run: RunRef | None,
    selection: Selection,
    theme: Any,
    ready: dict[str, Any] | None,
) -> Shown:
    """The picture, its caption and its switch; nothing is computed before the pane is opened."""
    switches = _switches(selection)
    try:
        spec = spec_of(selection) if PANE in selection.panes else None
        if spec is None:
            return Shown((blank_figure(20), EMPTY, switches))
        if problem := stored_problem(ready):
            return Shown((problem_figure(problem, 200), "", switches))
        found: PromptComparison | None = service.peek(spec.model, spec)
        if found is None:
            return Shown((blank_figure(20), "", switches), complete=False)
        figure = difference_figure(found, selection.apart, theme)
        return Shown((figure, difference_caption(found, selection.apart), switches))
    except Exception as error:  # noqa: BLE001 - shown in place of the figure
        return Shown((error_figure(error, 200), "", switches))


def _switches(selection: Selection) -> list[Component]:
    buttons = switch("apart", options_of(DIFFERENCES), selection.apart, "Show")
    return [control("Show", segmented(buttons))]
