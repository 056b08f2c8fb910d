"""Compares two prompts, or two models, under the logit lens, and draws the difference."""

from __future__ import annotations

from typing import Any

from dash.development.base_component import Component

from analysis.contract.specs import InfoSpec
from analysis.errors import ModelMismatchError, SpecError
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
from dash_app.views.compare.figure import MODELS, PROMPTS, difference_caption, difference_figure
from dash_app.views.compare.models import (
    PANE,
    Sides,
    read_sides,
    second,
    shown_options,
    sides_caption,
    sides_figure,
)

EMPTY = "Choose a pair of prompts, or type your own."


def spec_of(selection: Selection) -> PromptSpec | None:
    """The comparison of the selection; None if there is no prompt.

    Raises:
        SpecError: If a prompt is missing; a second model reads prompt A if prompt B is empty.
    """
    if not selection.clean and not selection.corrupted:
        return None
    tokens = tuple(filter(None, (selection.answer, selection.against)))
    tokens = tokens if selection.answer else ()  # the first run's top token is followed
    return PromptSpec(
        selection.model, selection.clean, selection.corrupted, tokens, selection.align,
        selection.pairs, second(selection),
    )  # fmt: skip


def specs(service: Service, _run: RunRef | None, selection: Selection) -> list[PromptSpec]:
    """The request of the comparison; none if there is no prompt.

    Raises:
        SpecError: If the two models are shown side by side: then there is no difference.
    """
    spec = spec_of(selection)
    if isinstance(sides := known(service, selection), Sides):
        hint = "Choose “Same model” as model B, and export the heatmap of each model."
        raise SpecError(f"{sides.differ} There is no difference to export.", hint)
    return [] if spec is None else [spec]


def known(service: Service, selection: Selection) -> PromptComparison | Sides | None:
    """What the memo has of the comparison: the difference, or both models side by side."""
    spec = spec_of(selection)
    if spec is None:
        return None
    found: PromptComparison | None = service.peek(spec.model, spec)
    if found is not None or not spec.other:
        return found
    sides = read_sides(service.peek, selection)
    return sides if sides is not None and sides.differ else None


def find(service: Service, selection: Selection, job: NewJob) -> None:
    """Compute what ``known`` gives, unless the memo has it.

    Models whose states can't be compared one by one are decoded each on its own.
    """
    spec = spec_of(selection)
    if spec is None:
        return
    try:
        service.ask(spec.model, spec, job(0.0, 0.9))
        for name in (spec.model, spec.other) if spec.other else ():
            service.ask(name, InfoSpec(), job(0.9, 1.0))  # an export names both
    except ModelMismatchError:
        read_sides(lambda subject, part: service.ask(subject, part, job(0.9, 1.0)), selection)


def compute(service: Service, selection: Selection, job: NewJob) -> dict[str, Any] | None:
    """Compare the prompts or models, unless the memo has the result."""

    def work() -> int:
        find(service, selection, job)
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
        found = known(service, selection)
        if found is None:
            return Shown((blank_figure(20), "", switches), complete=False)
        if isinstance(found, Sides):
            return Shown((sides_figure(found, theme), sides_caption(found), []))
        names = MODELS if spec.other else PROMPTS
        figure = difference_figure(found, selection.apart, theme, names)
        text = difference_caption(found, selection.apart, names)
        models = f"A is {spec.model}, B is {spec.other}. " if spec.other else ""
        return Shown((figure, models + text, switches))
    except Exception as error:  # noqa: BLE001 - shown in place of the figure
        return Shown((error_figure(error, 200), "", switches))


def _switches(selection: Selection) -> list[Component]:
    options = shown_options() if second(selection) else options_of(DIFFERENCES)
    return [control("Show", segmented(switch("apart", options, selection.apart, "Show")))]
