"""From the chosen state to the flow into it, and from a click to the selection."""

from __future__ import annotations

from typing import Any

from analysis.specs import FlowSpec, LensSpec
from dash_app.components.panel import blank, failed
from dash_app.figures.flow import caption, sankey
from dash_app.shell import Service, result_of, trace_of
from dash_app.state import RunRef, Selection, resolve

#: Most links drawn: more take seconds in the browser.
LINKS = 300
AT_THE_BOTTOM = "Row 0 is the embedding: nothing flows into it. Choose a higher row."


def clicked(value: Any, current: Selection, run: RunRef | None) -> Selection:
    """A click on a node chooses its state; on a link, the state it enters."""
    point = value["points"][0]
    place = point.get("customdata")
    if not isinstance(place, (list, tuple)) or len(place) < 2 or run is None:
        return current
    row, pos = int(place[0]), int(place[1])
    return current.model_copy(update={"row": row, "pos": pos, "layer": max(row - 1, 0)})


def draw(service: Service, run: RunRef, selection: Selection, theme: Any) -> tuple[Any, str]:
    """The picture, and how much of the flow it shows."""
    try:
        chosen = resolve(selection, run)
        if chosen.row == 0:
            return blank(240, AT_THE_BOTTOM), ""
        trace = trace_of(run)
        spec = FlowSpec(
            chosen.pos, chosen.row, top_k=selection.sources, budget=LINKS, per_head=False
        )
        flow = service.flow(trace, spec)
        grid = service.grid(trace, LensSpec())
        figure = sankey(
            flow, result_of(service, run), grid, theme=theme, row=chosen.row, pos=chosen.pos
        )
        return figure, caption(flow)
    except Exception as error:  # noqa: BLE001 - said where the figure would be
        return failed(error), ""
