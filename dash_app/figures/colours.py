"""The colours of the heatmap's cells: values, unit, scale, and the value in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.contract.specs import Token
from analysis.lens.options import COLOURS, SHARE_METHODS
from analysis.lens.results import Colours, Grid
from dash_app.page.theme import Scale, readable_on, scale_colour
from dash_app.page.token_labels import percent, token_markup
from dash_app.page.window import Window, indices_of, take_cells

Values = NDArray[np.floating]
Words = Callable[[float], str]

PART_NAMES = {"attention": "attention", "mlp": "MLP", "residual": "residual"}
#: The colour that replaces those of a distribution if there are only scores.
SCORE = "score"
SCORES = {
    "cosine": "cosine similarity, −1 to 1",
    "euclidean": "Euclidean distance, embedding units",
}


@dataclass(frozen=True, slots=True)
class CellColours:
    """One colour for each drawn cell.

    Attributes:
        values: [row, pos] as drawn (a logarithm if ``ticks`` say so); NaN: no colour.
        title: Title of the colour bar, with the unit.
        low, high: Ends of the scale.
        signed: Whether 0 is in the middle of the scale.
        ticks: Numbers and texts along the bar; empty for plotly's own.
        words: From a cell's value to its text in the hover box; None if the box has it anyway.
    """

    values: Values
    title: str
    low: float
    high: float
    signed: bool = False
    ticks: tuple[list[float], list[str]] = field(default_factory=lambda: ([], []))
    words: Words | None = None


def effective(colour: str, similarity: str) -> str:
    """The colour that is drawn: cosine and distance have scores instead of probabilities."""
    return SCORE if similarity != "dot" and COLOURS[colour].of_distribution else colour


def of_grid(colour: str) -> bool:
    """Whether a grid holds the colour itself."""
    return colour == SCORE or COLOURS[colour].of_grid


def cell_colours(
    colour: str,
    grid: Grid,
    extra: Colours | None,
    shown: Window,
    *,
    part: str = "attention",
    by: str = "norm",
    asked: Token | None = None,
) -> CellColours:
    """Colour the cells of a grid.

    Args:
        colour: A name in ``analysis.lens.options.COLOURS``, or "score".
        grid: Laid out in the window (``window.laid_out``).
        extra: Colours that the grid does not contain, with their own rows and positions.
        shown: The window.
        part: The part whose share is the colour.
        by: The measure of the share.
        asked: The token in ``grid.target_ids``.
    """
    name = token_markup(asked, 14) if asked else "the chosen token"
    if of_grid(colour):
        return _of_the_grid(colour, grid, name)
    return _extra(colour, extra, shown, part, by)


def difference(edited: Grid, baseline: Grid, asked: Token | None) -> CellColours:
    """What edits do to the probability of one token in each cell; 0 is in the middle.

    Args:
        edited: Laid out in the window, with the token as its first target.
        baseline: The same cells without the edits.
        asked: The token.
    """
    name = token_markup(asked, 14) if asked else "the chosen token"
    values = _target(edited.target_probs) - _target(baseline.target_probs)
    finite = np.abs(values[np.isfinite(values)])
    most = max(float(finite.max()), 1e-3) if finite.size else 1.0
    ends = [-most, 0.0, most]
    ticks = ends, [f"{100 * end:+.3g}".replace("-", "−") if end else "0" for end in ends]
    words = _worded(f"p of {name}:", _points)
    title = f"p({name}), edited − baseline, points"
    return CellColours(values, title, -most, most, True, ticks, words)


def _points(value: float) -> str:
    return f"{100 * value:+.2f} percentage points".replace("-", "−")


def cell_texts(
    values: Values,
    texts: Sequence[Sequence[str]],
    low: float,
    high: float,
    stops: Scale,
    **font: Any,
) -> list[dict[str, Any]]:
    """Traces that write texts into the cells of a heatmap, each in the ink that is readable there.

    Plotly's own ``texttemplate`` falls below a contrast of 3 on mid tones.

    Args:
        values: [row, column], the heatmap's ``z``; a cell without a value gets no text.
        texts: [row][column]; an empty text is left out.
        low: The value at the start of the scale.
        high: The value at its end.
        stops: The heatmap's scale.
        font: Further properties of the font.
    """
    places: dict[str, list[tuple[int, int]]] = {}
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            if texts[row][column] and math.isfinite(value):
                part = min(1.0, max(0.0, (float(value) - low) / ((high - low) or 1.0)))
                ink = readable_on(scale_colour(stops, part))
                places.setdefault(ink, []).append((row, column))
    return [
        {
            "type": "scatter",
            "mode": "text",
            "x": [column for _, column in cells],
            "y": [row for row, _ in cells],
            "text": [texts[row][column] for row, column in cells],
            "textfont": {"color": ink, **font},
            "hoverinfo": "skip",
        }
        for ink, cells in sorted(places.items())
    ]


def _of_the_grid(colour: str, grid: Grid, name: str) -> CellColours:
    if colour == "probability":
        return CellColours(grid.probs[..., 0], "probability of the token shown", 0.0, 1.0)
    if colour == "token_probability":
        values = _target(grid.target_probs)
        return CellColours(values, f"probability of {name}", 0.0, 1.0, words=_worded(name, percent))
    if colour == "token_rank":
        return _rank(_target(grid.target_ranks), name)
    if colour == "entropy":
        return _magnitude(grid.entropy, "entropy, nats")
    if colour == "kl":
        return _magnitude(grid.kl_to_final, "KL(final ‖ cell), nats")
    return _score(grid)


def _extra(colour: str, extra: Colours | None, shown: Window, part: str, by: str) -> CellColours:
    cells = _spread(extra, shown, colour, part, by)
    match colour:
        case "cross_entropy":
            return _magnitude(
                cells, "−ln p(next token), nats", _worded("next token", lambda v: f"{v:.2f} nats")
            )
        case "state_norm":
            return _norm(cells)
        case "cosine_before":
            words = _worded("cosine to the row before", lambda v: f"{v:.3f}")
            return CellColours(cells, "cosine to the row before", -1.0, 1.0, True, words=words)
        case "rank_change":
            return _change(cells)
    title = f"{PART_NAMES[part]}'s share of the block's output ({SHARE_METHODS[by].label})"
    words = _worded(f"{PART_NAMES[part]}'s share ({SHARE_METHODS[by].label})", percent)
    return CellColours(cells, title, 0.0, 1.0, words=words)


def _spread(extra: Colours | None, shown: Window, colour: str, part: str, by: str) -> Values:
    """[row, pos] values of a colour outside the grid, in the window's cells."""
    empty = np.full((len(shown.rows), len(shown.positions)), np.nan, np.float32)
    if extra is None:
        return empty
    columns = indices_of(extra.positions, shown.positions)
    if colour == "share":
        return _floats(
            take_cells(extra.share(part, by), indices_of(extra.layers + 1, shown.rows), columns)
        )
    cells: Values = getattr(extra, colour)
    return _floats(
        take_cells(cells, indices_of(extra.rows + shown.all_rows[0], shown.rows), columns)
    )


def _floats(cells: NDArray[np.generic]) -> Values:
    return cells.astype(np.float32)


def _target(cells: NDArray[np.generic]) -> Values:
    """[row, pos] values of the first target token; ranks start at 1, NaN where not decoded."""
    if not cells.shape[-1]:
        return np.full(cells.shape[:2], np.nan, np.float32)
    values = _floats(cells[..., 0])
    return np.where(values < 0, np.nan, values + 1) if cells.dtype.kind == "i" else values


def _worded(what: str, word: Words) -> Words:
    return lambda value: f"{what} {word(value)}"


def _magnitude(values: Values, title: str, words: Words | None = None) -> CellColours:
    finite = values[np.isfinite(values)]
    return CellColours(values, title, 0.0, float(finite.max()) if finite.size else 1.0, words=words)


def _score(grid: Grid) -> CellColours:
    values, title = grid.scores[..., 0], SCORES.get(grid.similarity, grid.similarity)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    return CellColours(values, f"{title}, of the token shown", min(low, 0.0), max(high, low + 1e-6))


def _powers(low: float, high: float) -> tuple[list[float], list[str]]:
    """Ticks at the powers of ten, at most five of them."""
    first, last = math.floor(low), math.ceil(high)
    step = max(1, math.ceil((last - first) / 4))
    at = [float(power) for power in range(first, last + 1, step) if low <= power <= high]
    return at, [f"{10**power:,.0f}" if power >= 0 else f"{10**power:g}" for power in at]


def _logarithmic(values: Values, title: str, words: Words) -> CellColours:
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(values > 0, np.log10(values), np.nan)
    finite = logs[np.isfinite(logs)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    high = max(high, low + 0.1)
    ticks = _powers(low, high)
    if len(ticks[0]) < 2:
        ticks = ([low, high], [f"{10.0**low:.3g}", f"{10.0**high:.3g}"])
    return CellColours(logs, title, low, high, ticks=ticks, words=words)


def _rank(ranks: Values, name: str) -> CellColours:
    """Minus the logarithm of the rank, so that the best rank has the highest value."""
    with np.errstate(invalid="ignore"):
        logs = -np.log10(ranks)
    finite = logs[np.isfinite(logs)]
    low = min(float(finite.min()), -1.0) if finite.size else -1.0
    at, _ = _powers(0.0, -low)
    ticks = ([-number for number in at], [f"{10**number:,.0f}" for number in at])
    words = _worded(f"rank of {name}", lambda value: f"{round(10**-value):,}")
    return CellColours(logs, f"rank of {name} (log, 1 is best)", low, 0.0, ticks=ticks, words=words)


def _norm(norms: Values) -> CellColours:
    words = _worded("norm of the state", lambda value: f"{10**value:.4g}")
    return _logarithmic(norms, "L2 norm of the state (log)", words)


def _change(change: Values) -> CellColours:
    """Signed logarithm, because ranks change by one or by tens of thousands."""
    logs = np.sign(change) * np.log10(1 + np.abs(change))
    finite = np.abs(logs[np.isfinite(logs)])
    most = max(float(finite.max()), 1.0) if finite.size else 1.0
    powers = range(1, math.floor(most) + 1, max(1, math.floor(most) // 2))
    at = [*(-math.log10(1 + 10**power) for power in reversed(powers)), 0.0]
    at += [math.log10(1 + 10**power) for power in powers]
    texts = [*(f"−{10**power:,}" for power in reversed(powers)), "0"]
    texts += [f"+{10**power:,}" for power in powers]
    return CellColours(
        logs,
        "rank change from the row below (+ better), log",
        -most,
        most,
        True,
        (at, texts),
        _moved,
    )


def _moved(value: float) -> str:
    places_moved = round(math.copysign(10 ** abs(value) - 1, value))
    if places_moved == 0:
        return "same rank in the row before"
    verb = "rose" if places_moved > 0 else "fell"
    return f"{verb} {abs(places_moved):,} places since the row before"
