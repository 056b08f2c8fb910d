"""An effect graph as lines in lanes: what cutting each link does to one logit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from analysis.contract.specs import OTHER_PARTS, PART_NAMES, Token
from analysis.flow_graph.results import Graph
from analysis.tracing.specs import RunResult
from dash_app.page.theme import MONO, Figure, Theme, axis, base_layout, palette, rgba
from dash_app.page.token_labels import label, percent, quoted, token_markup
from dash_app.views.flow.effect_selection import DIFFERS, Cuttable, Effects

#: Widths of the lines, in pixels: of the largest effect, and the least.
_WIDE, _THIN, _STEPS = 11.0, 0.8, 8
#: A block's width of 1 holds its attention, then its MLP.
_JOINS, _MLP = 0.5, 0.75


def effect_caption(
    graph: Graph, drawing: Effects, names: dict[int, Token], parts: Sequence[str] = ()
) -> str:
    """What the links are, what they sum to, and which are measured, as plain text.

    Args:
        graph: An effect graph.
        drawing: What is drawn of it.
        names: Tokens by id.
        parts: What the model's blocks write: ``ModelInfo.parts``. Those without links are named.
    """
    token = quoted(names[graph.token]) if graph.token in names else f"token {graph.token}"
    what = f"the logit of {token}"
    if graph.foil >= 0:
        foil = quoted(names[graph.foil]) if graph.foil in names else f"token {graph.foil}"
        what = f"{what} minus that of {foil}"
    raised = sum(max(link.effect, 0.0) for link in drawing.links)
    lowered = sum(min(link.effect, 0.0) for link in drawing.links)
    measured = sum(link.measured for link in drawing.links)
    differing = sum(link.differs for link in drawing.links)
    lines = [
        f"How much {what} (position {graph.position}, now {graph.logit:+.2f}) falls if a link is"
        " cut.",
        f"Drawn: {len(drawing.links)} links, {percent(drawing.shown)} of all effects by absolute"
        f" value; {drawing.left_out:,} links are not drawn.",
        f"The drawn links sum to {raised + lowered:+.2f} ({raised:+.2f} and {lowered:+.2f})."
        " Effects overlap, so they do not sum to the logit.",
        "All links are measured: each was cut."
        if graph.link_measured.size and graph.link_measured.all()
        else f"Measured: {measured} links, {percent(drawing.measured)} of the drawn effect. The"
        " others are estimated with one backward pass.",
    ]
    if drawing.checked:
        lines.append(
            f"Of {drawing.checked} drawn links with both, {differing} differ by over"
            f" {100 * DIFFERS:.0f} %. A cross marks the estimates among them."
        )
    uncut = [PART_NAMES[part] for part in OTHER_PARTS if part in parts]
    if uncut:
        lines.append(f"Not cut, so without links: {' and '.join(uncut)}.")
    return " ".join(lines)


def effect_figure(graph: Graph, drawing: Effects, run: RunResult, *, theme: Theme) -> Figure:
    """Lines in lanes: x is the layer; lanes are tokens. An MLP is a square in its token's lane.

    A point's ``customdata`` is [hover text, kind, layer, source, target, head or -1].
    """
    lanes = {pos: -number for number, pos in enumerate(drawing.positions)}
    top = max((abs(link.effect) for link in drawing.links), default=1.0)
    edges = [link for link in drawing.links if link.kind == "attention"]
    mlps = [link for link in drawing.links if link.kind == "mlp"]
    layout = base_layout(
        theme,
        margin={"l": 116, "r": 24, "t": 14, "b": 46, "pad": 0, "autoexpand": False},
        annotations=[_name(pos, y, run, theme) for pos, y in lanes.items()],
        xaxis=axis(
            theme,
            f"layer; largest effect {top:.2g} logits; solid: measured, dashed or open: estimated",
            range=[-0.4, graph.row + 0.4],
            tickvals=[*range(0, graph.row, 5 if graph.row > 12 else 1)],
        ),
        yaxis=axis(theme, range=[0.55 - len(lanes), 0.55], showticklabels=False),
        shapes=[*(_lane_line(y, theme) for y in lanes.values()), *_lines(edges, lanes, top, theme)],
        hovermode="closest",
        showlegend=False,
        meta={"view": "flow-signed"},
    )
    data = [
        _points(edges, lanes, run),
        _crosses(edges, lanes, theme),
        _squares(mlps, lanes, top, run, theme),
    ]
    return {"data": data, "layout": layout}


def _ends(link: Cuttable, lanes: dict[int, int]) -> tuple[float, float, float, float]:
    return link.layer, lanes[link.source], link.layer + _JOINS, lanes[link.target]


def _lines(
    edges: list[Cuttable], lanes: dict[int, int], top: float, theme: Theme
) -> list[dict[str, Any]]:
    """One path for each sign, width and dash, so that few elements show many lines."""
    groups: dict[tuple[bool, int, bool], list[Cuttable]] = defaultdict(list)
    for link in edges:
        step = round(_STEPS * abs(link.effect) / top)
        groups[link.effect > 0, step, link.measured].append(link)
    shapes = []
    for (raises, step, measured), links in sorted(groups.items(), key=lambda one: one[0][1]):
        ends = [_ends(link, lanes) for link in links]
        shapes.append(
            {
                "type": "path", "xref": "x", "yref": "y", "layer": "below",
                "path": "".join(f"M{x0:g},{y0:g}L{x1:g},{y1:g}" for x0, y0, x1, y1 in ends),
                "line": {
                    "color": rgba(_colour(raises, theme), 0.85),
                    "width": max(_WIDE * step / _STEPS, _THIN),
                    "dash": "solid" if measured else "4px,3px",
                },
            }
        )  # fmt: skip
    return shapes


def _points(edges: list[Cuttable], lanes: dict[int, int], run: RunResult) -> dict[str, Any]:
    """Where the pointer finds a line: at three of its points, which are not drawn."""
    spots = [
        (link, x0 + part * (x1 - x0), y0 + part * (y1 - y0))
        for link in edges
        for x0, y0, x1, y1 in [_ends(link, lanes)]
        for part in (0.5, 0.2, 0.8)
    ]
    return {
        "type": "scatter",
        "mode": "none",
        "x": [x for _, x, _ in spots],
        "y": [y for _, _, y in spots],
        "customdata": [_data(link, run) for link, *_ in spots],
        "hovertemplate": "%{customdata[0]}<extra></extra>",
    }


def _crosses(edges: list[Cuttable], lanes: dict[int, int], theme: Theme) -> dict[str, Any]:
    """A cross on each line whose estimate differs from the measured effect."""
    ends = [_ends(link, lanes) for link in edges if link.wrong]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [(x0 + x1) / 2 for x0, _, x1, _ in ends],
        "y": [(y0 + y1) / 2 for _, y0, _, y1 in ends],
        "marker": {
            "size": 9,
            "symbol": "x-thin",
            "line": {"width": 2, "color": palette(theme).select},
        },
        "hoverinfo": "skip",
    }


def _squares(
    mlps: list[Cuttable], lanes: dict[int, int], top: float, run: RunResult, theme: Theme
) -> dict[str, Any]:
    colours = [_colour(link.effect > 0, theme) for link in mlps]
    size = [4.0 + 14.0 * (abs(link.effect) / top) ** 0.5 for link in mlps]
    shape = ["square" if link.measured else "square-open" for link in mlps]
    crossed = [
        "square-x-open" if link.wrong else one for link, one in zip(mlps, shape, strict=True)
    ]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [link.layer + _MLP for link in mlps],
        "y": [lanes[link.target] for link in mlps],
        "marker": {"size": size, "symbol": crossed, "color": colours, "line": {"width": 1.5}},
        "customdata": [_data(link, run) for link in mlps],
        "hovertemplate": "%{customdata[0]}<extra></extra>",
    }


def _data(link: Cuttable, run: RunResult) -> list[Any]:
    """Hover text, then the link in the page's format."""
    return [_hover(link, run), link.kind, link.layer, link.source, link.target, link.head]


def _hover(link: Cuttable, run: RunResult) -> str:
    head = f", head {link.head}" if link.head >= 0 else ""
    name = "MLP" if link.kind == "mlp" else "attention"
    source, target = (
        f"{pos} {token_markup(run.tokens[pos], 18)}" for pos in (link.source, link.target)
    )
    place = f"at position {source}" if link.source == link.target else f"from {source} to {target}"
    how = "measured" if link.measured else "estimated"
    lines = [f"<b>layer {link.layer}: {name}{head}</b>", place]
    lines.append(f"{how}: {link.effect:+.3f} logits")
    if not np.isnan(link.estimate + link.found):
        name, other = ("estimated", link.estimate) if link.measured else ("measured", link.found)
        lines.append(f"{name}: {other:+.3f} logits")
    return "<br>".join(lines)


def _colour(raises: bool, theme: Theme) -> str:
    return palette(theme).signed[5 if raises else 1][1]


def _name(pos: int, y: int, run: RunResult, theme: Theme) -> dict[str, Any]:
    text = f'{token_markup(run.tokens[pos], 12)} <span style="font-size:10px">{pos}</span>'
    return {
        "x": 0, "y": y, "xref": "paper", "yref": "y", "text": text, "showarrow": False,
        "xanchor": "right", "xshift": -6,
        "font": {"family": MONO, "size": 11, "color": palette(theme).ink},
    }  # fmt: skip


def _lane_line(y: int, theme: Theme) -> dict[str, Any]:
    return {
        "type": "line", "xref": "paper", "yref": "y", "x0": 0, "x1": 1, "y0": y, "y1": y,
        "layer": "below", "line": {"color": rgba(palette(theme).rule_strong, 0.7), "width": 1},
    }  # fmt: skip


#: Columns of the list of links.
EFFECT_COLUMNS = ("Kind", "Layer", "Head", "From", "To", "Estimated logits", "Measured logits")


def effect_rows(drawing: Effects, run: RunResult) -> dict[str, Any]:
    """Columns and rows of the list of links; a row's last value is what a click selects."""
    return {"columns": EFFECT_COLUMNS, "rows": [_row(link, run) for link in drawing.links]}


def _row(link: Cuttable, run: RunResult) -> list[Any]:
    head = f"&heads={link.head}" if link.head >= 0 else ""
    place = f"{link.kind}:{link.layer}:{link.source}:{link.target}:{link.head}"
    return [
        "MLP" if link.kind == "mlp" else link.kind,
        str(link.layer),
        str(link.head) if link.head >= 0 else "" if link.kind == "mlp" else "all",
        f"{link.source} {label(run.tokens[link.source], 18)}",
        f"{link.target} {label(run.tokens[link.target], 18)}",
        *("" if np.isnan(value) else round(value, 4) for value in (link.estimate, link.found)),
        f"layer={link.layer}{head}&link={place}",
    ]
