"""Where readings differ: rows by positions, coloured by how far several decoders disagree."""

from __future__ import annotations

import math

import numpy as np

from analysis.lens.results import Disagreement
from analysis.tracing.specs import RunResult
from dash_app.figures.cells import CHARACTER, state_name
from dash_app.figures.colours import Paint
from dash_app.figures.heatmap import READABLE, column_width, framed
from dash_app.page.theme import Figure, Theme
from dash_app.page.token_labels import percent, plain, token_markup, width
from dash_app.page.window import Window, places, taken


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
    """The picture; cells name the first decoder's token, the pointer is told everyone's.

    Args:
        found: What was computed.
        run: Whose tokens.
        shown: Rows and positions to draw.
        differ: "jsd", the Jensen-Shannon divergence, or "top1", which tokens come first.
        row: The chosen cell's row.
        pos: Its position.
        theme: Of the page.
    """
    rows, columns = places(found.rows, shown.rows), places(found.positions, shown.positions)
    divergence = taken(found.divergence, rows, columns).astype(np.float32)
    agreement = taken(found.agreement, rows, columns).astype(np.float32)
    top = np.stack([taken(one, rows, columns) for one in found.top1]).astype(np.int64)
    paint = _paint(found, divergence, agreement, differ)
    room = max(int((column_width(len(shown.positions)) - 6) / CHARACTER), 2)
    names = {token.id: plain(token_markup(token, room)) for token in found.vocabulary}
    readable = column_width(len(shown.positions)) >= READABLE
    meta = {
        "labels": [[names.get(one, "") for one in line] for line in top[0].tolist()]
        if readable
        else [],
        "ids": top[0].tolist(),
    }
    told = _told(found, run, shown, top, divergence, agreement)
    return framed(paint, told, meta, run, shown, row=row, pos=pos, theme=theme)


def _paint(
    found: Disagreement, divergence: np.ndarray, agreement: np.ndarray, differ: str
) -> Paint:
    most = math.log(len(found.decoders))
    if differ == "jsd":
        title = f"Jensen-Shannon divergence, nats (0 to ln {len(found.decoders)} = {most:.2f})"
        return Paint(divergence, title, 0.0, most)
    return Paint(1.0 - agreement, "pairs of decoders whose best tokens differ", 0.0, 1.0)


def _told(
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
        title = f"<b>row {row}</b> · {state_name('block_output', row)}<br>"
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
