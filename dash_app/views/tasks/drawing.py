"""What a section of the tasks view shows: a summary, figures with captions, filled lists."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dash import dcc, html
from dash.development.base_component import Component

from dash_app.components.attributes import aria
from dash_app.components.panel import GRAPH_CONFIG
from dash_app.views.tasks.ids import Option


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a section shows.

    Attributes:
        summary: The first lines.
        figures: Figures with their captions.
        lists: Of options whose list depends on the report: [(value, label)], and the chosen value.
    """

    summary: Any
    figures: list[Component] = field(default_factory=list)
    lists: dict[Option, tuple[list[dict[str, Any]], Any]] = field(default_factory=dict)


def picture(
    figure: dict[str, Any], caption: str, *, wide: bool = False, name: str = ""
) -> Component:
    """A figure and the line under it that says how to read it."""
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
    """``wanted`` where it is among the values, else ``default``."""
    return wanted if wanted in values else default
