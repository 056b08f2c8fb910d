"""Which run the heatmap shows, the marks of edited cells, and what it says about them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.lens.options import CANDIDATES, SIMILARITIES
from analysis.tracing.edits import edited_cells, parse_all, reachable
from analysis.tracing.specs import RunResult
from dash_app.page.theme import Theme, palette
from dash_app.page.token_labels import quoted
from dash_app.page.window import Window
from dash_app.state.selection import RunRef, Selection

#: The token's probability is compared, so the cells must have one.
DIFFERENCE = {
    "colour": "token_probability",
    "similarity": SIMILARITIES.default,
    "candidates": CANDIDATES.default,
}


def version_of(run: RunRef, selection: Selection) -> tuple[RunRef, Selection]:
    """The run that the heatmap shows, and the selection that its version needs."""
    if selection.version == "baseline":
        return run.baseline, selection
    if selection.version == "difference":
        return run, selection.model_copy(update=DIFFERENCE)
    return run, selection


def _cells(run: RunRef) -> NDArray[np.bool_]:
    """[row, pos] the states that the edits change directly."""
    shape = run.layers + 1, len(run.token_ids)
    cells = np.zeros(shape, bool)
    for edit in parse_all(run.edits):
        cells |= edited_cells(edit, *shape)
    return cells


def marks(run: RunRef, shown: Window, theme: Theme) -> dict[str, Any]:
    """A trace of diamonds in the corners of the edited cells."""
    drawn = _cells(run)[np.ix_(shown.rows, shown.positions)]
    lines, columns = np.nonzero(drawn)
    colours = palette(theme)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "edited",
        "x": columns - 0.42,
        "y": lines + 0.3,
        "marker": {
            "symbol": "diamond",
            "size": 8,
            "color": colours.select,
            "line": {"color": colours.surface, "width": 1},
        },
        "hoverinfo": "skip",
        "showlegend": False,
    }


def notes(
    run: RunRef, selection: Selection, shown: Window, result: RunResult, asked: int
) -> list[str]:
    """What the caption says about the run that is shown; nothing without edits."""
    if not run.edits:
        return []
    if selection.version == "baseline":
        return ["This is the baseline, without the edits."]
    cells = reachable(_cells(run))[np.ix_(shown.rows, shown.positions)]
    reach = (
        f"◆ marks edited states. They can change {int(cells.sum()):,} of the {cells.size:,} cells"
        " shown: deeper rows at the same position and, from the next layer on, later positions."
    )
    if selection.version != "difference":
        return [reach]
    names = {token.id: token for token in (*result.tokens, *result.vocabulary)}
    token = quoted(names[asked]) if asked in names else "the chosen token"
    what = f"Colour: the probability of {token} in the edited run minus that in the baseline."
    return [f"{what} Tokens are the edited run's, by dot product.", reach]
