"""Curves over the rows at one position: one of five quantities of the pinned tokens or rows."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.contract.specs import PART_NAMES
from analysis.trajectory.specs import LargestStep, Steps
from dash_app.page.theme import Figure, Theme, axis, base_layout, palette, rgba
from dash_app.page.token_labels import layer_name, row_name, token_markup

#: What the marks are called, in the order in which they are drawn.
MARKS = (("first_top1", "first"), ("emergence", "emerges"), ("saturation", "stays"))
#: Up to this many rows each has a marker on the line and a tick.
MARKED = 16
#: Quantities of a row's whole distribution, whatever is pinned.
OF_THE_ROW = ("entropy", "kl")
TITLES = {
    "probability": "probability",
    "log_probability": "ln p, nats",
    "rank": "rank (log, 1 is best)",
    "entropy": "entropy, nats",
    "kl": "KL(final ‖ row), nats",
}

MARGIN = {"l": 46, "t": 32, "b": 34, "pad": 0, "autoexpand": False}


def curves(
    steps: Steps,
    *,
    quantity: str,
    theme: Theme,
    row: int | None = None,
    chosen: bool = False,
    baseline: Steps | None = None,
) -> Figure:
    """One curve for each token, or one of the rows' own entropy or KL.

    Dashed lines mark the emergence rows of the first token; diamonds mark each token's largest
    step. ``layout.shapes[0]`` is the selected row, so that moving it is a small patch.

    Args:
        steps: The values at one position.
        quantity: The quantity that is drawn.
        theme: The page's theme.
        row: The selected row.
        chosen: Whether the user pinned the tokens; the browser reads it.
        baseline: The same tokens in the run without edits, drawn dashed; None if there are none.
    """
    lines = mark_lines(steps)
    own = quantity in OF_THE_ROW
    count = 1 if own else len(steps.tokens)
    pins = [token.id for token in steps.tokens]
    values = _value_axis(steps, quantity, theme, baseline)
    ends = [] if own else _end_labels(steps, quantity, theme, values["range"])
    drawn = [_curve(steps, index, quantity, theme) for index in range(count)]
    if baseline is not None:
        drawn.append([_dashed(baseline, index, quantity, theme) for index in range(count)])
    return {
        "data": list(itertools.chain.from_iterable(drawn)),
        "layout": base_layout(
            theme,
            margin={**MARGIN, "r": 12 if own else 76},
            xaxis=_row_axis(steps, theme),
            yaxis=values,
            shapes=[_selected(row, theme), *(_mark_shape(at, theme) for at, _ in lines)],
            annotations=_mark_labels(lines, steps, theme) + ends,
            hovermode="x unified",
            meta={"view": "curves", "position": steps.position, "pins": pins, "chosen": chosen},
        ),
    }


def mark_lines(steps: Steps) -> list[tuple[int, str]]:
    """Rows to mark, each once, with all measures of the first token that fall on it."""
    named: dict[int, list[str]] = {}
    for field, name in MARKS:
        at = getattr(steps, field)[0]
        if at is not None:
            named.setdefault(int(at), []).append(name)
    return [(at, " · ".join(names)) for at, names in sorted(named.items())]


def series(steps: Steps, index: int, quantity: str) -> NDArray[Any]:
    """[row] values of token number ``index``, or of the rows; ranks start at 1."""
    if quantity == "rank":
        return steps.ranks[:, index] + 1
    of_row = {"entropy": steps.entropy, "kl": steps.kl_to_final}
    if quantity in of_row:
        return of_row[quantity]
    values = steps.probs if quantity == "probability" else steps.log_probs
    return values[:, index]


def _curve(steps: Steps, index: int, quantity: str, theme: Theme) -> list[dict[str, Any]]:
    own = quantity in OF_THE_ROW
    colour = palette(theme).ink_2 if own else _colour(index, theme)
    name = TITLES[quantity] if own else token_markup(steps.tokens[index], 16)
    values = series(steps, index, quantity)
    value = {"rank": "rank %{y:,}", "probability": "%{y:.2~%}"}.get(quantity, "%{y:.2f} nats")
    line = {
        "type": "scatter",
        "mode": "lines+markers" if len(steps.rows) <= MARKED else "lines",
        "x": steps.rows,
        "y": values,
        "customdata": [row_name(row) for row in steps.rows.tolist()],
        "line": {"color": colour, "width": 2},
        "marker": {"color": colour, "size": 4},
        "name": name,
        "hovertemplate": f"{name}  {value} %{{customdata}}<extra></extra>",
    }
    return [line] if own else [line, _largest(steps.largest[index], values, colour, theme)]


def _dashed(steps: Steps, index: int, quantity: str, theme: Theme) -> dict[str, Any]:
    """The curve of a token, or of the rows, in the run without edits."""
    line = _curve(steps, index, quantity, theme)[0]
    return {
        **line,
        "mode": "lines",
        "line": {**line["line"], "width": 1.5, "dash": "4px,3px"},
        "name": f"{line['name']}, baseline",
        "hovertemplate": line["hovertemplate"].replace("  ", " in the baseline  ", 1),
    }


def _largest(step: LargestStep, values: NDArray[Any], colour: str, theme: Theme) -> dict[str, Any]:
    """A diamond at the row after the largest step."""
    at = step.layer + 1
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [at],
        "y": [values[at]],
        "marker": {
            "symbol": "diamond",
            "size": 10,
            "color": colour,
            "line": {"color": palette(theme).surface, "width": 1.5},
        },
        "hovertemplate": f"largest step: {step_words(step)}<extra></extra>",
    }


def step_words(step: LargestStep) -> str:
    """The cause of the largest step, with the strongest head: "layer 29, MLP (+2.10 nats)"."""
    part = PART_NAMES[step.component]
    if part == "attention" and step.heads.size:
        part = f"attention, head {int(step.heads[0])}"
    size = f"{step.step:+.2f}".replace("-", "−")
    return f"layer {step.layer}, {part} ({size} nats)"


def _colour(index: int, theme: Theme) -> str:
    categories = palette(theme).categories
    return categories[index % len(categories)]


def _row_axis(steps: Steps, theme: Theme) -> dict[str, Any]:
    rows = steps.rows.tolist()
    step = 1 if len(rows) <= MARKED else 5 if len(rows) <= 40 else 10
    ticks = [row for row in rows if row == 0 or (row > 1 and (row - 1) % step == 0)]
    texts = [layer_name(row) for row in ticks]
    return axis(
        theme,
        "after layer",
        tickvals=ticks,
        ticktext=texts,
        range=[rows[0] - 0.5, rows[-1] + 0.5],
        showline=True,
        showspikes=False,
        tickangle=0,
        unifiedhovertitle={"text": " "},  # the lines name the state
    )


def _value_axis(
    steps: Steps, quantity: str, theme: Theme, baseline: Steps | None = None
) -> dict[str, Any]:
    title, grid_line = TITLES[quantity], {"showgrid": True}
    if quantity == "probability":
        return axis(theme, title, range=[-0.02, 1.04], tickformat=".0%", **grid_line)
    count = 1 if quantity in OF_THE_ROW else len(steps.tokens)
    both = (steps,) if baseline is None else (steps, baseline)
    found = [series(one, index, quantity) for one in both for index in range(count)]
    ends = np.array(found, np.float64)
    if quantity != "rank":
        low, high = min(float(ends.min()), 0.0), max(float(ends.max()), 0.0)
        room = 0.05 * max(high - low, 1e-6)
        return axis(theme, title, range=[low - room, high + room], **grid_line)
    top = float(np.log10(max(float(ends.max()), 10.0))) + 0.15
    ticks = [10**power for power in range(int(top) + 1)]
    return axis(
        theme,
        title,
        type="log",
        range=[top, -0.15],
        tickvals=ticks,
        ticktext=[f"{tick:,}" for tick in ticks],
        **grid_line,
    )


def _selected(row: int | None, theme: Theme) -> dict[str, Any]:
    at = -1 if row is None else row
    return {
        "type": "rect",
        "xref": "x",
        "yref": "paper",
        "x0": at - 0.5,
        "x1": at + 0.5,
        "y0": 0,
        "y1": 1,
        "layer": "below",
        "fillcolor": rgba(palette(theme).select, 0.14),
        "line": {"width": 0},
        "visible": row is not None,
    }


def _mark_shape(at: int, theme: Theme) -> dict[str, Any]:
    line = {"color": palette(theme).ink_3, "width": 1, "dash": "4px,3px"}
    return {
        "type": "line",
        "xref": "x",
        "yref": "paper",
        "x0": at,
        "x1": at,
        "y0": 0,
        "y1": 1,
        "layer": "below",
        "line": line,
    }


def _mark_labels(lines: list[tuple[int, str]], steps: Steps, theme: Theme) -> list[dict[str, Any]]:
    """Labels above the plot, at two heights if lines are close."""
    last = int(steps.rows[-1])
    close = max(3.0, 0.16 * len(steps.rows))
    annotations: list[dict[str, Any]] = []
    for number, (at, text) in enumerate(lines):
        crowded = number > 0 and at - lines[number - 1][0] < close
        lower = crowded and annotations[-1]["yshift"] > 12
        right = at < 0.7 * last
        annotations.append(
            {
                "x": at,
                "y": 1,
                "xref": "x",
                "yref": "paper",
                "text": f"{text} {at - 1}" if at else f"{text} emb.",
                "showarrow": False,
                "xanchor": "left" if right else "right",
                "yanchor": "bottom",
                "yshift": 2 if lower else 16,
                "font": {"size": 11, "color": palette(theme).ink_2},
            }
        )
    return annotations


def _end_labels(
    steps: Steps, quantity: str, theme: Theme, span: list[float]
) -> list[dict[str, Any]]:
    """The tokens' names at the right end of their curves, moved apart to avoid overlap."""
    ends = [float(series(steps, i, quantity)[-1]) for i in range(len(steps.tokens))]
    heights = [np.log10(value) if quantity == "rank" else value for value in ends]
    places = spread([_height(value, span) for value in heights], 0.08)
    return [
        {
            "x": 1,
            "y": place,
            "xref": "paper",
            "yref": "paper",
            "text": token_markup(steps.tokens[index], 9),
            "showarrow": False,
            "xanchor": "left",
            "yanchor": "middle",
            "xshift": 8,
            "font": {"size": 12, "color": _colour(index, theme)},
        }
        for index, place in enumerate(places)
    ]


def _height(value: float, span: list[float]) -> float:
    """The height of ``value`` (a logarithm on a log axis) in the plot, 0 to 1."""
    low, high = span
    return float((value - low) / (high - low))


def spread(places: list[float], gap: float) -> list[float]:
    """The places moved apart, in order, so that neighbours are at least ``gap`` apart."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    moved = list(places)
    for before, after in itertools.pairwise(order):
        moved[after] = max(moved[after], moved[before] + gap)
    excess = moved[order[-1]] - 1.0 if order else 0.0
    return [place - excess for place in moved] if excess > 0 else moved
