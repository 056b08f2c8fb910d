"""One line under the controls: what is read, what is shown of it, and what is not there yet."""

from __future__ import annotations

import numpy as np
from dash import html
from dash.development.base_component import Component
from numpy.typing import NDArray

from analysis.lens.needs import PROBABILITIES
from analysis.lens.options import COMPONENTS, DECODERS, NORMS, SIMILARITIES
from analysis.lens.results import Grid
from dash_app.figures.colours import effective
from dash_app.page.window import Window, stated
from dash_app.state.selection import Selection


def formula(selection: Selection) -> str:
    """The reading as a formula."""
    decoder = DECODERS[selection.decoder]
    normed = NORMS[selection.norm].notation.format(decoder.state)
    score = SIMILARITIES[selection.similarity].notation
    readings = [score.format(matrix, normed) for matrix in decoder.matrices]
    return readings[0] if decoder.single else f"the surer of {' and '.join(readings)}"


def line(
    selection: Selection,
    shown: Window,
    grid: Grid,
    known: NDArray[np.bool_],
    pos: int,
    replaced: tuple[str, ...] = (),
) -> list[Component]:
    """The line, as parts of text; ``replaced`` says what was asked for and does not exist."""
    what = COMPONENTS[selection.component].phrase.format(
        head=f"head {selection.head}", source=f"position {selection.source or 0}"
    )
    read = html.Span(formula(selection), className="mono")
    parts: list[Component] = [html.Span([read, f", h is {what}."])]
    said = [f"Shown: {stated(shown, selection.find)}."]
    if pos not in shown.positions:
        said.append(f"The chosen position {pos} is not among them.")
    said += [*replaced, *_notes(selection, grid)]
    parts.append(html.Span(" ".join(said)))
    if not known.all():
        count, size = int(known.sum()), len(known)
        text = f"Computed so far: {count} of {size} positions. Cells with … are still to come."
        parts.append(html.Span(text, className="lens-partial", role="status"))
    return parts


def _notes(selection: Selection, grid: Grid) -> list[str]:
    notes = []
    if effective(selection.colour, selection.similarity) != selection.colour:
        notes.append(PROBABILITIES.reason)
    if selection.decoder == "max_probability" and grid.chosen.size:
        count = int((grid.chosen == 1).sum())
        notes.append(
            f"i| marks the {count:,} of {grid.chosen.size:,} cells that the input decoder read."
        )
    if selection.candidates == "subtraction":
        notes.append(
            "Candidates are listed with their logits; a cell's colour is the first one's"
            " probability: what is left of a state afterwards is not asked for one."
        )
    if selection.candidates == "matching_pursuit":
        notes.append(
            "The candidates are those of matching pursuit on h, listed with the share of |h|²"
            " explained so far; a cell's colour is the first one's softmax probability."
        )
    return notes
