"""The heatmap's panel and the inspector of the chosen cell."""

from __future__ import annotations

from collections.abc import Sequence

from dash import html
from dash.development.base_component import Component

from analysis.results import Grid, RunResult
from dash_app.components.attributes import aria
from dash_app.components.go import go, switch, target, toggled
from dash_app.components.panel import control, graph, panel
from dash_app.figures.text import label, percent, row_name
from dash_app.shell import Context
from dash_app.views.lens.ids import LensId

COLOURS = (("probability", "Probability"), ("entropy", "Entropy"))
HELP = (
    "Each cell is the logit lens of one state of the residual stream: softmax(U · N(h)), with the"
    " final norm N computed anew from the state h and U the unembedding. The token written is the"
    " most probable one (nostalgebraist, 2020).",
    "Row 0 is the embedding, row l the output of block l − 1; the last row is the model's own"
    " answer. The state at position i predicts token i + 1: the top line (→) says what follows.",
    "Colour: the probability of the token shown, or the entropy −Σ p ln p of the whole"
    " distribution, in nats (low: the state is sure).",
    "Point at a cell for its five best tokens; click to choose it; arrow keys move on.",
)


def layout(context: Context) -> Component:
    """Heatmap with its switch, inspector beside it."""
    colour = html.Div(
        switch("colour", COLOURS, context.base().colour, "Colour"),
        id=LensId.COLOUR,
        className="segmented",
    )
    body = html.Div(
        [
            graph(LensId.GRAPH, "Heatmap of layers by tokens", height=560),
            html.Aside(
                html.Div(className="skeleton skeleton--figure"),
                id=LensId.INSPECTOR,
                className="inspector",
                **aria(label="Chosen cell", live="polite"),
            ),
        ],
        className="lens-body",
    )
    return panel(
        "lens",
        "What each state reads as",
        body,
        help_text=HELP,
        subtitle="Rows are states of the residual stream, bottom to top; columns are tokens.",
        controls=control("Colour", colour),
        wide=True,
    )


def inspector(
    grid: Grid, run: RunResult, row: int, pos: int, pins: tuple[int, ...]
) -> list[Component]:
    """What is known of one cell, with its candidates to pin."""
    follows = label(run.tokens[pos + 1]) if pos + 1 < len(run.tokens) else "not generated"
    facts = (
        ("State", f"row {row}, {row_name(row)}"),
        ("Reads", f"{label(run.tokens[pos])}  (position {pos})"),
        ("Next is", follows),
        ("Entropy", f"{grid.entropy[row, pos]:.2f} nats"),
        ("KL to final", f"{grid.kl_to_final[row, pos]:.2f} nats"),
    )
    return [
        html.H3("Chosen cell", className="inspector-title"),
        html.Dl([_fact(name, value) for name, value in facts], className="inspector-facts"),
        html.H3("Its candidates", className="inspector-title"),
        html.Div(_candidates(grid, row, pos, pins), className="bar-list"),
        html.P("Click one to pin it in the curves.", className="prompt-hint"),
    ]


def _fact(name: str, value: str) -> Component:
    return html.Div(
        [html.Dt(name, className="inspector-key"), html.Dd(value, className="inspector-value")],
        className="inspector-row",
    )


def _candidates(grid: Grid, row: int, pos: int, pins: Sequence[int]) -> list[Component]:
    ids, probs = grid.token_ids[row, pos].tolist(), grid.probs[row, pos].tolist()
    return [
        _candidate(label(grid.token(token)), token, prob, tuple(pins))
        for token, prob in zip(ids, probs, strict=True)
        if token >= 0
    ]


def _candidate(text: str, token: int, prob: float, pins: tuple[int, ...]) -> Component:
    pinned = token in pins
    inside = [
        html.Span(text, className="bar-label"),
        html.Span(
            html.Span(className="bar-fill", style={"width": f"{max(prob, 0.004) * 100:.1f}%"}),
            className="bar-track",
        ),
        html.Span(percent(prob), className="bar-value num"),
    ]
    return go(
        inside,
        target(pins=toggled(pins, token)),
        f"bar-row{' is-pinned' if pinned else ''}",
        label=f"{'Unpin' if pinned else 'Pin'} {text}, {percent(prob)}",
        pressed=pinned,
    )
