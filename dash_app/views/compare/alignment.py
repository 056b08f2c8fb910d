"""The alignment of the two prompts, drawn token by token."""

from __future__ import annotations

from collections.abc import Sequence

from dash.development.base_component import Component

from analysis.contract.specs import Token
from analysis.experiments.specs import Sweep
from dash_app.page.panel import aria, select_button
from dash_app.page.thin_layout import html
from dash_app.page.token_labels import label
from dash_app.state.selection import toggle


def aligned(sweep: Sweep, changes: Sequence[str]) -> list[Component]:
    """A column for each pair of tokens; a token without a partner stands alone.

    Args:
        sweep: Has the tokens and their partners.
        changes: Those made by hand; each has a button that takes it back.
    """
    columns = [_column(sweep, clean, corrupted) for clean, corrupted in columns_of(sweep)]
    strip = html.Div(columns, className="token-strip", role="group", **aria(label="Aligned tokens"))
    undo = [
        select_button(
            f"{change} ×",
            toggle("pairs", change, changes),
            "btn btn-outline-secondary",
            label=f"{change} ×: take back this change",
        )
        for change in changes
    ]
    return [strip, html.Div(undo, className="controls mt-1")] if undo else [strip]


def columns_of(sweep: Sweep) -> list[tuple[int, int]]:
    """(clean position, corrupted position) of each column, -1 for none, in the clean order."""
    pairs = [(own, int(other)) for own, other in enumerate(sweep.partners.tolist()) if other >= 0]
    if sweep.direction == "denoise":  # the patched run is the corrupted one
        pairs = [(other, own) for own, other in pairs]
    partner, taken = dict(pairs), {corrupted for _, corrupted in pairs}
    alone = [place for place in range(len(sweep.corrupted)) if place not in taken]
    columns = []
    for clean in range(len(sweep.clean)):
        while alone and alone[0] < partner.get(clean, -1):
            columns.append((-1, alone.pop(0)))
        columns.append((clean, partner.get(clean, -1)))
    return columns + [(-1, place) for place in alone]


def _column(sweep: Sweep, clean: int, corrupted: int) -> Component:
    """The clean token above its partner."""
    same = clean >= 0 <= corrupted and sweep.clean[clean].id == sweep.corrupted[corrupted].id
    return html.Div(
        [_chip(sweep.clean, clean, same=same), _chip(sweep.corrupted, corrupted, same=same)],
        className="token-alternatives",
    )


def _chip(tokens: Sequence[Token], place: int, *, same: bool) -> Component:
    """One token with its position; empty where there is none."""
    if place < 0:
        return html.Span(
            [
                html.Span("–", className="token-pos"),
                html.Span(" ", className="token-text"),
            ],
            className="token",
            title="no partner",
        )
    inside = [
        html.Span(str(place), className="token-pos"),
        html.Span(label(tokens[place], 14), className="token-text"),
    ]
    return html.Span(inside, className="token" if same else "token is-answer")
