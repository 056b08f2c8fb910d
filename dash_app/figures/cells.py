"""What is written into the heatmap's cells, and what the pointer is told of each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from analysis.lens.options import COMPONENTS
from analysis.lens.results import Grid
from analysis.tracing.specs import RunResult
from dash_app.figures.colours import Paint
from dash_app.page.token_labels import percent, plain, row_name, token_markup, width
from dash_app.page.window import Window

#: Width of a character of cell text, in pixels, with its font size.
CHARACTER, CELL_FONT = 6.7, 11
#: What stands in a cell that was not computed yet.
NOT_YET = "…"
#: Marks of the decoder that read a cell, where the better of two did.
MARKS = ("o", "i")
MARK_NAMES = ("output", "input")
#: Candidates that the pointer is told of; of so many cells at once, only the first.
TOLD, CROWD = 5, 12_000


def layered(component: str) -> bool:
    """Whether a component has one state a layer, and none at the embedding."""
    return not COMPONENTS[component].by_row


def state_name(component: str, row: int) -> str:
    """What is read at a row of the page."""
    if not layered(component):
        return row_name(row)
    phrase = COMPONENTS[component].phrase.format(head="one head", source="one source position")
    return f"layer {row - 1}: {phrase}"


def cell_labels(grid: Grid, column: float, known: NDArray[np.bool_]) -> list[list[str]]:
    """[row][pos] the best candidate, as much of it as fits; who read it, where that is a choice."""
    best = grid.decoder == "max_probability"
    room = int((column - 6) / CHARACTER) - (2 if best else 0)
    names = {token.id: plain(token_markup(token, max(room, 2))) for token in grid.vocabulary}
    written = [
        [names.get(number, "") for number in line] for line in grid.token_ids[..., 0].tolist()
    ]
    if best:
        written = [
            [f"{MARKS[mark]}|{text}" if text else "" for text, mark in zip(*pair, strict=True)]
            for pair in zip(written, grid.chosen.tolist(), strict=True)
        ]
    missing = np.flatnonzero(~known).tolist()
    for line in written:
        for column_number in missing:
            line[column_number] = NOT_YET
    return written


def hover_lines(
    grid: Grid, run: RunResult, shown: Window, paint: Paint, known: NDArray[np.bool_]
) -> list[list[str]]:
    """[row][pos] what the pointer is told."""
    count = TOLD if grid.token_ids[..., 0].size <= CROWD else 1
    names = {token.id: token_markup(token, 18) for token in grid.vocabulary}
    padded = {number: text + " " * (20 - width(plain(text))) for number, text in names.items()}
    heads = [_position_line(run, position) for position in shown.positions]
    candidates = _candidates(grid, padded, count)
    facts = _facts(grid)
    values = paint.values.tolist()
    lines = []
    for index, row in enumerate(shown.rows):
        title = f"<b>row {row}</b> · {state_name(grid.component, row)}<br>"
        lines.append(
            [
                f"{title}{heads[at]}<br>"
                + (
                    f"{_value(paint, values[index][at])}{candidates[index][at]}{facts[index][at]}"
                    if known[at]
                    else "not computed yet"
                )
                for at in range(len(shown.positions))
            ]
        )
    return lines


def _value(paint: Paint, value: float) -> str:
    if paint.words is None:
        return ""
    if math.isnan(value):
        return "<b>this colour has no value here</b><br>"
    return f"<b>{_safe(paint.words(value))}</b><br>"


def _position_line(run: RunResult, position: int) -> str:
    read = token_markup(run.tokens[position], 18)
    if position + 1 >= len(run.tokens):
        return f"position {position} reads {read}, predicts what comes next"
    follows = token_markup(run.tokens[position + 1], 18)
    return f"position {position} reads {read}, next is {follows}"


def _candidates(grid: Grid, padded: dict[int, str], count: int) -> list[list[str]]:
    """[row][pos] the candidates, one a line, with what each is worth."""
    ids = grid.token_ids[..., :count].tolist()
    amounts = _amounts(grid, count)
    return [
        [
            "".join(
                f"{padded[number]}{amount}<br>"
                for number, amount in zip(cell, worth, strict=True)
                if number >= 0
            )
            for cell, worth in zip(line, told, strict=True)
        ]
        for line, told in zip(ids, amounts, strict=True)
    ]


def _amounts(grid: Grid, count: int) -> list[list[list[str]]]:
    """[row][pos][k] probability, or score; for matching pursuit, the share explained so far."""
    probs = grid.probs[..., :count].tolist()
    scores = grid.scores[..., :count].tolist()
    explained = grid.explained[..., :count].tolist()
    return [
        [
            [amount(*values) for values in zip(*cell, strict=True)]
            for cell in zip(*line, strict=True)
        ]
        for line in zip(probs, scores, explained, strict=True)
    ]


def amount(prob: float, score: float, explained: float) -> str:
    """What a candidate is worth, right-aligned for the pointer's box."""
    text = f"{score:.3g}" if math.isnan(prob) else percent(prob)
    more = "" if math.isnan(explained) else f"  explains {percent(explained)}"
    return _safe(f"{text:>8}{more}")


def _facts(grid: Grid) -> list[list[str]]:
    """[row][pos] entropy, KL, and which decoder read the cell."""
    both = grid.decoder == "max_probability"
    return [
        [
            _fact(entropy, kl) + (f"<br>read by the {MARK_NAMES[mark]} decoder" if both else "")
            for entropy, kl, mark in zip(*line, strict=True)
        ]
        for line in zip(
            grid.entropy.tolist(), grid.kl_to_final.tolist(), grid.chosen.tolist(), strict=True
        )
    ]


def _fact(entropy: float, kl: float) -> str:
    if math.isnan(entropy):
        return "no probabilities: ranked by score"
    return f"entropy {entropy:.2f} nats · KL to final {kl:.2f}"


def _safe(text: str) -> str:
    return text.replace("<", "&lt;").replace(">", "&gt;")


def row_texts(component: str, rows: Sequence[int], muted: str) -> list[str]:
    """Names of the rows along the axis."""
    grey = f'<span style="color:{muted}">'
    if not layered(component):
        return [f"{grey}{row_name(row)}</span> {row:>2} " for row in rows]
    return [f"{grey}{COMPONENTS[component].short}, layer</span> {row - 1:>2} " for row in rows]
