"""Disagreement of several decoders, as a heatmap of rows by positions."""

from __future__ import annotations

import math

import numpy as np

from analysis.lens.results import Disagreement
from analysis.tracing.specs import RunResult
from dash_app.figures.colours import CellColours
from dash_app.figures.heatmap import CHARACTER, READABLE, column_width, framed, state_name
from dash_app.page.theme import Figure, Theme
from dash_app.page.token_labels import percent, plain, token_markup, width
from dash_app.page.window import Window, indices_of, take_cells


def disagreement(
    found: Disagreement,
    run: RunResult,
    shown: Window,
    *,
    differ: str,
    row: int,
    pos: int,
    theme: Theme,
) -> Figure:
    """The heatmap; cells show the first decoder's token, hover boxes those of all decoders.

    Args:
        found: The comparison.
        run: The run, for its tokens.
        shown: The rows and positions to draw.
        differ: "jsd", the Jensen-Shannon divergence, or "top1", which tokens come first.
        row: The chosen cell's row.
        pos: Its position.
        theme: The page's theme.
    """
    rows, columns = indices_of(found.rows, shown.rows), indices_of(found.positions, shown.positions)
    divergence = take_cells(found.divergence, rows, columns).astype(np.float32)
    agreement = take_cells(found.agreement, rows, columns).astype(np.float32)
    top = np.stack([take_cells(one, rows, columns) for one in found.top1]).astype(np.int64)
    cell_colours = _cell_colours(found, divergence, agreement, differ)
    room = max(int((column_width(len(shown.positions)) - 6) / CHARACTER), 2)
    names = {token.id: plain(token_markup(token, room)) for token in found.vocabulary}
    readable = column_width(len(shown.positions)) >= READABLE
    meta = {
        "labels": [[names.get(one, "") for one in line] for line in top[0].tolist()]
        if readable
        else [],
        "ids": top[0].tolist(),
    }
    hover = _hover_texts(found, run, shown, top, divergence, agreement)
    return framed(cell_colours, hover, meta, run, shown, row=row, pos=pos, theme=theme)


def _cell_colours(
    found: Disagreement, divergence: np.ndarray, agreement: np.ndarray, differ: str
) -> CellColours:
    most = math.log(len(found.decoders))
    if differ == "jsd":
        title = f"Jensen-Shannon divergence, nats (0 to ln {len(found.decoders)} = {most:.2f})"
        return CellColours(divergence, title, 0.0, most)
    return CellColours(1.0 - agreement, "pairs of decoders whose best tokens differ", 0.0, 1.0)


def _hover_texts(
    found: Disagreement,
    run: RunResult,
    shown: Window,
    top: np.ndarray,
    divergence: np.ndarray,
    agreement: np.ndarray,
) -> list[list[str]]:
    names = {token.id: token_markup(token, 18) for token in found.vocabulary}
    longest = max(width(name) for name in found.decoders)
    heads = [
        f"position {position} reads {token_markup(run.tokens[position], 18)}<br>"
        for position in shown.positions
    ]
    lines = []
    for index, row in enumerate(shown.rows):
        title = f"<b>{state_name('block_output', row)}</b><br>"
        lines.append(
            [
                title
                + heads[at]
                + "".join(
                    f"{name:<{longest}}  {names.get(int(top[number, index, at]), '?')}<br>"
                    for number, name in enumerate(found.decoders)
                )
                + f"divergence {divergence[index, at]:.3f} nats · same best token in "
                + f"{percent(float(agreement[index, at]))} of pairs"
                for at in range(len(shown.positions))
            ]
        )
    return lines
