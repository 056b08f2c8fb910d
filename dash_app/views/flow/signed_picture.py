"""Signed flow as bars: the contribution of each direct path to one logit."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from analysis.contract.specs import PART_NAMES, Token
from analysis.flow_graph.results import LINK_KINDS, Graph
from analysis.tracing.specs import RunResult
from dash_app.page.theme import MONO, Figure, Theme, axis, base_layout, palette, rgba
from dash_app.page.token_labels import markup, percent, quoted, row_name, token_markup
from dash_app.views.flow.link_selection import USUAL, Rule

#: Most bars, and most lanes of tokens.
LIMIT, LANES = 298, 14
#: The x of the embedding, left of layer 0.
EMBEDDING = -1


class Bar(NamedTuple):
    """Paths of one kind, layer, source and sign.

    Attributes:
        kind: One of LINK_KINDS.
        layer: The block; -1 for the embedding.
        source: The position that it reads.
        logits: Its contribution, all heads together.
        heads: (head, logits), strongest first.
    """

    kind: str
    layer: int
    source: int
    logits: float
    heads: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Signed:
    """The selected bars of a signed graph; all values are logits.

    Attributes:
        bars: The drawn bars, strongest first.
        raised, lowered: Sums of the drawn bars that raise and lower the logit.
        other_raised, other_lowered: Sums of the omitted bars; pruned links count net.
        left_out: Number of omitted bars.
        size: Sum of absolute values of all paths, also of those that the graph pruned.
        pruned: Net contribution of the pruned paths; part of the omitted sums.
        total: Sum of all links.
        logit: The logit that they explain.
        positions: Tokens with a lane.
    """

    bars: tuple[Bar, ...]
    raised: float
    lowered: float
    other_raised: float
    other_lowered: float
    left_out: int
    size: float
    pruned: float
    total: float
    logit: float
    positions: tuple[int, ...]

    @property
    def error(self) -> float:
        """Sum of all links minus the logit."""
        return self.total - self.logit

    @property
    def shown(self) -> float:
        """Drawn part of the sum of absolute values, 0 to 1."""
        return (self.raised - self.lowered) / max(self.size, 1e-30)


def select_signed(graph: Graph, rule: Rule = USUAL) -> Signed:
    """Select the bars of a signed graph by the rule; "sources" counts those of a layer."""
    if graph.method != "signed":
        raise ValueError(f"a {graph.method} graph has shares, not logits")
    bars, pruned = _bars(graph)
    size = _size(graph, bars, pruned)
    kept = _kept(bars, rule, size)
    positions = _lanes(kept)
    drawn = [bar for bar in kept if bar.kind != "attention" or bar.source in positions][:LIMIT]
    taken = set(drawn)
    rest = [bar.logits for bar in bars if bar not in taken] + [pruned]
    return Signed(
        bars=tuple(drawn),
        raised=sum(max(bar.logits, 0.0) for bar in drawn),
        lowered=sum(min(bar.logits, 0.0) for bar in drawn),
        other_raised=sum(max(value, 0.0) for value in rest),
        other_lowered=sum(min(value, 0.0) for value in rest),
        left_out=len(bars) - len(drawn),
        size=size,
        pruned=pruned,
        total=float(graph.link_share.astype(np.float64).sum()),
        logit=graph.logit,
        positions=positions,
    )


def _size(graph: Graph, bars: list[Bar], pruned: float) -> float:
    """Sum of absolute values of all paths; of the pruned ones only their share is known."""
    known = sum(abs(bar.logits) for bar in bars)
    return max(known / max(1.0 - graph.hidden_share, 1e-6), known + abs(pruned))


def _bars(graph: Graph) -> tuple[list[Bar], float]:
    """All bars, strongest first, and the sum that the graph pruned."""
    parts: dict[tuple[str, int, int, bool], list[tuple[int, float]]] = defaultdict(list)
    pruned = 0.0
    columns = (graph.link_kind, graph.link_layer, graph.link_head, graph.link_share)
    sources = graph.node_pos[graph.link_source].tolist()
    for (kind, layer, head, logits), source in zip(
        zip(*(column.tolist() for column in columns), strict=True), sources, strict=True
    ):
        name = LINK_KINDS[kind]
        if name == "other":
            pruned += logits
            continue
        where = EMBEDDING if name == "residual" else layer
        parts[name, where, source, logits > 0].append((head, logits))
    bars = []
    for (name, layer, source, _), ways in parts.items():
        heads = sorted((way for way in ways if way[0] >= 0), key=lambda way: -abs(way[1]))
        bars.append(Bar(name, layer, source, sum(way[1] for way in ways), tuple(heads)))
    return sorted(bars, key=lambda bar: -abs(bar.logits)), pruned


def _kept(bars: list[Bar], rule: Rule, whole: float) -> list[Bar]:
    if rule.name == "least":
        return [bar for bar in bars if abs(bar.logits) >= rule.least * whole]
    if rule.name == "mass":
        before = np.cumsum([0.0, *(abs(bar.logits) for bar in bars)])[:-1]
        return [bar for bar, sum_ in zip(bars, before, strict=True) if sum_ < rule.mass * whole]
    seen: dict[int, int] = defaultdict(int)
    kept = []
    for bar in bars:
        seen[bar.layer] += bar.kind == "attention"
        if bar.kind != "attention" or seen[bar.layer] <= rule.sources:
            kept.append(bar)
    return kept


def _lanes(bars: list[Bar]) -> tuple[int, ...]:
    mass: dict[int, float] = defaultdict(float)
    for bar in bars:
        if bar.kind in ("attention", "residual"):
            mass[bar.source] += abs(bar.logits)
    return tuple(sorted(sorted(mass, key=lambda pos: -mass[pos])[:LANES]))


#: Height of all lanes, least and most height of a lane, in pixels; height of the largest bar in it.
_TALL, _LOW, _HIGH, _HALF = 420, 40, 72, 0.46


#: Kinds of bars that have a lane of their own, and its name.
_LANES = {
    "mlp": "MLPs",
    "ssm": "mixers",
    "per_layer_embedding": "PLE",
    "whole_block": "blocks",
    "bias": "biases",
}


def signed_caption(graph: Graph, drawing: Signed, names: dict[int, Token]) -> str:
    """The sum, its error, and what the picture omits, as plain text."""
    token = quoted(names[graph.token]) if graph.token in names else f"token {graph.token}"
    what = f"the logit of {token}"
    if graph.foil >= 0:
        foil = quoted(names[graph.foil]) if graph.foil in names else f"token {graph.foil}"
        what = f"{what} minus that of {foil}"
    thinnest = f" and the thinnest paths ({drawing.pruned:+.2f} in sum)" if drawing.pruned else ""
    return (
        f"Direct paths to {what} ({row_name(graph.row)}, position {graph.position}). Their sum is"
        f" {drawing.total:+.3f}, the model's value {graph.logit:+.3f}, the error"
        f" {abs(drawing.error):.0e}. Drawn: {drawing.raised:+.2f} and {drawing.lowered:+.2f},"
        f" {percent(drawing.shown)} of all by absolute value; other: {drawing.other_raised:+.2f}"
        f" and {drawing.other_lowered:+.2f} in {drawing.left_out:,} more{thinnest}."
    )


def signed_figure(graph: Graph, drawing: Signed, run: RunResult, *, theme: Theme) -> Figure:
    """Bars in lanes: x is the layer; lanes are the tokens that heads read, the MLPs and the biases.

    A bar's ``customdata`` is [hover text, kind, layer, source, target, strongest head or -1].
    """
    lanes = _lane_of(drawing)
    top = max((abs(bar.logits) for bar in drawing.bars), default=1.0)
    layout = base_layout(
        theme,
        height=min(_HIGH, max(_LOW, _TALL // max(len(lanes), 1))) * len(lanes) + 76,
        margin={"l": 116, "r": 92, "t": 14, "b": 46, "pad": 0, "autoexpand": False},
        annotations=_names(drawing, lanes, run, theme),
        xaxis=axis(
            theme,
            f"layer (E: embedding); tallest bar {top:.2g} logits; right: sum of the drawn bars",
            range=[EMBEDDING - 0.7, graph.row + 0.7],
            tickvals=[EMBEDDING, *range(0, graph.row, 5 if graph.row > 12 else 1)],
            ticktext=["E", *range(0, graph.row, 5 if graph.row > 12 else 1)],
        ),
        yaxis=axis(theme, range=[0.55 - len(lanes), 0.55], showticklabels=False),
        shapes=[_line(-number, theme) for number in range(len(lanes))],
        bargap=0.25,
        barmode="overlay",
        meta={"view": "flow-signed"},
    )
    return {"data": [_trace(drawing, lanes, run, top, graph, theme)], "layout": layout}


def _lane_of(drawing: Signed) -> dict[str | int, int]:
    """Lane numbers from top to bottom, by position; MLPs and biases by kind."""
    kinds = [kind for kind in _LANES if any(bar.kind == kind for bar in drawing.bars)]
    lanes: list[str | int] = [*drawing.positions, *kinds]
    return {name: number for number, name in enumerate(lanes)}


def _lane(bar: Bar, lanes: dict[str | int, int]) -> int:
    return lanes[bar.kind if bar.kind in _LANES else bar.source]


def _trace(
    drawing: Signed,
    lanes: dict[str | int, int],
    run: RunResult,
    top: float,
    graph: Graph,
    theme: Theme,
) -> dict[str, Any]:
    bars = drawing.bars
    return {
        "type": "bar",
        "x": [bar.layer for bar in bars],
        "y": [bar.logits / top * _HALF for bar in bars],
        "base": [-_lane(bar, lanes) for bar in bars],
        "width": 0.72,
        "marker": {"color": [_colour(bar.logits, theme) for bar in bars], "line": {"width": 0}},
        "customdata": [[_hover(bar, run), *_link(bar, graph)] for bar in bars],
        "hovertemplate": "%{customdata[0]}<extra></extra>",
    }


def _link(bar: Bar, graph: Graph) -> list[Any]:
    """Kind, layer, source, target and strongest head of a bar, in the page's format of a link."""
    head = bar.heads[0][0] if bar.heads else -1
    return [bar.kind, min(max(bar.layer, 0), graph.row - 1), bar.source, graph.position, head]


def _colour(logits: float, theme: Theme) -> str:
    scale = palette(theme).signed
    return scale[5][1] if logits > 0 else scale[1][1]


def _hover(bar: Bar, run: RunResult) -> str:
    name = {**PART_NAMES, "residual": "embedding"}.get(bar.kind, bar.kind)
    title = name if bar.layer < 0 else f"layer {bar.layer}: {name}"
    token = token_markup(run.tokens[bar.source], 18)
    lines = [f"<b>{title}</b>", f"reads position {bar.source} {token}", f"{bar.logits:+.3f} logits"]
    lines += [f"  head {head}: {logits:+.3f}" for head, logits in bar.heads[:5]]
    if len(bar.heads) > 5:
        lines.append(f"  {len(bar.heads) - 5} more heads")
    return "<br>".join(lines)


def _names(
    drawing: Signed, lanes: dict[str | int, int], run: RunResult, theme: Theme
) -> list[dict[str, Any]]:
    """Each lane's name at its left, and the sum of its drawn bars at its right."""
    colours = palette(theme)
    sums: dict[int, float] = defaultdict(float)
    for bar in drawing.bars:
        sums[_lane(bar, lanes)] += bar.logits
    names = []
    for lane, number in lanes.items():
        name = _LANES[lane] if isinstance(lane, str) else token_markup(run.tokens[lane], 12)
        small = "" if isinstance(lane, str) else f' <span style="font-size:10px">{lane}</span>'
        names.append(_note(0, -number, name + small, theme, xanchor="right", xshift=-6))
        ink = _colour(sums[number], theme) if abs(sums[number]) >= 0.005 else colours.ink_3
        text = f'<span style="color:{ink}">{markup(f"{sums[number]:+.2f}")}</span>'
        names.append(_note(1, -number, text, theme, xanchor="left", xshift=8))
    return names


def _note(x: float, y: float, text: str, theme: Theme, **changes: Any) -> dict[str, Any]:
    return {
        "x": x,
        "y": y,
        "xref": "paper",
        "yref": "y",
        "text": text,
        "showarrow": False,
        "font": {"family": MONO, "size": 11, "color": palette(theme).ink},
        **changes,
    }


def _line(y: float, theme: Theme) -> dict[str, Any]:
    return {
        "type": "line",
        "xref": "paper",
        "yref": "y",
        "x0": 0,
        "x1": 1,
        "y0": y,
        "y1": y,
        "layer": "below",
        "line": {"color": rgba(palette(theme).rule_strong, 0.7), "width": 1},
    }
