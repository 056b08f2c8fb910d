"""The component graph of an answer as a picture, with the faithfulness of graphs beside it."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np

from analysis.experiments.component_specs import ComponentGraph
from dash_app.page.theme import Figure, Theme, axis, base_layout, palette, rgba
from dash_app.page.token_labels import quoted, token_markup

#: Edges that are drawn in full; weaker ones are faint and show their values on hover.
MAIN = 40
#: Edges listed in the box of a component.
_LISTED = 6
#: Place of a component in the picture: (sender's number, position); -1: all positions.
Node = tuple[int, int]


def edges_of(graph: ComponentGraph, most: int) -> list[int]:
    """The edges of the largest graph with at most ``most`` edges."""
    return list(range(graph.count(most)))


def components_figure(graph: ComponentGraph, most: int, theme: Theme) -> Figure:
    """Layers go upwards, positions to the right; the curve of faithfulness is beside it.

    Args:
        graph: The result.
        most: Edges of the graph that is shown.
        theme: The page's theme.
    """
    edges = edges_of(graph, most)
    places = _places(graph, edges)
    wide = 0.7 if len(graph.sizes) else 1.0
    columns = sorted({pos for _, pos in places})
    data = [*_lines(graph, edges, places, theme), *_nodes(graph, edges, places, theme)]
    layers = int(_height(graph, len(graph.senders)))
    texts = [_column(graph, pos) for pos in columns]
    layout = {
        "xaxis": axis(
            theme, domain=[0, wide], tickmode="array", tickvals=list(range(len(columns))),
            ticktext=texts, tickangle=-45, range=[-0.6, len(columns) - 0.4],
        ),
        "yaxis": axis(
            theme, "layer", range=[-1.6, layers + 0.6], tickmode="array",
            tickvals=[-1, *range(0, layers, max(1, layers // 8)), layers],
            ticktext=["embedding", *map(str, range(0, layers, max(1, layers // 8))), "answer"],
        ),
    }  # fmt: skip
    if len(graph.sizes):
        data += _curve(graph, most, theme)
        layout |= _curve_axes(graph, theme)
    return {
        "data": data,
        "layout": base_layout(
            theme, meta={"view": "components"}, hovermode="closest",
            margin={"l": 76, "r": 12, "t": 12, "b": 84, "pad": 0, "autoexpand": False}, **layout,
        ),
    }  # fmt: skip


def _column(graph: ComponentGraph, pos: int) -> str:
    """The name of a column: a position with its token."""
    return "all positions" if pos < 0 else f"{pos} {token_markup(graph.tokens[pos], 10)}"


def _places(graph: ComponentGraph, edges: list[int]) -> dict[Node, tuple[float, float]]:
    """Where each component of the graph is drawn: (column, layer)."""
    nodes = {(int(graph.edge_sender[e]), int(graph.edge_pos[e])) for e in edges}
    answer = (len(graph.senders), -1 if graph.positions == "sum" else len(graph.tokens) - 1)
    if edges:
        nodes.add(answer)
    column = {pos: place for place, pos in enumerate(sorted({pos for _, pos in nodes}))}
    rows: dict[tuple[float, int], list[Node]] = defaultdict(list)
    for node in sorted(nodes):
        rows[_height(graph, node[0]), node[1]].append(node)
    found = {}
    for (height, pos), several in rows.items():
        for place, node in enumerate(several):
            shift = 0.0 if len(several) == 1 else 0.7 * (place / (len(several) - 1) - 0.5)
            found[node] = (column[pos] + shift, height)
    return found


def _height(graph: ComponentGraph, sender: int) -> float:
    """The layer at which a component is drawn: an MLP half a layer above its heads."""
    if sender == len(graph.senders):
        last = max((_layer(name) for name in graph.senders[1:]), default=0)
        return last + 1.0
    name = graph.senders[sender]
    if name == "embedding":
        return -1.0
    return _layer(name) + (0.5 if name.startswith("mlp") else 0.0)


def _layer(name: str) -> int:
    return int(name.split()[1].split(".", maxsplit=1)[0])


def _targets(graph: ComponentGraph, edge: int, places: dict[Node, Any]) -> list[Node]:
    """The drawn components that an edge enters: a key or value, those at later positions too."""
    receiver, pos = graph.receivers[graph.edge_receiver[edge]], int(graph.edge_pos[edge])
    if receiver == "answer":
        return [node for node in places if node[0] == len(graph.senders)]
    words = receiver.split()
    own = graph.senders.index(" ".join(words[:2]))
    later = words[-1] in ("key", "value")
    return [
        node for node in places if node[0] == own and (node[1] == pos or (later and node[1] > pos))
    ]


def _words(graph: ComponentGraph, edge: int) -> str:
    """An edge in words, with its effect."""
    pos = int(graph.edge_pos[edge])
    where = "" if pos < 0 else f", position {pos} {token_markup(graph.tokens[pos], 12)}"
    kind = "measured" if graph.edge_measured[edge] else "estimated"
    names = graph.senders[graph.edge_sender[edge]], graph.receivers[graph.edge_receiver[edge]]
    return f"{names[0]} → {names[1]}{where}: {graph.edge_effect[edge]:+.3f}, {kind}"


def _lines(
    graph: ComponentGraph, edges: list[int], places: dict[Node, tuple[float, float]], theme: Theme
) -> list[dict[str, Any]]:
    """One trace for each sign and width, and invisible points that show an edge on hover."""
    colours = palette(theme)
    ranked = sorted(edges, key=lambda edge: -abs(float(graph.edge_effect[edge])))
    largest = abs(float(graph.edge_effect[ranked[0]])) if ranked else 1.0
    groups: dict[tuple[bool, float], list[list[float | None]]] = defaultdict(lambda: [[], []])
    hover: list[list[Any]] = [[], [], []]
    for rank, edge in enumerate(ranked):
        effect = float(graph.edge_effect[edge])
        width = 0.6 if rank >= MAIN else float(np.ceil(1 + 4 * abs(effect) / largest))
        start = places[int(graph.edge_sender[edge]), int(graph.edge_pos[edge])]
        for target in _targets(graph, edge, places):
            end = places[target]
            for axis_number in (0, 1):
                groups[effect > 0, width][axis_number] += [
                    start[axis_number], end[axis_number], None
                ]  # fmt: skip
                hover[axis_number].append((start[axis_number] + end[axis_number]) / 2)
            hover[2].append(_words(graph, edge))
    shades = {True: colours.accent, False: colours.select}
    drawn = [
        {
            "type": "scatter", "mode": "lines", "x": x, "y": y, "hoverinfo": "skip",
            "line": {
                "width": width,
                "color": rgba(shades[up], 0.75 if width >= 1 else 0.3),
            },
        }
        for (up, width), (x, y) in sorted(groups.items())
    ]  # fmt: skip
    points = {
        "type": "scatter", "mode": "markers", "x": hover[0], "y": hover[1],
        "hovertext": hover[2], "hovertemplate": "%{hovertext}<extra></extra>",
        "marker": {"size": 9, "opacity": 0},
    }  # fmt: skip
    return [*drawn, points]


def _nodes(
    graph: ComponentGraph, edges: list[int], places: dict[Node, tuple[float, float]], theme: Theme
) -> list[dict[str, Any]]:
    """Heads, MLPs, embeddings and the answer; the box of each lists its strongest edges."""
    colours = palette(theme)
    lists: dict[Node, list[int]] = defaultdict(list)
    for edge in edges:
        for node in ((int(graph.edge_sender[edge]), int(graph.edge_pos[edge])),
                     *_targets(graph, edge, places)):  # fmt: skip
            lists[node].append(edge)
    shades = {
        "embedding": colours.residual, "head": colours.attention, "mlp": colours.mlp,
        "answer": colours.answer,
    }  # fmt: skip
    names = [*graph.senders, "answer"]
    kinds = {node: names[node[0]].split()[0] for node in places}
    shown = [node for node in places if kinds[node] != "embedding"]
    return [
        {
            "type": "scatter",
            "mode": "markers+text",
            "x": [places[node][0] for node in places],
            "y": [places[node][1] for node in places],
            "text": [_label(names[node[0]]) if node in shown else "" for node in places],
            "textposition": _sides(places),
            "textfont": {"size": 10, "color": colours.ink},
            "hovertext": [_box(graph, names[node[0]], lists[node]) for node in places],
            "hovertemplate": "%{hovertext}<extra></extra>",
            "cliponaxis": False,
            "marker": {
                "size": 10,
                "color": [shades[kinds[node]] for node in places],
                "symbol": ["square" if kinds[node] == "mlp" else "circle" for node in places],
                "line": {"width": 1, "color": colours.surface},
            },
        }
    ]


def _sides(places: dict[Node, tuple[float, float]]) -> list[str]:
    """Where each label stands: beside a component that is alone in its row, else above it."""
    rows = Counter((node[1], places[node][1]) for node in places)
    return [
        "middle right" if rows[node[1], places[node][1]] == 1 else "top center" for node in places
    ]


def _label(name: str) -> str:
    """A short name: "3.5" for a head, "m3" for an MLP."""
    words = name.split()
    return words[-1] if words[0] == "head" else f"m{words[1]}" if words[0] == "mlp" else ""


def _box(graph: ComponentGraph, name: str, edges: list[int]) -> str:
    ranked = sorted(edges, key=lambda edge: -abs(float(graph.edge_effect[edge])))
    more = len(ranked) - _LISTED
    lines = [f"<b>{name}</b>", *(_words(graph, edge) for edge in ranked[:_LISTED])]
    return "<br>".join([*lines, *([f"and {more} more edges"] if more > 0 else [])])


def _curve(graph: ComponentGraph, most: int, theme: Theme) -> list[dict[str, Any]]:
    """The shares that remain, by size: of the graph, of random graphs, and with the graph cut."""
    colours, sizes = palette(theme), graph.sizes.tolist()
    known = [len(one) > 0 and not np.isnan(one).any() for one in graph.random]
    some = [size for size, one in zip(sizes, known, strict=True) if one]
    random = graph.random[known]
    common = {"type": "scatter", "xaxis": "x2", "yaxis": "y2", "mode": "lines+markers"}

    def line(name: str, x: Any, y: Any, colour: str, dash: str = "solid") -> dict[str, Any]:
        """One curve."""
        return {
            **common, "x": x, "y": y, "name": name, "marker": {"size": 5, "color": colour},
            "line": {"color": colour, "width": 2, "dash": dash},
            "hovertemplate": f"{name}, %{{x}} edges: %{{y:.2f}}<extra></extra>",
        }  # fmt: skip

    traces = [line("graph alone", sizes, graph.kept, colours.accent)]
    cut = ~np.isnan(graph.removed)
    traces.append(line("all but the graph", [s for s, one in zip(sizes, cut, strict=True) if one],
                       graph.removed[cut], colours.select, "dot"))  # fmt: skip
    if some:
        traces.append(line("random graphs", some, random.mean(1), colours.ink_3, "dash"))
    at = max(graph.count(most), 1)
    ends = {"x": [at, at], "y": [-0.2, 1.2], "hoverinfo": "skip"}
    mark = {"color": colours.rule_strong, "width": 1}
    return [{**common, "mode": "lines", **ends, "line": mark}, *traces]


def _curve_axes(graph: ComponentGraph, theme: Theme) -> dict[str, Any]:
    colours = palette(theme)
    lowest = min(-0.1, float(np.nanmin([graph.kept.min(), np.nanmin(graph.removed)])) - 0.05)
    highest = max(1.15, float(max(graph.kept.max(), np.nanmax(graph.removed))) + 0.1)
    texts = ("graph alone", colours.accent), ("all but the graph", colours.select), (
        "random graphs", colours.ink_3)  # fmt: skip
    notes = [
        {
            "text": text, "xref": "x2 domain", "yref": "y2 domain", "x": 0.98, "y": 0.66 - 0.09 * n,
            "xanchor": "right", "showarrow": False, "font": {"size": 11, "color": colour},
        }
        for n, (text, colour) in enumerate(texts)
    ]  # fmt: skip
    return {
        "xaxis2": axis(theme, "edges", domain=[0.77, 1.0], anchor="y2", type="log", dtick=1),
        "yaxis2": axis(theme, "share that remains", anchor="x2", range=[lowest, highest]),
        "annotations": notes,
    }


def components_caption(graph: ComponentGraph, most: int) -> str:
    """The target at both ends, the size of the graph, and what it explains."""
    count = graph.count(most)
    lead = (
        f"Logit of {quoted(graph.answer)} minus {quoted(graph.foil)}: {graph.full_value:.2f} with"
        f" all edges, {graph.empty_value:.2f} with every edge cut."
    )
    if not count:
        first = int(graph.edge_size.min()) if len(graph.edge_size) else 0
        more = f" The smallest has {first}." if first else ""
        return f"{lead} No graph of {most} edges has a whole path.{more}"
    measured = int(graph.edge_measured[:count].sum())
    cut = f"; {measured} are measured, the others estimated" if measured else ""
    shown = f" The graph has {count} of {graph.possible:,} edges{cut}."
    if not len(graph.sizes):
        return lead + shown + " Its faithfulness follows."
    near = max(int(np.searchsorted(graph.sizes, count, "right")) - 1, 0)
    random = graph.random[near]
    known = len(random) and not np.isnan(random).any()
    beside = f"; random graphs of that size keep {share(float(random.mean()))}" if known else ""
    return (
        f"{lead}{shown} With all other edges cut, {int(graph.sizes[near])} edges keep"
        f" {share(float(graph.kept[near]))}{beside}."
    )


def share(value: float) -> str:
    """A share in percent; it can be below 0 and above 100 %."""
    return f"{100 * value + 0.0:.0f} %".replace("-0 %", "0 %").replace("-", "−")
