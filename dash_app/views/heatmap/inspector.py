"""The chosen cell in words, what a component promotes there, and the marks of edited cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from dash.development.base_component import Component
from numpy.typing import NDArray

from analysis.contract.choices import Situation
from analysis.contract.specs import ModelInfo
from analysis.lens.options import CANDIDATES, SIMILARITIES
from analysis.lens.results import Grid, Promoted
from analysis.lens.specs import PromotedSpec
from analysis.tracing.edits import edited_cells, parse_all, reachable
from analysis.tracing.specs import RunResult
from dash_app.errors import explain
from dash_app.figures.heatmap import MARK_NAMES, layered, state_name
from dash_app.page.panel import fact, options_of, problem_notice, select_button, switch, target
from dash_app.page.theme import Theme, palette
from dash_app.page.thin_layout import html
from dash_app.page.token_labels import label, percent, quoted, row_name
from dash_app.page.window import Window
from dash_app.state.context import Service, result_of, trace_of
from dash_app.state.options import PROMOTED_BY
from dash_app.state.selection import RunRef, Selection, pinned, resolve, toggle

HELP = (
    "U · N(part), with the norm's scale frozen at the last state: the part's direct contribution to"
    " each logit at this position (direct logit attribution; LLM Transparency Tool)."
)
COUNT = 6


def promoted_section(service: Service, run: RunRef, selection: Selection) -> list[Component]:
    """The choice of a component, and the tokens that it promotes and suppresses."""
    try:
        info = result_of(service, run).info
        return [*_choice(selection, run, info), *_lists(service, run, selection)]
    except Exception as error:  # noqa: BLE001 - shown in place of the lists
        return [*_choice(selection, run), problem_notice(explain(error))]


def spec(run: RunRef, selection: Selection) -> PromotedSpec | None:
    """The spec to compute; None at the embedding, or if no component is chosen."""
    chosen = resolve(selection, run)
    if not selection.adds or chosen.row == 0:
        return None
    if selection.adds != "head_output":
        return PromotedSpec(selection.adds, chosen.row - 1, chosen.pos, k=COUNT)
    layer, head = writing_head(run, selection)
    return PromotedSpec(selection.adds, layer, chosen.pos, head=head, k=COUNT)


def writing_head(run: RunRef, selection: Selection) -> tuple[int, int]:
    """Layer and head whose output is read: the chosen head, as in the tab Head, if there is one."""
    chosen = resolve(selection, run)
    if chosen.heads:
        return chosen.layer, chosen.heads[0]
    return max(chosen.row - 1, 0), min(selection.adder, run.heads - 1)


def _choice(selection: Selection, run: RunRef, info: ModelInfo | None = None) -> list[Component]:
    offered = options_of(PROMOTED_BY, Situation(info))
    buttons = switch("adds", offered, selection.adds, "Promoted by")
    parts = [
        html.H3("Promoted and suppressed by", className="inspector-title"),
        html.Div(buttons, className="segmented"),
    ]
    if selection.adds == "head_output":
        layer, chosen = writing_head(run, selection)
        buttons = [
            select_button(
                str(head),
                target(layer=layer, heads=(head,), adder=head),
                f"btn btn-outline-secondary segment{' is-selected' if head == chosen else ''}",
                label=f"Layer {layer}, head: {head}",
                pressed=head == chosen,
            )
            for head in range(run.heads)
        ]
        parts.append(html.Div(buttons, className="segmented"))
    return parts


def _lists(service: Service, run: RunRef, selection: Selection) -> list[Component]:
    asked = spec(run, selection)
    if asked is None:
        text = "No component writes to the embedding. Choose a higher row."
        return [html.P(text if selection.adds else HELP, className="prompt-hint")]
    found: Promoted = service.ask(trace_of(run), asked)
    own = result_of(service, run).top_ids[found.position, :2].tolist()
    pins = pinned(selection, run, own)
    note = f"Layer {found.layer}, norm {found.norm:.3g}. {HELP}"
    return [
        html.Div(
            [
                _list("Promotes", found, found.promoted.tolist(), found.promoted_logits, pins),
                _list(
                    "Suppresses", found, found.suppressed.tolist(), found.suppressed_logits, pins
                ),
            ],
            className="promoted",
        ),
        html.P(note, className="prompt-hint"),
    ]


def _list(
    title: str, found: Promoted, ids: list[int], values: object, pins: tuple[int, ...]
) -> Component:
    names = {token.id: token for token in found.vocabulary}
    pairs = zip(ids, values.tolist(), strict=True)  # type: ignore[attr-defined]
    rows = [
        select_button(
            [
                html.Span(label(names[number], 14), className="bar-label"),
                html.Span(f"{value:+.2f}".replace("-", "−"), className="bar-value num"),
            ],
            toggle("pins", number, pins),
            f"promoted-row{' is-pinned' if number in pins else ''}",
            label=f"{title} {label(names[number])} by {value:.2f} logits. Pin it",
            pressed=number in pins,
        )
        for number, value in pairs
    ]
    return html.Div([html.H4(title, className="promoted-title"), *rows])


def undecoded(selection: Selection, run: RunResult, row: int, pos: int) -> list[Component]:
    """A cell that is not decoded yet, or that the component does not have."""
    why = "Not computed yet."
    if row == 0 and layered(selection.component):
        why = "The embedding has no such part. Choose a higher row."
    facts = [fact("State", row_name(row)), fact("Token", f"{label(run.tokens[pos])}  ({pos})")]
    return [
        html.H3("Chosen cell", className="inspector-title"),
        html.Dl(facts, className="inspector-facts"),
        html.P(why, className="prompt-hint"),
    ]


def inspect_cell(
    grid: Grid,
    run: RunResult,
    row: int,
    column: int,
    pins: tuple[int, ...],
    coloured: str = "",
) -> list[Component]:
    """The facts about one cell, with its candidates to pin.

    Args:
        grid: The decoded grid.
        run: The run, for its tokens.
        row: Index of the cell along the grid's first axis.
        column: Index along its second axis.
        pins: Tokens in the curves.
        coloured: The value of its colour, if the other facts do not have it.
    """
    pairs = cell_facts(grid, run, row, column) + ([("Coloured by", coloured)] if coloured else [])
    facts = [fact(name, value) for name, value in pairs]
    return [
        html.H3("Chosen cell", className="inspector-title"),
        html.Dl(facts, className="inspector-facts"),
        html.H3(
            [
                "Candidates ",
                html.Span(UNITS[_measure(grid, row, column)], className="inspector-unit"),
            ],
            className="inspector-title",
        ),
        html.Div(_candidates(grid, row, column, pins), className="bar-list"),
        html.P("Click a candidate to pin it in the curves.", className="prompt-hint"),
    ]


def cell_facts(grid: Grid, run: RunResult, row: int, column: int) -> list[tuple[str, str]]:
    """(name, value) of each fact about a cell."""
    pos = int(grid.positions[column])
    page_row = int(grid.rows[row]) + (1 if layered(grid.component) else 0)
    follows = label(run.tokens[pos + 1]) if pos + 1 < len(run.tokens) else "not generated"
    facts = [
        ("State", state_name(grid.component, page_row)),
        ("Token", f"{label(run.tokens[pos])}  (position {pos})"),
        ("Next token", follows),
    ]
    if not math.isnan(grid.entropy[row, column]):
        facts += [
            ("Entropy", f"{grid.entropy[row, column]:.2f} nats"),
            ("KL to final", f"{grid.kl_to_final[row, column]:.2f} nats"),
        ]
    if grid.decoder == "max_probability":
        facts.append(("Decoded by", f"{MARK_NAMES[int(grid.chosen[row, column])]} decoder"))
    if row > 0 and (before := int(grid.token_ids[row - 1, column, 0])) >= 0:
        facts.append(("Row below", f"{label(grid.token(before))}  {_worth(grid, row - 1, column)}"))
    return facts


def _worth(grid: Grid, row: int, column: int) -> str:
    words = _words(grid, row, column)[0]
    return f"{words} of |h|²" if _measure(grid, row, column) == "explained" else words


#: The unit of a cell's candidates, shown beside their heading; probabilities need none.
UNITS = {
    "probability": "",
    "explained": "share of |h|² explained so far",
    "logit": "logit",
    "cosine": "cosine",
    "euclidean": "distance, nearest first",
}


def _measure(grid: Grid, row: int, column: int) -> str:
    """The measure of all candidates of a cell: a key of ``UNITS``."""
    if not math.isnan(grid.explained[row, column, 0]):
        return "explained"
    if grid.similarity != "dot":
        return grid.similarity
    there = grid.token_ids[row, column] >= 0
    # After subtraction only the first token has a probability, so the logits are compared.
    return "logit" if np.isnan(grid.probs[row, column][there]).any() else "probability"


def _numbers(grid: Grid, row: int, column: int) -> list[float]:
    measure = _measure(grid, row, column)
    values = {"probability": grid.probs, "explained": grid.explained}.get(measure, grid.scores)
    return [float(value) for value in values[row, column]]


def _words(grid: Grid, row: int, column: int) -> list[str]:
    """The candidates' numbers as text."""
    shares = _measure(grid, row, column) in ("probability", "explained")
    return [percent(value) if shares else f"{value:.4g}" for value in _numbers(grid, row, column)]


def _lengths(grid: Grid, row: int, column: int) -> list[float]:
    """Lengths of the candidates' bars, 0 to 1; the best candidate has the longest."""
    numbers, measure = _numbers(grid, row, column), _measure(grid, row, column)
    if measure in ("probability", "explained"):
        return numbers
    if measure == "euclidean":
        return [numbers[0] / value if value else 1.0 for value in numbers]
    most = max((abs(value) for value in numbers if not math.isnan(value)), default=0.0) or 1.0
    return [abs(value) / most for value in numbers]


def _candidates(grid: Grid, row: int, column: int, pins: Sequence[int]) -> list[Component]:
    cells = zip(
        grid.token_ids[row, column].tolist(),
        _lengths(grid, row, column),
        _words(grid, row, column),
        strict=True,
    )
    return [
        _candidate(label(grid.token(token)), token, part, words, tuple(pins))
        for token, part, words in cells
        if token >= 0
    ]


def _candidate(text: str, token: int, part: float, words: str, pins: tuple[int, ...]) -> Component:
    pinned = token in pins
    inside = [
        html.Span(text, className="bar-label"),
        html.Span(
            html.Span(className="bar-fill", style={"width": f"{max(part, 0.004) * 100:.1f}%"}),
            className="bar-track",
        ),
        html.Span(words, className="bar-value num"),
    ]
    return select_button(
        inside,
        toggle("pins", token, pins),
        f"bar-row{' is-pinned' if pinned else ''}",
        label=f"{'Unpin' if pinned else 'Pin'} {text}, {words}",
        pressed=pinned,
    )


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


def outline(run: RunRef, shown: Window, theme: Theme) -> dict[str, Any]:
    """A dotted line around the cells that the edits can change."""
    cells = np.pad(reachable(_cells(run))[np.ix_(shown.rows, shown.positions)], 1)
    x: list[float | None] = []
    y: list[float | None] = []
    for line, column in np.argwhere(cells[1:] != cells[:-1]).tolist():  # the edge above a cell
        x += [column - 1.5, column - 0.5, None]
        y += [line - 0.5, line - 0.5, None]
    for line, column in np.argwhere(cells[:, 1:] != cells[:, :-1]).tolist():  # at its right
        x += [column - 0.5, column - 0.5, None]
        y += [line - 1.5, line - 0.5, None]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "reachable",
        "x": x,
        "y": y,
        "line": {"color": palette(theme).select, "width": 1.5, "dash": "dot"},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def version_note(
    run: RunRef, selection: Selection, result: RunResult, asked: int
) -> tuple[str, ...]:
    """What the caption says first: which run is shown; nothing for an edited run or without edits.

    Args:
        run: The run with its edits.
        selection: What is selected.
        result: The run that is shown.
        asked: The token whose probability is compared.
    """
    if not run.edits or selection.version == "edited":
        return ()
    if selection.version == "baseline":
        return ("This is the baseline, without the edits.",)
    names = {token.id: token for token in (*result.tokens, *result.vocabulary)}
    token = quoted(names[asked]) if asked in names else "the chosen token"
    return (f"Probability of {token}, edited run minus baseline.",)


def notes(run: RunRef, selection: Selection, shown: Window) -> list[str]:
    """What the caption says about the edits; nothing without them."""
    if not run.edits or selection.version == "baseline":
        return []
    cells = reachable(_cells(run))[np.ix_(shown.rows, shown.positions)]
    reach = (
        f"◆ marks edited states. They can change {int(cells.sum()):,} of the {cells.size:,} cells"
        " shown, inside the dotted line: deeper rows at the same position and, from the next layer"
        " on, later positions."
    )
    own = ["Tokens are the edited run's, by dot product."]
    return [*(own if selection.version == "difference" else []), reach]
