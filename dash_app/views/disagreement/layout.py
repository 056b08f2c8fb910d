"""The panel of disagreement between decoders."""

from __future__ import annotations

from enum import StrEnum

from dash import dcc, html
from dash.development.base_component import Component

from dash_app.jobs.progress import progress, small_button, stop_button
from dash_app.page.controls import aria, go, switch
from dash_app.page.panel import control, graph, panel
from dash_app.state.context import Context
from dash_app.state.selection import toggle


class ReadingsId(StrEnum):
    """What callbacks of this view name."""

    GRAPH = "readings-graph"
    BOX = "readings-graph-box"
    OPTIONS = "readings-options"
    SUBTITLE = "readings-subtitle"
    NOTE = "readings-note"
    START = "readings-start"
    STOP = "readings-stop"
    PROGRESS = "readings-progress"
    READY = "readings-ready"
    LAST = "readings-last"
    DRAWN = "readings-drawn"


MEASURES = (("jsd", "Divergence"), ("top1", "Best token"))
NAMES = {
    "output": "Output",
    "input": "Input",
    "linear": "Linear",
    "quadratic": "Quadratic",
    "learned": "Learned lens",
}
HELP = (
    "The same state read by several decoders. Where they say different things, none should be"
    " trusted alone. Divergence: the Jensen-Shannon divergence of their distributions with equal"
    " weights, H(mean p) − mean H(p), in nats (Lin, 1991). Best token: the share of pairs of"
    " decoders whose most probable tokens differ.",
    "Output: U · N(h). Input: E · N(h). Linear and quadratic: (1 − s)·E + s·U with s = row / last"
    " row, or its square (InTraVisTo). Learned lens: U · N(h + A·h + b), fitted to this model"
    " (tuned lens; Belrose et al., 2023). The norm is the one chosen above.",
    "Click a cell to choose it, double click to pin its token. Rows and positions are those shown"
    " above.",
)


def layout(_context: Context) -> Component:
    """Decoders to choose, a button, the picture."""
    return panel(
        "readings",
        "Where the readings disagree",
        [
            *(dcc.Store(id=name) for name in (ReadingsId.READY, ReadingsId.LAST, ReadingsId.DRAWN)),
            html.Div(
                [
                    html.Div(id=ReadingsId.OPTIONS, className="controls"),
                    small_button("Compare the readings", ReadingsId.START),
                ],
                className="controls readings-controls",
            ),
            html.P(id=ReadingsId.NOTE, className="control-help readings-note"),
            progress(ReadingsId.PROGRESS, stop_button(ReadingsId.STOP)),
            graph(ReadingsId.GRAPH, "Heatmap of disagreement between decoders", height=60),
        ],
        help_text=HELP,
        subtitle="Cells are coloured by how far several decoders differ on the same state.",
        subtitle_id=ReadingsId.SUBTITLE,
        wide=True,
    )


def options(chosen: tuple[str, ...], barred: dict[str, str], differ: str) -> list[Component]:
    """Decoders to tick, and what their difference is measured by."""
    ticks = [_tick(name, title, chosen, barred.get(name, "")) for name, title in NAMES.items()]
    measures = switch("differ", MEASURES, differ, "Differ by")
    return [
        control("Decoders", html.Div(ticks, className="segmented segmented--wrap")),
        control("Differ by", html.Div(measures, className="segmented")),
    ]


def _tick(name: str, title: str, chosen: tuple[str, ...], barred: str) -> Component:
    if barred:
        return html.Button(
            title,
            type="button",
            className="segment is-barred",
            disabled=True,
            title=barred,
            **aria(label=f"{title}: {barred}"),
        )
    held = name in chosen
    return go(
        title,
        toggle("readers", name, chosen),
        f"segment{' is-selected' if held else ''}",
        label=f"{'Leave out' if held else 'Compare'} {title}",
        pressed=held,
    )
