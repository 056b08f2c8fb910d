"""From the chosen state to the flow into it, and from a click to the selection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from analysis.specs import FlowSpec, LensSpec
from dash_app.components.panel import blank, failed
from dash_app.figures.flow import caption, sankey
from dash_app.shell import Service, result_of, trace_of
from dash_app.state import RunRef, Selection, resolve

#: Links of a smaller share are left out of the graph: they are thinner than a line.
THINNEST = 0.001
AT_THE_BOTTOM = "Row 0 is the embedding: nothing flows into it. Choose a higher row."


def clicked(value: Any, current: Selection, run: RunRef | None) -> Selection:
    """A click on a node chooses its state, or the output of the block it lies in."""
    point = value["points"][0]
    place = point.get("customdata")
    if run is None or not isinstance(place, (list, tuple)) or len(place) < 4:
        return current
    if len(place) > 4:
        return _link(place, current)
    depth, pos = int(place[1]), int(place[2])
    row = depth if place[3] == "block" else depth + 1
    return current.model_copy(update={"row": row, "pos": pos, "layer": max(row - 1, 0)})


def _link(place: Sequence[Any], current: Selection) -> Selection:
    """A link's layer and head go to the attention panel; the cell stays."""
    heads = (int(place[2]),) if int(place[2]) >= 0 else ()
    return current.model_copy(update={"layer": int(place[1]), "heads": heads})


def draw(service: Service, run: RunRef, selection: Selection, theme: Any) -> tuple[Any, str]:
    """The picture, and how much of the flow it shows."""
    try:
        chosen = resolve(selection, run)
        if chosen.row == 0:
            return blank(240, AT_THE_BOTTOM), ""
        trace = trace_of(run)
        spec = FlowSpec(chosen.pos, chosen.row, selection.method, THINNEST)
        flow = service.flow(trace, spec)
        grid = service.grid(trace, LensSpec())
        result = result_of(service, run)
        figure = sankey(flow, result, grid, theme=theme, row=chosen.row, pos=chosen.pos)
        return figure, caption(flow, result, grid)
    except Exception as error:  # noqa: BLE001 - said where the figure would be
        return failed(error), ""
