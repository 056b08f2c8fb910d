"""From a run to its ledgers."""

from __future__ import annotations

from typing import Any

from dash import html
from dash.development.base_component import Component

from analysis.contract.ledger import LedgerSpec, ModelLedgerSpec
from analysis.errors import CancelledError
from dash_app.errors import explain
from dash_app.state.context import NewJob, Service, result_of, trace_of
from dash_app.state.selection import RunRef, Selection, resolve
from dash_app.views.ledger.layout import badge, table


def measure(
    service: Service, run: RunRef, selection: Selection, job: NewJob
) -> tuple[Any, Any, Any] | None:
    """Badge, the model's table and the run's, as far as they come; None if it was cancelled."""
    told: list[Any] = []
    try:
        model = service.ask(run.model, ModelLedgerSpec(), job(0.0, 0.7))
        name = result_of(service, run).info.name
        told += [badge(model), table(f"{name}, on random probes", model)]
        position = resolve(selection, run).pos
        own = service.ask(trace_of(run), LedgerSpec(position), job(0.7, 1.0))
        return told[0], told[1], table(f"This run, at position {position}", own)
    except CancelledError:
        return None
    except Exception as error:  # noqa: BLE001 - said where the tables would be
        return (told[0], told[1], _untold(error)) if told else (None, _untold(error), None)


def _untold(error: BaseException) -> list[Component]:
    problem = explain(error)
    text = f"{problem.message} {problem.hint} Request {problem.request}"
    return [html.P(text, className="muted")]
