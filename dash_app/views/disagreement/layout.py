"""The panel of disagreement between decoders."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from dash import dcc, html
from dash.development.base_component import Component

from analysis.lens.options import DECODERS
from dash_app.jobs.job_and_draw import progress_bar, small_button, stop_button
from dash_app.page.panel import Option, aria, control, graph, options_of, select_button, switch
from dash_app.page.panes import Pane
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
    LAST = "disagreement-last"


HELP = (
    "The same state, decoded by several decoders. If they disagree, do not trust any one of them.",
    *(f"{choice.label}: {choice.summary}" for choice in DIFFERENCES.values()),
    *(f"{choice.label}: {choice.summary}" for choice in DECODERS.values() if choice.single),
    "Norm, rows and positions are those of the tab Predictions.",
    "Click a cell to choose it. Double click a cell to pin its token.",
)


def layout(_context: Context) -> dict[str, Any]:
    """Decoders to choose, a button, and the heatmap."""
    pane = Pane(
        "disagreement",
        "Decoders",
        "Where decoders disagree",
        [
            dcc.Store(id=DisagreementId.LAST),
            html.Div(
                [
                    small_button("Compare decoders", DisagreementId.START),
                    html.Span(id=DisagreementId.NOTE, className="control-help"),
                ],
                className="controls",
            ),
            progress_bar(DisagreementId.PROGRESS, stop_button(DisagreementId.STOP)),
            graph(DisagreementId.GRAPH, "Heatmap of disagreement between decoders"),
        ],
        HELP,
        caption="The colour shows how much several decoders differ on the same state.",
        caption_id=DisagreementId.SUBTITLE,
        options={"How": html.Div(id=DisagreementId.OPTIONS)},
    )
    return {pane.name: pane}


def options(decoders: list[Option], chosen: tuple[str, ...], differ: str) -> list[Component]:
    """Decoders to choose, and the measure of their difference."""
    ticks = [_tick(option, chosen) for option in decoders]
    measures = switch("differ", options_of(DIFFERENCES), differ, "Differ by")
    return [
        control("Decoders", html.Div(ticks, className="segmented")),
        control("Differ by", html.Div(measures, className="segmented")),
    ]


def _tick(option: Option, chosen: tuple[str, ...]) -> Component:
    if option.unless:
        return html.Button(
            option.title,
            type="button",
            className="btn btn-outline-secondary segment is-barred",
            disabled=True,
            title=option.unless,
            **aria(label=f"{option.title}: {option.unless}"),
        )
    on = option.value in chosen
    return select_button(
        option.title,
        toggle("readers", option.value, chosen),
        f"btn btn-outline-secondary segment{' is-selected' if on else ''}",
        label=f"{'Leave out' if on else 'Compare'} {option.title}",
        pressed=on,
        title=option.help,
    )
