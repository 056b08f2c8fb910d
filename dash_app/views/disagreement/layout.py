"""The panel of disagreement between decoders."""

from __future__ import annotations

from enum import StrEnum

from dash import dcc, html
from dash.development.base_component import Component

from analysis.lens.options import DECODERS
from dash_app.jobs.progress import progress, small_button, stop_button
from dash_app.page.controls import Option, aria, go, options_of, switch
from dash_app.page.panel import control, graph, panel
from dash_app.state.context import Context
from dash_app.state.options import DIFFERENCES
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


HELP = (
    "The same state, read by several decoders. Where they disagree, trust none of them alone.",
    *(f"{choice.label}: {choice.summary}" for choice in DIFFERENCES.values()),
    *(f"{choice.label}: {choice.summary}" for choice in DECODERS.values() if choice.single),
    "The norm is the one chosen above.",
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


def options(decoders: list[Option], chosen: tuple[str, ...], differ: str) -> list[Component]:
    """Decoders to tick, and what their difference is measured by."""
    ticks = [_tick(option, chosen) for option in decoders]
    measures = switch("differ", options_of(DIFFERENCES), differ, "Differ by")
    return [
        control("Decoders", html.Div(ticks, className="segmented segmented--wrap")),
        control("Differ by", html.Div(measures, className="segmented")),
    ]


def _tick(option: Option, chosen: tuple[str, ...]) -> Component:
    if option.unless:
        return html.Button(
            option.title,
            type="button",
            className="segment is-barred",
            disabled=True,
            title=option.unless,
            **aria(label=f"{option.title}: {option.unless}"),
        )
    held = option.value in chosen
    return go(
        option.title,
        toggle("readers", option.value, chosen),
        f"segment{' is-selected' if held else ''}",
        label=f"{'Leave out' if held else 'Compare'} {option.title}",
        pressed=held,
        title=option.help,
    )
