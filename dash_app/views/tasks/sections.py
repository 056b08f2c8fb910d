"""Parts of the sections of the tasks view, and the targets of clicks in them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dash import dcc, html
from dash.development.base_component import Component

from dash_app.page.panel import GRAPH_CONFIG, aria, target
from dash_app.views.tasks.reports import ReportOption


def prompt(model: str, text: str, new: int) -> str:
    """The target that opens a prompt with the tokens of its answer; empty without a prompt."""
    return target(model=model, prompt=text, new=new) if text else ""


def state(model: str, text: str, new: int, row: int, pos: int) -> str:
    """The same, with a cell of the heatmap chosen."""
    if not text:
        return ""
    return target(model=model, prompt=text, new=new, row=row, pos=pos, layer=max(row - 1, 0))


def part(model: str, text: str, new: int, name: str, pos: int) -> str:
    """The same for a component: "row 2", "head 0.3", "mlp 1", "attention 0", "embedding"."""
    kind, _, where = name.partition(" ")
    if not text:
        return ""
    if kind in ("row", "embedding"):
        return state(model, text, new, int(where or 0), pos)
    layer, _, head = where.partition(".")
    cell = state(model, text, new, int(layer) + 1, pos)
    return f"{cell}&heads={head}" if head else cell


@dataclass(frozen=True, slots=True)
class Drawn:
    """A drawn report.

    Attributes:
        summary: The first lines.
        figures: Figures with their captions.
        lists: For each option with a list: its items, and the chosen value.
    """

    summary: Any
    figures: list[Component] = field(default_factory=list)
    lists: dict[ReportOption, tuple[list[dict[str, Any]], Any]] = field(default_factory=dict)


def picture(
    figure: dict[str, Any], caption: str, *, wide: bool = False, name: str = ""
) -> Component:
    """A figure with a caption that says how to read it."""
    more: dict[str, Any] = {"id": name} if name else {}
    title = figure["layout"].get("title", {}).get("text") or caption
    size = {"height": f"{figure['layout']['height']}px"}  # the width is the section's
    return html.Figure(
        [
            html.Div(
                dcc.Graph(figure=figure, config=GRAPH_CONFIG, responsive=True, style=size, **more),
                className="figure scroll-x",
                role="img",
                tabIndex="0",
                **aria(label=title),
            ),
            html.Figcaption(caption, className="control-help"),
        ],
        className=f"tasks-figure{' tasks-figure--wide' if wide else ''}",
    )


def chosen(values: list[Any], wanted: Any, default: Any) -> Any:
    """``wanted`` if it is among the values, else ``default``."""
    return wanted if wanted in values else default
