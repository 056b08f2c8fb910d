"""The panel of disagreement between decoders."""

from __future__ import annotations

from enum import StrEnum

from dash import dcc, html
from dash.development.base_component import Component

from analysis.lens.options import DECODERS
from dash_app.jobs.job_and_draw import progress_bar, small_button, stop_button
from dash_app.page.panel import (
    Option,
    aria,
    control,
    graph,
    options_of,
    panel,
    select_button,
    switch,
)
from dash_app.state.context import Context
from dash_app.state.options import DIFFERENCES
from dash_app.state.selection import toggle


class DisagreementId(StrEnum):
    """Ids of this view's components."""

    GRAPH = "disagreement-graph"
    BOX = "disagreement-graph-box"
    OPTIONS = "disagreement-options"
    SUBTITLE = "disagreement-subtitle"
    NOTE = "disagreement-note"
    START = "disagreement-start"
    STOP = "disagreement-stop"
    PROGRESS = "disagreement-progress"
    READY = "disagreement-ready"
    LAST = "disagreement-last"
    DRAWN = "disagreement-drawn"


HELP = (
    "The same state, decoded by several decoders. If they disagree, do not trust any one of them.",
    *(f"{choice.label}: {choice.summary}" for choice in DIFFERENCES.values()),
    *(f"{choice.label}: {choice.summary}" for choice in DECODERS.values() if choice.single),
    "Norm, rows and positions are those of the heatmap above.",
    "Click a cell to choose it. Double click a cell to pin its token.",
)


def layout(_context: Context) -> Component:
    """Decoders to choose, a button, and the heatmap."""
    return panel(
        "disagreement",
        "Where decoders disagree",
        [
            *(
                dcc.Store(id=name)
                for name in (DisagreementId.READY, DisagreementId.LAST, DisagreementId.DRAWN)
            ),
            html.Div(
                [
                    html.Div(id=DisagreementId.OPTIONS, className="controls"),
                    small_button("Compare decoders", DisagreementId.START),
                ],
                className="controls disagreement-controls",
            ),
            html.P(id=DisagreementId.NOTE, className="control-help disagreement-note"),
            progress_bar(DisagreementId.PROGRESS, stop_button(DisagreementId.STOP)),
            graph(DisagreementId.GRAPH, "Heatmap of disagreement between decoders", height=60),
        ],
        help_text=HELP,
        subtitle="The colour shows how much several decoders differ on the same state.",
        subtitle_id=DisagreementId.SUBTITLE,
        wide=True,
    )


def options(decoders: list[Option], chosen: tuple[str, ...], differ: str) -> list[Component]:
    """Decoders to choose, and the measure of their difference."""
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
    on = option.value in chosen
    return select_button(
        option.title,
        toggle("readers", option.value, chosen),
        f"segment{' is-selected' if on else ''}",
        label=f"{'Leave out' if on else 'Compare'} {option.title}",
        pressed=on,
        title=option.help,
    )
