"""From a run's model to the reports on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dash.development.base_component import Component

from analysis.reports.specs import EmbeddingSpec, NormSpec, SimilaritySpec
from dash_app.errors import explain
from dash_app.jobs.progress import attempt, trouble_in
from dash_app.page.panel import trouble
from dash_app.state.context import NewJob, Service, trace_of
from dash_app.state.selection import RunRef
from dash_app.views.model.layout import embedding_report, norm_report, similarity_report

EMBEDDINGS, NORMS = EmbeddingSpec(), NormSpec()
#: States as they are: a norm would put nearly all of them on one sphere.
SIMILARITY = SimilaritySpec(norm="none")


def measure(
    service: Service, run: RunRef, job: NewJob, ready: Callable[[dict[str, Any]], None]
) -> dict[str, Any] | None:
    """All three reports, each told when it is there; None if it was cancelled."""

    def work() -> int:
        service.ask(run.model, EMBEDDINGS, job(0.0, 0.6))
        ready({"done": 1})
        service.ask(run.model, NORMS, job(0.6, 0.7))
        ready({"done": 2})
        service.ask(trace_of(run), SIMILARITY, job(0.7, 1.0))
        return 3

    return attempt(work)


def show(
    service: Service, run: RunRef, theme: Any, ready: dict[str, Any] | None
) -> tuple[list[Component], bool]:
    """Reports that are measured, and whether nothing is left to measure."""
    try:
        found: tuple[tuple[Any, Callable[[Any, Any], Component]], ...] = (
            (service.peek(run.model, EMBEDDINGS), embedding_report),
            (service.peek(run.model, NORMS), norm_report),
            (service.peek(trace_of(run), SIMILARITY), similarity_report),
        )
        shown = [draw(report, theme) for report, draw in found if report is not None]
        wrong = trouble_in(ready)
        errors = [trouble(wrong)] if wrong else []
        return [*shown, *errors], len(shown) == len(found)
    except Exception as error:  # noqa: BLE001 - said where the reports would be
        return [trouble(explain(error))], False
