"""The strip of prompt and answer tokens."""

from __future__ import annotations

from functools import partial

from dash import Dash, Output

from dash_app.jobs.job_and_draw import draw_run
from dash_app.state.context import Context, PageId, View
from dash_app.views.tokens import panel


def register(app: Dash, context: Context) -> None:
    """Draw the strip for every run and position."""
    draw_run(
        app,
        [Output(panel.STRIP, "children")],
        partial(panel.draw, context.service),
        parts=(PageId.CELL,),
    )


VIEW = View("tokens", panel.layout, register)
