"""The contribution of every part of the model to one token's logit."""

from __future__ import annotations

from functools import partial

from dash import Dash, Output

from dash_app.jobs.job_and_draw import draw_run
from dash_app.state.context import Context, PageId, View
from dash_app.views.contributions import actions
from dash_app.views.contributions.layout import ContributionsId, layout


def register(app: Dash, context: Context) -> None:
    """Draw for every run, position, choice of tokens and order."""
    draw_run(
        app,
        [
            Output(ContributionsId.SUBTITLE, "children"),
            Output(ContributionsId.TOKENS, "children"),
            Output(ContributionsId.TABLE, "children"),
        ],
        partial(actions.draw, context.service),
        parts=(PageId.CELL, PageId.FOCUS, PageId.PINS, PageId.METHOD),
        controls={"order": ContributionsId.ORDER, "count": ContributionsId.COUNT},
    )


VIEW = View("contributions", layout, register)
