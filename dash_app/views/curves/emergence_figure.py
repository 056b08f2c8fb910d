"""The strip of positions: the layer after which each position's token emerges, by four measures."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.tracing.specs import RunResult
from analysis.trajectory.specs import Emergence
from dash_app.figures.colours import cell_texts
from dash_app.page.theme import MONO, Figure, Theme, axis, base_layout, palette, scale
from dash_app.page.token_labels import labels, layer_name, row_name

#: (field, name), from top to bottom.
MEASURES = (
    ("first_top1", "first"),
    ("emergence", "emerges"),
    ("saturation", "stays"),
    ("causal_commit", "commits"),
)
NEVER = "never"
COLUMN, WIDEST, ROW = 40, 74, 24
ROOM = 460
MARGIN = {"l": 66, "r": 8, "t": 6, "b": 38, "pad": 0, "autoexpand": False}


def strip(
    found: Emergence, run: RunResult, positions: tuple[int, ...], *, pos: int, theme: Theme
) -> Figure:
    """One column for each position, one row for each measure.

    A number is the layer after which the measure holds.

    ``layout.shapes[0]`` is the chosen position.

    Args:
        found: The measures.
        run: The run, for its tokens.
        positions: The positions shown.
        pos: The chosen position.
        theme: The page's theme.
    """
    values = [_measure(found, field, positions) for field, _ in MEASURES]
    last = found.probs.shape[0] - 1
    column = min(WIDEST, max(COLUMN, ROOM // max(len(positions), 1)))
    hover = _hover_texts(values, found, run, positions)
    rows = list(range(len(MEASURES)))
    names = [name for _, name in MEASURES]
    return {
        "data": [
            _cells(values, hover, last, theme),
            *_numbers(values, last, theme),
            _words(values, found, theme),
        ],
        "layout": base_layout(
            theme,
            width=MARGIN["l"] + MARGIN["r"] + column * max(len(positions), 1),
            height=MARGIN["t"] + MARGIN["b"] + ROW * len(MEASURES),
            margin=MARGIN,
            xaxis=_token_axis(run, positions, column, theme),
            yaxis=axis(theme, tickvals=rows, ticktext=names, range=[len(rows) - 0.5, -0.5]),
            shapes=[_chosen(positions, pos, theme)],
            meta={
                "view": "emergence",
                "positions": list(positions),
                "values": values,
                "last": last,
            },
        ),
    }


def _cells(
    values: list[list[int | None]], hover: list[list[str]], last: int, theme: Theme
) -> dict[str, Any]:
    cells = _as_cells(values)
    return {
        "type": "heatmap",
        "x": np.arange(cells.shape[1]),
        "y": np.arange(len(values)),
        "z": cells,
        "zmin": 0,
        "zmax": last,
        "colorscale": scale(palette(theme).magnitude),
        "showscale": False,
        "xgap": 1,
        "ygap": 1,
        "customdata": hover,
        "hovertemplate": "%{customdata}<extra></extra>",
        "hoverongaps": True,
    }


def _as_cells(values: list[list[int | None]]) -> NDArray[np.float32]:
    rows = [[np.nan if row is None else row for row in line] for line in values]
    return np.array(rows, np.float32).reshape(len(values), -1)


def _numbers(values: list[list[int | None]], last: int, theme: Theme) -> list[dict[str, Any]]:
    stops = palette(theme).magnitude
    return cell_texts(_as_cells(values), _texts(values), 0, last, stops, family=MONO, size=11)


def _measure(found: Emergence, field: str, positions: tuple[int, ...]) -> list[int | None]:
    rows = getattr(found, field)
    return [None if rows is None else rows[position] for position in positions]


def _measured(found: Emergence, field: str) -> bool:
    return getattr(found, field) is not None


def _texts(values: list[list[int | None]]) -> list[list[str]]:
    return [["" if row is None else layer_name(row) for row in line] for line in values]


def _words(values: list[list[int | None]], found: Emergence, theme: Theme) -> dict[str, Any]:
    """Text for cells without a colour: "never", or a dash if it is not measured yet."""
    missing = [
        (at, index, NEVER if _measured(found, field) else "–")
        for index, (field, _) in enumerate(MEASURES)
        for at, row in enumerate(values[index])
        if row is None
    ]
    return {
        "type": "scatter",
        "mode": "text",
        "x": [at for at, _, _ in missing],
        "y": [index for _, index, _ in missing],
        "text": [word for _, _, word in missing],
        "textfont": {"size": 10, "color": palette(theme).ink_3, "family": MONO},
        "hoverinfo": "skip",
    }


def _hover_texts(
    values: list[list[int | None]], found: Emergence, run: RunResult, positions: tuple[int, ...]
) -> list[list[str]]:
    names = {token.id: token for token in (*run.vocabulary, *run.tokens)}
    own = [found.token_ids[position] for position in positions]
    known = labels([names[int(number)] for number in own if int(number) in names], 16)
    tokens = known if len(known) == len(own) else ["the model's choice"] * len(own)
    meanings = {
        "first_top1": "ranks first for the first time at",
        "emergence": f"has p ≥ {found.tau:g} from",
        "saturation": "stays first from",
        "causal_commit": "keeps first place without attention from",
    }
    return [
        [
            f"position {position}: {tokens[at]} {meanings[field]} "
            + (row_name(number) if (number := values[index][at]) is not None else "no state")
            if _measured(found, field)
            else "not measured: press Measure commits"
            for at, position in enumerate(positions)
        ]
        for index, (field, _) in enumerate(MEASURES)
    ]


def _token_axis(
    run: RunResult, positions: tuple[int, ...], column: int, theme: Theme
) -> dict[str, Any]:
    colours = palette(theme)
    names = labels(
        [run.tokens[position] for position in positions], max(2, int((column - 4) / 6.7))
    )
    return axis(
        theme,
        tickvals=list(range(len(positions))),
        ticktext=[
            f'{name}<br><span style="color:{colours.ink_3};font-size:10px">{position}</span>'
            for name, position in zip(names, positions, strict=True)
        ],
        tickangle=0,
        tickfont={"size": 11, "color": colours.ink, "family": MONO},
        range=[-0.5, max(len(positions), 1) - 0.5],
    )


def _chosen(positions: tuple[int, ...], pos: int, theme: Theme) -> dict[str, Any]:
    at = positions.index(pos) if pos in positions else -1
    return {
        "type": "rect",
        "xref": "x",
        "yref": "paper",
        "x0": at - 0.5,
        "x1": at + 0.5,
        "y0": 0,
        "y1": 1,
        "fillcolor": "rgba(0,0,0,0)",
        "line": {"color": palette(theme).select, "width": 2},
        "visible": at >= 0,
    }
