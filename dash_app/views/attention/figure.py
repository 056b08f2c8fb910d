"""Attention patterns of one layer: which keys each query reads, head by head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from analysis.tracing.specs import PatternResult, RunResult
from dash_app.page.theme import MONO, Figure, Theme, axis, base_layout, colour_bar, palette, scale
from dash_app.page.token_labels import labels, percent

Scaling = Literal["linear", "root", "log"]

#: Most heads drawn at once; the figure says when more were chosen.
MOST_HEADS = 12
#: Weights below this are one colour on the logarithmic scale.
FLOOR = 1e-3
#: Sides of a matrix, in pixels, for which half the page has room: 1, 2 or 3 in a row.
SIDES = {1: 390, 2: 185, 3: 116}
#: More tokens than this are labelled by every n-th position only.
LABELLED = 64
#: Narrower cells have no room for their token's name, in pixels.
NAMED = 11
#: Least side of a cell of one matrix; in a smaller panel it scrolls.
LOWEST = 2
#: Pixels between the cells and the labels.
_APART = {"ticklabelstandoff": 4}


def attention(
    pattern: PatternResult,
    run: RunResult,
    *,
    heads: tuple[int, ...],
    pos: int,
    theme: Theme,
    scaling: Scaling = "linear",
    first_key: bool = True,
) -> Figure:
    """Query by key, one matrix for each of ``heads``, or the mean of all where none is chosen.

    All matrices share one colour scale: linear or a square root from 0, or logarithmic from 0.001.
    It ends at 1, or without the first key at the largest weight that is drawn. Weights are never
    rescaled.
    """
    if np.isnan(pattern.pattern).all():
        return _nothing(pattern.layer, theme)
    shown = tuple(head for head in heads if 0 <= head < len(pattern.pattern))[:MOST_HEADS]
    panes: tuple[int | None, ...] = shown or (None,)
    plan = _Plan(len(panes), len(run.tokens))
    drawn = [weights(pattern, head, first_key=first_key) for head in panes]
    most = 1.0 if first_key else _largest(drawn)
    layout = base_layout(
        theme,
        **plan.size,
        margin=plan.margin,
        **{plan.colour_axis: _colour_axis(scaling, most, plan, theme)},
        annotations=[
            *(
                _pane_title(pattern, head, pos, plan, number, theme)
                for number, head in enumerate(panes)
            ),
            *_notes(pattern, heads, shown, pos, plan, theme),
        ],
        shapes=query_shapes(len(panes), pos, theme, first=0 if first_key else 1),
        meta={"view": "attention", "layer": pattern.layer, **plan.needs},
    )
    layout.update(_axes(run, plan, theme, first=0 if first_key else 1))
    data = [
        _pane(pattern.layer, head, number, values, scaling, run, plan.colour_axis)
        for number, (head, values) in enumerate(zip(panes, drawn, strict=True))
    ]
    return {"data": data, "layout": layout}


def _largest(drawn: Sequence[NDArray[Any]]) -> float:
    """The largest weight that is drawn; 1 if there is none."""
    finite = [values[np.isfinite(values)] for values in drawn]
    return float(max((values.max() for values in finite if values.size), default=1.0)) or 1.0


def query_shapes(panes: int, pos: int, theme: Theme, *, first: int = 0) -> list[dict[str, Any]]:
    """The outline of the selected query's row in each of ``panes``, for ``layout.shapes``."""
    return [
        {
            "type": "rect",
            "xref": f"x{_suffix(number)}",
            "yref": f"y{_suffix(number)}",
            "x0": first - 0.5,
            "x1": max(pos, first) + 0.5,
            "y0": pos - 0.5,
            "y1": pos + 0.5,
            "fillcolor": "rgba(0,0,0,0)",
            "line": {"color": palette(theme).select, "width": 2},
        }
        for number in range(panes)
    ]


class _Plan:
    """Where the panes of a grid of small multiples lie, in pixels and in paper units.

    One pane fills its panel with square cells. It needs ``least`` pixels; where a cell is lower
    than a line of text, the browser leaves names out (``assets/js/charts.js``), and from ``named``
    pixels it names every token. Several panes have a size of their own.
    """

    def __init__(self, panes: int, tokens: int) -> None:
        self.panes = panes
        self.tokens = tokens
        self.columns = _columns(panes, tokens)
        self.rows = math.ceil(panes / self.columns)
        room = SIDES[self.columns]
        self.fluid = panes == 1
        # Plotly leaves a tick of a colour bar behind when the bar turns: each has its own axis.
        self.colour_axis = "coloraxis" if self.fluid else "coloraxis2"
        least = 12 if self.columns == 1 and tokens <= LABELLED else 3
        self.cell = max(min(room / tokens, 40.0), least)
        self.side = self.cell * tokens
        self.labelled = self.cell >= NAMED and tokens <= LABELLED
        gutter = (72 if self.fluid else 96) if self.labelled else 40
        self.margin: dict[str, Any] = {
            "l": gutter,
            "r": 10 if self.fluid else 78,
            "t": 36 if self.fluid else 34,
            "b": gutter if self.fluid else gutter + 40,
            "pad": 0,
            "autoexpand": False,
        }
        self.gap = 22 if panes > 1 else 0
        self.title = 30
        self.inner_width = self.columns * self.side + (self.columns - 1) * self.gap
        self.inner_height = self.rows * self.side + (self.rows - 1) * (self.title + 6)
        width = round(self.inner_width + self.margin["l"] + self.margin["r"])
        height = round(self.inner_height + self.margin["t"] + self.margin["b"])
        self.size = {} if self.fluid else {"width": width, "height": height}
        self.least = self.named = [width, height]
        if self.fluid:
            self.least, self.named = self._sized(LOWEST), self._sized(least)

    @property
    def needs(self) -> dict[str, list[int]]:
        """Sizes for the browser, in pixels."""
        return {"least": self.least, "named": self.named}

    def _sized(self, cell: int) -> list[int]:
        """Width and height of one pane whose cells have a side of ``cell`` pixels."""
        margin, side = self.margin, cell * self.tokens
        return [side + margin["l"] + margin["r"], side + margin["t"] + margin["b"]]

    def domain(self, number: int) -> tuple[list[float], list[float]]:
        """(x, y) domains of pane ``number``, filled row by row from the top left."""
        row, column = divmod(number, self.columns)
        left = column * (self.side + self.gap)
        top = row * (self.side + self.title + 6)
        return (
            [left / self.inner_width, (left + self.side) / self.inner_width],
            [1 - (top + self.side) / self.inner_height, 1 - top / self.inner_height],
        )

    def outer(self, number: int) -> tuple[bool, bool]:
        """Whether pane ``number`` is at the bottom, and at the left."""
        return number + self.columns >= self.panes, number % self.columns == 0


def _columns(panes: int, tokens: int) -> int:
    """How many matrices stand side by side: as many as leave room for the tokens' names."""
    most = 1 if panes == 1 else 2 if panes <= 4 else 3
    if tokens > LABELLED:
        return most
    return next((count for count in range(most, 1, -1) if SIDES[count] / tokens >= NAMED), 1)


def _suffix(number: int) -> str:
    return "" if number == 0 else str(number + 1)


def weights(pattern: PatternResult, head: int | None, *, first_key: bool = True) -> NDArray[Any]:
    """[query, key] of one head or the mean of all, NaN where a query can't look.

    Without ``first_key`` the first column is NaN too.
    """
    chosen = pattern.pattern.mean(axis=0) if head is None else pattern.pattern[head]
    ahead = np.triu(np.ones(chosen.shape, dtype=bool), k=1)
    ahead[:, 0] |= not first_key
    return np.where(ahead, np.float32(np.nan), chosen).astype(np.float32)


def _scaled(values: Any, scaling: Scaling) -> Any:
    """Weights as the colour scale takes them."""
    if scaling == "log":
        return np.log10(np.maximum(values, FLOOR))
    return np.sqrt(values) if scaling == "root" else values


def _pane(
    layer: int,
    head: int | None,
    number: int,
    values: NDArray[Any],
    scaling: Scaling,
    run: RunResult,
    colour_axis: str,
) -> dict[str, Any]:
    who = "mean of all heads" if head is None else f"head {head}"
    return {
        "type": "heatmap",
        "xaxis": f"x{_suffix(number)}",
        "yaxis": f"y{_suffix(number)}",
        "z": _scaled(values, scaling),
        "customdata": np.round(values, 4),
        "coloraxis": colour_axis,
        "hoverongaps": False,
        "xgap": 1 if len(run.tokens) <= 48 else 0,
        "ygap": 1 if len(run.tokens) <= 48 else 0,
        "meta": {"head": head},
        "hovertemplate": (
            f"<b>layer {layer}, {who}</b><br>query %{{y}}<br>reads %{{x}}<br>"
            "weight %{customdata:.3f}<extra></extra>"
        ),
    }


def _axes(run: RunResult, plan: _Plan, theme: Theme, *, first: int) -> dict[str, Any]:
    axes: dict[str, Any] = {}
    for number in range(plan.panes):
        bottom, left = plan.outer(number)
        across, down = plan.domain(number)
        names = _ticks(run, plan, theme)
        span = len(run.tokens) - 0.5
        title = {"x": "key: the token read", "y": "query: the token that reads"}
        square: dict[str, Any] = {}
        if plan.fluid:  # the caption and the hover box say which axis is which
            title = {"x": "", "y": ""}
            square = {
                "scaleanchor": f"x{_suffix(number)}",
                "constrain": "domain",
                "constraintoward": "top",
            }
        axes[f"xaxis{_suffix(number)}"] = axis(
            theme,
            title["x"] if bottom and number % plan.columns == 0 else "",
            domain=across,
            anchor=f"y{_suffix(number)}",
            range=[first - 0.5, span],
            showticklabels=bottom,
            **_APART,
            tickangle=-90 if plan.labelled else 0,
            **({"constrain": "domain", "constraintoward": "left"} if plan.fluid else {}),
            **names,
        )
        axes[f"yaxis{_suffix(number)}"] = axis(
            theme,
            title["y"] if left and number == 0 else "",
            domain=down,
            anchor=f"x{_suffix(number)}",
            range=[span, -0.5],
            showticklabels=left,
            **_APART,
            **square,
            **names,
        )
    return axes


def _ticks(run: RunResult, plan: _Plan, theme: Theme) -> dict[str, Any]:
    font = {"family": MONO, "size": 11 if plan.cell >= 14 else 10, "color": palette(theme).ink_2}
    if plan.tokens <= LABELLED:
        names = labels(run.tokens, 7 if plan.fluid else 10)
        texts = [f"{name} {number}" for number, name in enumerate(names)]
        if plan.labelled:
            return {"tickvals": list(range(plan.tokens)), "ticktext": texts, "tickfont": font}
    step = 10 ** max(1, math.ceil(math.log10(plan.tokens)) - 1)
    return {"tickvals": list(range(0, plan.tokens, step)), "tickfont": font}


def _colour_axis(scaling: Scaling, most: float, plan: _Plan, theme: Theme) -> dict[str, Any]:
    words = {"linear": "linear", "root": "square root", "log": "log"}[scaling]
    bar = colour_bar(theme, f"attention weight ({words})", lenmode="pixels", len=170)
    bar.update({"y": 1, "yanchor": "top", "xpad": 12})
    if plan.fluid:
        bar.update({
            "orientation": "h", "x": 0, "xanchor": "left", "yanchor": "bottom", "xpad": 50,
            "ypad": 14, "len": 144, "thickness": 6, "nticks": 2,
            "ticklabeloverflow": "allow",
            "title": {"text": ""},  # the caption and the panel's chips name the scale
        })  # fmt: skip
    low, high = (float(end) for end in _scaled(np.array([0.0, most]), scaling))
    high = max(high, low + 1e-6)
    at, names = _weight_ticks(scaling, most, few=plan.fluid)
    # Plotly leaves out a tick that rounding puts beyond the end of the scale.
    places = [min(float(_scaled(weight, scaling)), high) for weight in at]
    bar.update({"tickvals": places, "ticktext": names})
    return {
        "colorscale": scale(palette(theme).magnitude),
        "cmin": low,
        "cmax": high,
        "colorbar": bar,
    }


def _weight_ticks(scaling: Scaling, most: float, *, few: bool) -> tuple[list[float], list[str]]:
    """Weights to be named along the colour bar, and their names."""
    if scaling == "log":
        powers = [weight for weight in (FLOOR, 0.01, 0.1) if weight < most]
        at = [FLOOR, most] if few else [*powers, most]
        return at, [f"≤{weight:g}" if weight == FLOOR else f"{weight:.2g}" for weight in at]
    if few:
        return [0.0, most], ["0", f"{most:.2g}"]
    at = [part * most for part in (0.0, 1 / 16, 1 / 4, 9 / 16, 1.0)]
    return at, [f"{weight:.2f}" for weight in at]


def _pane_title(
    pattern: PatternResult, head: int | None, pos: int, plan: _Plan, number: int, theme: Theme
) -> dict[str, Any]:
    across, down = plan.domain(number)
    if head is None:
        text = f"layer {pattern.layer}, mean of {len(pattern.pattern)} heads"
        if plan.fluid:  # the caption names the layer
            text = f"mean of {len(pattern.pattern)} heads"
    else:
        share = percent(float(pattern.head_share[head, pos]))
        faint = palette(theme).ink_3
        text = f'head {head} <span style="color:{faint}">writes {share}</span>'
    if plan.fluid:  # from the left edge: where a wide matrix scrolls, the right one is out of sight
        shift = {"yshift": 20, "xshift": 4 - plan.margin["l"], "yanchor": "middle"}
        return _annotation(text, 0, 1, theme, **shift)
    return _annotation(text, across[0], down[1], theme, yanchor="bottom", yshift=6)


def _annotation(text: str, x: float, y: float, theme: Theme, **changes: Any) -> dict[str, Any]:
    return {
        "text": text,
        "x": x,
        "y": y,
        "xref": "paper",
        "yref": "paper",
        "xanchor": "left",
        "showarrow": False,
        "align": "left",
        "font": {"size": 12, "color": palette(theme).ink_2},
        **changes,
    }


def _notes(
    pattern: PatternResult,
    heads: tuple[int, ...],
    shown: tuple[int, ...],
    pos: int,
    plan: _Plan,
    theme: Theme,
) -> list[dict[str, Any]]:
    """What the matrices don't show: mass on a learned sink, heads left out."""
    chosen = list(shown) or list(range(len(pattern.pattern)))
    sink = float(np.nan_to_num(pattern.sink[chosen, pos]).mean())
    lines = []
    if sink > 0.001:
        share = percent(sink)
        lines.append(f"{share} of this query's attention goes to a learned sink, not to a token.")
    if len(heads) > len(shown):
        lines.append(f"{len(heads) - len(shown)} more heads are chosen than can be drawn.")
    if not lines:
        return []
    note = {"yanchor": "bottom", "yshift": -plan.margin["b"] + 4}
    return [_annotation("<br>".join(lines), 0, 0, theme, **note)]


def _nothing(layer: int, theme: Theme) -> Figure:
    text = f"Layer {layer} has no attention."
    middle = {"xanchor": "center", "yanchor": "middle"}
    hidden = {"visible": False}
    return {
        "data": [],
        "layout": base_layout(
            theme,
            height=220,
            xaxis=hidden,
            yaxis=hidden,
            annotations=[_annotation(text, 0.5, 0.5, theme, **middle)],
        ),
    }
