"""The rows and positions of a run that are drawn, and how they are described."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.lens.results import Grid
from analysis.lens.specs import LensSpec
from analysis.tracing.specs import RunResult

#: Positions on one page, and most positions drawn at once.
PAGE, MAX_POSITIONS = 128, 1024
#: Arrays of a grid by [row, position].
_CELLS = (
    "token_ids", "probs", "scores", "entropy", "kl_to_final", "target_probs", "target_ranks",
    "chosen", "explained",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Window:
    """The rows and positions that are drawn.

    Attributes:
        rows: Rows, ascending; a component of layer l is drawn at row l + 1.
        positions: Positions, ascending.
        all_rows: Every row that can be drawn.
        size: Number of all positions.
    """

    rows: tuple[int, ...]
    positions: tuple[int, ...]
    all_rows: tuple[int, ...]
    size: int

    @property
    def whole(self) -> bool:
        """Whether every position is drawn."""
        return len(self.positions) == self.size


def window(
    run: RunResult,
    layered: bool,
    *,
    row: int,
    pos: int,
    show: str = "",
    fold: int = 1,
) -> Window:
    """Choose rows and positions.

    Args:
        run: The run.
        layered: Whether the component has one state per layer, and none at the embedding.
        row: The chosen row, which is always drawn.
        pos: The chosen position.
        show: "" (the page with the chosen position), "all", "answer", or a range such as "8-15".
        fold: Draw every ``fold``-th row, and the last.
    """
    bottom = 1 if layered else 0
    rows = tuple(range(bottom, run.info.layers + 1))
    kept = {*rows[::fold], rows[-1], *([row] if row in rows else [])}
    size = len(run.tokens)
    spanned = _spanned(run, show, pos)
    return Window(tuple(sorted(kept)), tuple(spanned[:MAX_POSITIONS]), rows, size)


def opening_position(run: RunResult) -> int:
    """The position that a run opens at: the one that predicts the answer's first visible token.

    That is the prompt's last position, unless the answer begins with blanks, as sums often do.
    """
    answer = range(run.prompt_length, len(run.tokens))
    visible = (at - 1 for at in answer if run.tokens[at].text.strip())
    return next(visible, run.prompt_length - 1)


def _spanned(run: RunResult, show: str, pos: int) -> list[int]:
    size = len(run.tokens)
    if show == "all":
        return list(range(size))
    if show == "answer":
        return list(range(max(run.prompt_length - 1, 0), size))
    if "-" in show:
        first, last = map(int, show.split("-"))
        return list(range(min(first, size), min(last + 1, size)))
    if size <= PAGE:
        return list(range(size))
    first = pos // PAGE * PAGE
    return list(range(first, min(first + PAGE, size)))


def pages(size: int) -> list[tuple[int, int]]:
    """First and last position of each page; one page where all fit."""
    return [(first, min(first + PAGE, size) - 1) for first in range(0, size, PAGE)]


def describe_window(shown: Window) -> str:
    """The window in words: "all rows, positions 128 to 255 of 512"."""
    count, rows = len(shown.rows), len(shown.all_rows)
    first = "all rows" if count == rows else f"{count} of {rows} rows (folded)"
    if shown.whole:
        return f"{first}, all {shown.size} positions"
    if not shown.positions:
        return f"{first}, no positions"
    return f"{first}, positions {shown.positions[0]} to {shown.positions[-1]} of {shown.size}"


def empty_grid(run: RunResult, spec: LensSpec, layered: bool) -> Grid:
    """A grid without positions, for a run that was not decoded yet."""
    rows = np.arange(run.info.layers + (0 if layered else 1))
    shape, targets = (len(rows), 0), len(spec.target)
    none = np.zeros((*shape, spec.k), np.float32)
    cells, wide = np.zeros(shape, np.float32), np.zeros((*shape, targets), np.float32)
    return Grid(
        rows, np.zeros(0, np.int64), none.astype(np.int64), none, none, cells, cells,
        np.array(spec.target, np.int64), wide, wide.astype(np.int64), cells.astype(np.int64), none,
        False, (), spec.component, spec.decoder, spec.norm, spec.similarity,
    )  # fmt: skip


def laid_out(grid: Grid, shown: Window) -> Grid:
    """The drawn part of a grid; missing cells are -1 and NaN.

    ``rows`` of the result are numbered as in the grid (by layer, for a component of a layer).
    """
    offset = shown.all_rows[0]
    rows = indices_of(grid.rows + offset, shown.rows)
    columns = indices_of(grid.positions, shown.positions)
    parts: dict[str, Any] = {
        name: take_cells(getattr(grid, name), rows, columns) for name in _CELLS
    }
    return replace(
        grid,
        rows=np.array(shown.rows, np.int64) - offset,
        positions=np.array(shown.positions, np.int64),
        **parts,
    )


def indices_of(have: NDArray[np.int64], want: Sequence[int]) -> NDArray[np.int64]:
    """Index of each wanted number in ``have``; -1 if it is missing."""
    found = {int(number): place for place, number in enumerate(have)}
    return np.array([found.get(number, -1) for number in want], np.int64)


def take_cells(
    cells: NDArray[np.generic], rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> NDArray[np.generic]:
    """Cells by index; NaN (-1 for integers) where an index is -1."""
    missing = np.nan if np.issubdtype(cells.dtype, np.floating) else -1
    shape = (len(rows), len(columns), *cells.shape[2:])
    out = np.full(shape, missing, cells.dtype)
    here, there = rows >= 0, columns >= 0
    out[np.ix_(here, there)] = cells[np.ix_(rows[here], columns[there])]
    return out
