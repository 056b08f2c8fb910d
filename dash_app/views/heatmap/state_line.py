"""One line under the controls: what is read, what is shown of it, and what is not there yet."""

from __future__ import annotations

import numpy as np
from dash import html
from dash.development.base_component import Component
from numpy.typing import NDArray

from analysis.lens.results import Grid
from dash_app.figures.colours import effective
from dash_app.page.window import Window, stated
from dash_app.state.selection import Selection
from dash_app.views.heatmap.choices import NO_SCORES

MATRICES = {
    "output": "U",
    "input": "E",
    "linear": "((1 − s)·E + s·U)",
    "quadratic": "((1 − s²)·E + s²·U)",
    "learned": "U",
}
NORMS = {"full": "N({})", "unit": "N₁({})", "none": "{}"}
SIMILARITIES = {
    "dot": "softmax({} · {})",
    "cosine": "cos({}, {})",
    "euclidean": "|{} − {}|",
}
STATES = {
    "block_output": "the block's output",
    "attention_output": "what attention adds",
    "mlp_output": "what the MLP adds",
    "mid_residual": "the state between attention and MLP",
    "block_increment": "what the block adds",
    "head_output": "what head {head} adds",
    "source_output": "what head {head} adds from position {source}",
}
BEST_OF_TWO = "the surer of {} and {}"


def formula(selection: Selection) -> str:
    """The reading as a formula."""
    state = "h + A·h + b" if selection.decoder == "learned" else "h"
    normed = NORMS[selection.norm].format(state)
    wanted = SIMILARITIES[selection.similarity]
    if selection.decoder == "max_probability":
        return BEST_OF_TWO.format(wanted.format("U", normed), wanted.format("E", normed))
    return wanted.format(MATRICES[selection.decoder], normed)


def line(
    selection: Selection,
    shown: Window,
    grid: Grid,
    known: NDArray[np.bool_],
    pos: int,
    replaced: tuple[str, ...] = (),
) -> list[Component]:
    """The line, as parts of text; ``replaced`` says what was asked for and does not exist."""
    what = STATES[selection.component].format(head=selection.head, source=selection.source or 0)
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
        notes.append(NO_SCORES)
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
