"""From the chosen state to the flow into it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from analysis.errors import CancelledError
from analysis.results import Graph
from analysis.specs import FlowSpec, LensSpec
from dash_app.components.panel import blank, failed, told
from dash_app.errors import Trouble, explain
from dash_app.figures.flow import caption, sankey
from dash_app.shell import NewJob, Service, result_of, trace_of
from dash_app.state import RunRef, Selection, resolve

#: Links of a smaller share are left out of the graph: they are thinner than a line.
THINNEST = 0.001
AT_THE_BOTTOM = "Row 0 is the embedding: nothing flows into it. Choose a higher row."


def wanted(run: RunRef, selection: Selection) -> FlowSpec | None:
    """The graph to draw; None at the bottom, where there is none."""
    chosen = resolve(selection, run)
    return FlowSpec(chosen.pos, chosen.row, selection.method, THINNEST) if chosen.row else None


def follow(
    service: Service, run: RunRef, selection: Selection, job: NewJob
) -> dict[str, Any] | None:
    """Compute the graph unless the memo has it; how that ended, None if it was cancelled."""
    try:
        spec = wanted(run, selection)
        if spec is not None:
            service.flow(trace_of(run), spec, job(0.0, 1.0))
        return {"done": asdict(spec) if spec else None}
    except CancelledError:
        return None
    except Exception as error:  # noqa: BLE001 - said where the figure would be
        problem = explain(error)
        return {"trouble": [problem.message, problem.hint, problem.request]}


def draw(
    service: Service, run: RunRef, selection: Selection, theme: Any, ready: dict[str, Any] | None
) -> tuple[Any, str] | None:
    """The picture and how much of the flow it shows; None while the graph is being computed."""
    try:
        spec = wanted(run, selection)
        if spec is None:
            return blank(240, AT_THE_BOTTOM), ""
        if ready is not None and "trouble" in ready:
            return told(Trouble(*ready["trouble"])), ""
        flow = service.peek(trace_of(run), spec)
        if flow is None and ready is not None and ready.get("done") == asdict(spec):
            flow = service.flow(trace_of(run), spec)  # the memo could not keep it
        return None if flow is None else _drawn(service, run, flow, theme)
    except Exception as error:  # noqa: BLE001 - said where the figure would be
        return failed(error), ""


def _drawn(service: Service, run: RunRef, flow: Graph, theme: Any) -> tuple[Any, str]:
    grid, result = service.grid(trace_of(run), LensSpec()), result_of(service, run)
    figure = sankey(flow, result, grid, theme=theme, row=flow.row, pos=flow.position)
    return figure, caption(flow, result, grid)
