"""The layer-by-token heatmap: decoded tokens in cells, their hover boxes, axes and selection."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.lens.options import COMPONENTS
from analysis.lens.results import Grid
from analysis.tracing.specs import RunResult
from dash_app.figures.colours import CellColours
from dash_app.page.theme import MONO, Figure, Theme, axis, base_layout, colour_bar, palette, scale
from dash_app.page.token_labels import labels, percent, plain, row_name, token_markup, width
from dash_app.page.window import Window

#: Width of the plot area on a small screen, in pixels; columns grow to fill what there is.
ROOM = 390
#: Column widths in pixels: minimum with text, planned maximum, minimum without text.
READABLE, WIDEST, NARROWEST = 50, 116, 12
#: Least height of a row, in pixels.
LOWEST = 11
#: More columns than this are drawn narrow and without text.
TEXT_COLUMNS = 160
MARGIN = {"l": 122, "r": 6, "t": 56, "b": 30, "pad": 0, "autoexpand": False}
#: Width of a character of cell text, in pixels.
CHARACTER = 6.7
#: The text of a cell that is not computed yet.
NOT_YET = "…"
#: Marks of the decoder that decoded a cell, if two decoders compete.
MARKS = ("o", "i")
MARK_NAMES = ("output", "input")
#: Candidates in a hover box, and the number of cells beyond which it has the first only.
HOVER_CANDIDATES, CROWD = 5, 12_000


def heatmap(
    grid: Grid,
    run: RunResult,
    cell_colours: CellColours,
    shown: Window,
    *,
    row: int,
    pos: int,
    theme: Theme,
    known: NDArray[np.bool_] | None = None,
) -> Figure:
    """Rows by positions, with the decoded token in each cell.

    Both axes count what is shown from 0. ``layout.meta`` has the rows, the positions and the cells'
    tokens; the browser writes those in view (``assets/js/heatmap.js``). ``layout.shapes`` has only
    the selection, so that moving it is a patch of that one property.

    Args:
        grid: Laid out in the window.
        run: The run, for its tokens.
        cell_colours: The cells' colours.
        shown: The window.
        row: The chosen cell's row.
        pos: The chosen cell's position.
        theme: The page's theme.
        known: [pos] which columns are computed; None: all.
    """
    known = np.ones(len(shown.positions), bool) if known is None else known
    column = column_width(len(shown.positions))
    meta = {
        "labels": cell_labels(grid, WIDEST, known) if column >= READABLE else [],
        "ids": grid.token_ids[..., 0].tolist(),
        "partial": not bool(known.all()),
    }
    hover = hover_texts(grid, run, shown, cell_colours, known)
    return framed(
        cell_colours, hover, meta, run, shown, row=row, pos=pos, theme=theme,
        component=grid.component,
    )  # fmt: skip


def framed(
    cell_colours: CellColours,
    hover: list[list[str]],
    meta: dict[str, Any],
    run: RunResult,
    shown: Window,
    *,
    row: int,
    pos: int,
    theme: Theme,
    component: str = "block_output",
) -> Figure:
    """Any heatmap of rows by positions, with axes, colour bar and outline.

    It fills its panel; ``layout.meta.least`` has its least width and height in pixels.

    ``hover`` has the text of the hover boxes, [row][pos]; ``meta`` has "labels" and "ids" of the
    cells for the browser. The other arguments are those of ``heatmap``.
    """
    column = column_width(len(shown.positions))
    places = {"rows": list(shown.rows), "positions": list(shown.positions)}
    return {
        "data": [_cells(cell_colours, hover, shown, theme), _top_axis_anchor()],
        "layout": base_layout(
            theme,
            margin=MARGIN,
            xaxis=_bottom_axis(run, shown, column, theme),
            xaxis2=_top_axis(run, shown, column, theme),
            yaxis=_row_axis(component, shown, theme),
            shapes=selection_shapes(shown, row, pos, theme),
            font={"family": MONO, "size": 11, "color": palette(theme).ink_2},
            hovermode="closest",
            meta={
                "view": "heatmap",
                "least": least_size(shown),
                **places,
                "waiting": NOT_YET,
                **meta,
            },
        ),
    }


def column_width(count: int) -> float:
    """Width of a column in pixels, for ``count`` positions."""
    if count > TEXT_COLUMNS:
        return float(max(NARROWEST, TEXT_COLUMNS * READABLE // count))
    return float(min(WIDEST, max(READABLE, ROOM / max(count, 1))))


def least_size(shown: Window) -> list[int]:
    """Least width and height of the figure, in pixels; in a smaller panel it scrolls."""
    count = max(len(shown.positions), 1)
    wide, high = min(column_width(count), READABLE) * count, LOWEST * len(shown.rows)
    return [round(MARGIN["l"] + MARGIN["r"] + wide), MARGIN["t"] + MARGIN["b"] + high]


def selection_shapes(shown: Window, row: int, pos: int, theme: Theme) -> list[dict[str, Any]]:
    """The outline of the selected cell, for ``layout.shapes``: a halo and a line."""
    colours = palette(theme)
    inside = row in shown.rows and pos in shown.positions
    down = shown.rows.index(row) if inside else 0
    across = shown.positions.index(pos) if inside else 0
    box = {
        "type": "rect", "fillcolor": "rgba(0,0,0,0)", "visible": inside,
        "x0": across - 0.5, "x1": across + 0.5, "y0": down - 0.5, "y1": down + 0.5,
    }  # fmt: skip
    return [
        {**box, "line": {"color": colours.surface, "width": 5}},
        {**box, "line": {"color": colours.select, "width": 2.5}, "name": "selection"},
    ]


def _cells(
    cell_colours: CellColours, hover: list[list[str]], shown: Window, theme: Theme
) -> dict[str, Any]:
    colours = palette(theme)
    return {
        "type": "heatmap",
        "x": np.arange(len(shown.positions)),
        "y": np.arange(len(shown.rows)),
        "z": cell_colours.values,
        "zmin": cell_colours.low,
        "zmax": cell_colours.high,
        "colorscale": scale(colours.signed if cell_colours.signed else colours.magnitude),
        "colorbar": _bar(cell_colours, theme),
        "xgap": 1,
        "ygap": 1,
        "hoverongaps": True,
        "customdata": hover,
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _bar(cell_colours: CellColours, theme: Theme) -> dict[str, Any]:
    font = {"size": 11, "color": palette(theme).ink_3}
    ticks: dict[str, Any] = {"nticks": 4}
    if cell_colours.ticks[0]:
        values, texts = cell_colours.ticks
        ticks = {"tickmode": "array", "tickvals": values, "ticktext": texts}
    return colour_bar(
        theme, "", title={"text": cell_colours.title, "side": "top", "font": font},
        orientation="h", x=0, xanchor="left", y=1, yref="paper", yanchor="bottom", ypad=17, xpad=0,
        lenmode="pixels", len=150, thickness=7, **ticks,
    )  # fmt: skip


def _top_axis_anchor() -> dict[str, Any]:
    """Plotly draws an axis only if a trace uses it."""
    return {"type": "scatter", "x": [None], "y": [None], "xaxis": "x2", "hoverinfo": "skip"}


def _bottom_axis(run: RunResult, shown: Window, column: float, theme: Theme) -> dict[str, Any]:
    room = max(2, int((column - 4) / CHARACTER))
    names = labels([run.tokens[position] for position in shown.positions], room)
    texts = [
        _tick(name, position, position >= run.prompt_length, theme)
        for name, position in zip(names, shown.positions, strict=True)
    ]
    return _token_axis(shown, texts, column, theme, palette(theme).ink)


def _tick(name: str, position: int, answer: bool, theme: Theme) -> str:
    colours = palette(theme)
    ink = colours.answer if answer else colours.ink
    number = f'<span style="color:{colours.ink_3};font-size:10px">{position}</span>'
    return f'<span style="color:{ink}">{name}</span><br>{number}'


def _top_axis(run: RunResult, shown: Window, column: float, theme: Theme) -> dict[str, Any]:
    room = max(2, int((column - 4) / CHARACTER) - 1)
    texts = [
        f"→{token_markup(run.tokens[position + 1], room)}"
        if position + 1 < len(run.tokens)
        else "→?"
        for position in shown.positions
    ]
    further = {"overlaying": "x", "side": "top", "matches": "x"}
    return _token_axis(shown, texts, column, theme, palette(theme).ink_3, **further)


def _token_axis(
    shown: Window, texts: list[str], column: float, theme: Theme, ink: str, **further: Any
) -> dict[str, Any]:
    """A token for each column; for narrow columns, the number of every 16th position."""
    places = list(range(len(texts)))
    if column < READABLE:
        places = [place for place in places if shown.positions[place] % 16 == 0]
        texts = [str(shown.positions[place]) for place in places]
    return axis(
        theme,
        "",
        tickvals=places,
        ticktext=texts,
        tickangle=0,
        tickfont={"size": 11, "color": ink, "family": MONO},
        range=_span(shown.positions),
        ticklabeloverflow="allow",  # else Plotly measures each name, half of the drawing's time
        **further,
    )


def _row_axis(component: str, shown: Window, theme: Theme) -> dict[str, Any]:
    return axis(
        theme,
        "",
        tickvals=list(range(len(shown.rows))),
        ticktext=row_texts(component, shown.rows),
        tickfont={"size": 10, "color": palette(theme).ink_2, "family": MONO},
        range=_span(shown.rows),
        ticklabeloverflow="allow",
    )


def _span(shown: Sequence[int]) -> list[float]:
    return [-0.5, max(len(shown), 1) - 0.5]


def layered(component: str) -> bool:
    """Whether a component has one state a layer, and none at the embedding."""
    return not COMPONENTS[component].by_row


def state_name(component: str, row: int) -> str:
    """The state that a component has at a row of the page."""
    if not layered(component):
        return row_name(row)
    phrase = COMPONENTS[component].phrase.format(head="one head", source="one source position")
    return f"layer {row - 1}: {phrase}"


def cell_labels(grid: Grid, column: float, known: NDArray[np.bool_]) -> list[list[str]]:
    """[row][pos] the best candidate, cut to fit; with the decoder's mark if two compete."""
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


def hover_texts(
    grid: Grid, run: RunResult, shown: Window, cell_colours: CellColours, known: NDArray[np.bool_]
) -> list[list[str]]:
    """[row][pos] the text of each cell's hover box."""
    count = HOVER_CANDIDATES if grid.token_ids[..., 0].size <= CROWD else 1
    names = {token.id: token_markup(token, 18) for token in grid.vocabulary}
    padded = {number: text + " " * (20 - width(plain(text))) for number, text in names.items()}
    heads = [_position_line(run, position) for position in shown.positions]
    candidates = _candidates(grid, padded, count)
    facts = _facts(grid)
    values = cell_colours.values.tolist()
    titles = [f"<b>{state_name(grid.component, row)}</b><br>" for row in shown.rows]

    def body(index: int, at: int) -> str:
        if not known[at]:
            return "not computed yet"
        value = _value(cell_colours, values[index][at])
        return f"{value}{candidates[index][at]}{facts[index][at]}"

    return [
        [f"{title}{heads[at]}<br>{body(index, at)}" for at in range(len(shown.positions))]
        for index, title in enumerate(titles)
    ]


def _value(cell_colours: CellColours, value: float) -> str:
    if cell_colours.words is None:
        return ""
    if math.isnan(value):
        return "<b>this colour has no value here</b><br>"
    return f"<b>{_safe(cell_colours.words(value))}</b><br>"


def _position_line(run: RunResult, position: int) -> str:
    read = token_markup(run.tokens[position], 18)
    if position + 1 >= len(run.tokens):
        return f"position {position}: {read}, predicts the next token"
    follows = token_markup(run.tokens[position + 1], 18)
    return f"position {position}: {read}, next token {follows}"


def _candidates(grid: Grid, padded: dict[int, str], count: int) -> list[list[str]]:
    """[row][pos] the candidates, one per line, each with its probability or score."""
    ids = grid.token_ids[..., :count].tolist()
    amounts = _amounts(grid, count)
    return [
        [
            "".join(
                f"{padded[number]}{text}<br>"
                for number, text in zip(cell, texts, strict=True)
                if number >= 0
            )
            for cell, texts in zip(*pair, strict=True)
        ]
        for pair in zip(ids, amounts, strict=True)
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
    """A candidate's probability or score, right-aligned for the hover box."""
    text = f"{score:.3g}" if math.isnan(prob) else percent(prob)
    more = "" if math.isnan(explained) else f"  explains {percent(explained)}"
    return _safe(f"{text:>8}{more}")


def _facts(grid: Grid) -> list[list[str]]:
    """[row][pos] entropy, KL, and the decoder if two compete."""
    both = grid.decoder == "max_probability"
    return [
        [
            _fact(entropy, kl) + (f"<br>decoded by the {MARK_NAMES[mark]} decoder" if both else "")
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


def row_texts(component: str, rows: Sequence[int]) -> list[str]:
    """Names of the rows along the axis."""
    if not layered(component):
        return [f"after layer {row - 1:>2} " if row else "embedding " for row in rows]
    return [f"{COMPONENTS[component].short}, layer {row - 1:>2} " for row in rows]
