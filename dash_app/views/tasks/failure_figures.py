"""Figures that compare a right and a wrong answer: their states, components and flows."""

from __future__ import annotations

from collections.abc import Callable
from html import escape as html_escape

import numpy as np

from analysis.tasks.suite_specs import AnswerPair, FlowChange
from dash_app.page.theme import Figure, Theme, axis, base_layout, palette
from dash_app.page.token_labels import row_name
from dash_app.views.tasks.figure_parts import layer_axis, line, matrix

#: From row, position, layer and head (-1: none) to the target of a click.
Link = Callable[[int, int, int, int], str]
#: Most positions in a figure: the last ones, where the two runs differ.
WIDEST = 40


def shown(pair: AnswerPair) -> range:
    """The positions that are drawn: from the first token that differs, at most ``WIDEST``."""
    length = pair.rows.shape[1]
    differs = [
        n
        for n, (x, y) in enumerate(zip(pair.right_tokens, pair.wrong_tokens, strict=True))
        if x != y
    ]
    first = max(min(differs, default=0) - 1, 0)
    return range(max(first, length - WIDEST), length)


def left_out(pair: AnswerPair) -> str:
    """A note on omitted positions: those before the first difference, and more in long prompts."""
    drawn = shown(pair).start
    tokens = zip(pair.right_tokens, pair.wrong_tokens, strict=True)
    same = next((n for n, (x, y) in enumerate(tokens) if x != y), 0)
    equal = max(min(same, drawn), 0)
    note = f" The first {equal} positions are omitted: their states are equal." if equal else ""
    if (rest := drawn - equal) > 0:
        most = float(pair.rows[:, equal:drawn].max())
        note += (
            f" {rest} more positions are omitted; their states differ by up to {most:.2f} (see the"
            " CSV)."
        )
    return note


def _aligned(pair: AnswerPair) -> list[str]:
    """Both prompts' tokens, one above the other; bold if they differ."""
    made = []
    for n in shown(pair):
        one, other = (_visible(tokens[n]) for tokens in (pair.right_tokens, pair.wrong_tokens))
        made.append(f"{one}<br>{other}" if one == other else f"<b>{one}<br>{other}</b>")
    return made


def _visible(text: str) -> str:
    cut = text if len(text) <= 7 else text[:6] + "…"
    return html_escape(cut.replace(" ", "␣").replace("\n", "↵"))


def states(pair: AnswerPair, link: Link, *, theme: Theme) -> Figure:
    """Distance of the two runs' states, by layer and position."""
    where = shown(pair)
    rows = list(range(pair.rows.shape[0]))[::-1]
    return matrix(
        pair.rows[::-1][:, list(where)], columns=_aligned(pair),
        rows=[row_name(row) for row in rows], theme=theme, quantity="distance",
        high=max(1.0, float(pair.rows.max())),
        title="Distance of the two states, divided by the larger norm",
        x_title="Token: right prompt above, wrong prompt below (bold: they differ)",
        links=[[link(row, pos, -1, -1) for pos in where] for row in rows],
    )  # fmt: skip


def flows(pair: AnswerPair, found: FlowChange, link: Link, *, theme: Theme) -> Figure:
    """Flow through each state in the wrong run minus the right run."""
    where = list(shown(pair))
    change = 100 * (found.wrong - found.right)[:, where]
    rows = list(range(change.shape[0]))[::-1]
    most = max(float(np.abs(change).max()), 0.1)
    return matrix(
        change[::-1], columns=_aligned(pair), rows=[row_name(row) for row in rows], theme=theme,
        quantity="% of the flow", low=-most, high=most, signed=True,
        title="Flow into the state that predicts the wrong token: wrong run minus right run",
        x_title="Token: right prompt above, wrong prompt below (bold: they differ)",
        links=[[link(row, pos, -1, -1) for pos in where] for row in rows],
    )  # fmt: skip


def parts(pair: AnswerPair, link: Link, *, theme: Theme) -> Figure:
    """Distance of each head's and MLP's output at the state that predicts the wrong token."""
    layers, heads = pair.heads.shape
    table = np.concatenate([pair.heads, pair.mlps[:, None]], 1).T
    last = pair.rows.shape[1] - 1
    names = [*(f"head {head}" for head in range(heads)), "MLP"]
    links = [
        [link(layer + 1, last, layer, head if head < heads else -1) for layer in range(layers)]
        for head in range(heads + 1)
    ]
    return matrix(
        table, columns=[str(layer) for layer in range(layers)], rows=names, theme=theme,
        quantity="distance", high=max(1.0, float(np.nanmax(table))),
        title="Distance of each head's and MLP's output, where the wrong token is predicted",
        x_title="Layer", links=links,
    )  # fmt: skip


def probabilities(pair: AnswerPair, link: Link, *, theme: Theme) -> Figure:
    """Probability of each prompt's right token, and the difference of the flows, by layer."""
    colours = palette(theme)
    rows = np.arange(len(pair.right_probs))
    data = [
        line(rows, pair.right_probs, "right prompt: right token", colours.answer, "solid"),
        line(rows, pair.wrong_probs, "wrong prompt: right token", colours.select, "dot"),
    ]
    if pair.flows is not None:
        name = "difference of the flows (share of the mass)"
        data.append(line(rows, pair.flows.distance, name, colours.mlp, "dash"))
    last = pair.rows.shape[1] - 1
    links = [link(row, last, -1, -1) for row in range(len(rows))]
    for one in data:
        text = [row_name(row) for row in range(len(rows))]
        shown = f"%{{text}}: {one['hovertemplate']}"
        one |= {"customdata": links, "text": text, "hovertemplate": shown}
    return {
        "data": data,
        "layout": base_layout(
            theme,
            meta={"view": "tasks"},
            hovermode="closest",
            height=300,
            showlegend=True,
            legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
            margin={"l": 64, "r": 16, "t": 56, "b": 52, "pad": 0, "autoexpand": False},
            xaxis=layer_axis(theme, "After layer (emb.: at the embedding)", len(rows) - 1,
                             range=[-0.1, len(rows) - 0.9]),
            yaxis=axis(theme, "Probability (logit lens), or share", range=[-0.02, 1.03],
                       tickformat=".0%", showgrid=True),
        ),
    }  # fmt: skip
