"""From a run to its heatmap, and from a click to the selection."""

from __future__ import annotations

from typing import Any

from dash.development.base_component import Component

from analysis.specs import LensSpec
from dash_app.components.panel import failed, trouble
from dash_app.errors import explain
from dash_app.figures.heatmap import heatmap
from dash_app.shell import Service, result_of, trace_of
from dash_app.state import RunRef, Selection, pinned, resolve
from dash_app.views.lens.layout import inspector


def clicked(value: Any, current: Selection, run: RunRef | None) -> Selection:
    """A click on a cell chooses it, and the block that wrote it."""
    point = value["points"][0]
    row, pos = round(point["y"]), round(point["x"])
    layer = max(row - 1, 0)
    moved = current.model_copy(update={"row": row, "pos": pos, "layer": layer})
    return moved if run is None or row <= run.layers else current


def draw(service: Service, run: RunRef, selection: Selection, theme: Any) -> dict[str, Any]:
    """The heatmap."""
    try:
        chosen = resolve(selection, run)
        return heatmap(
            service.grid(trace_of(run), LensSpec()),
            result_of(service, run),
            colour=selection.colour,
            row=chosen.row,
            pos=chosen.pos,
            theme=theme,
        )
    except Exception as error:  # noqa: BLE001 - said where the figure would be
        return failed(error, 400)


def inspect(service: Service, run: RunRef, selection: Selection) -> list[Component]:
    """The chosen cell in words."""
    try:
        chosen = resolve(selection, run)
        result = result_of(service, run)
        grid = service.grid(trace_of(run), LensSpec())
        pins = pinned(selection, run, result.top_ids[chosen.pos, :2].tolist())
        return inspector(grid, result, chosen.row, chosen.pos, pins)
    except Exception as error:  # noqa: BLE001 - said where the inspector would be
        return [trouble(explain(error))]
