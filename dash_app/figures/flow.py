"""The flow graph: where the mass of one state comes from, down to the tokens."""

from __future__ import annotations

from typing import Any

from analysis.results import Graph, Grid, RunResult
from dash_app.figures.flow_parts import Spot
from dash_app.figures.flow_place import Label, Places, place, place_labels
from dash_app.figures.flow_rule import USUAL, Rule
from dash_app.figures.flow_select import Drawing, Drawn, select
from dash_app.figures.flow_table import link_rows
from dash_app.figures.flow_text import caption, decoded, describe, link_hover, node_hover
from dash_app.figures.labels import token_markup
from dash_app.theme import MONO, Figure, Theme, base_layout, palette, rgba

__all__ = ["caption", "describe", "sankey"]

#: Opacity of main links; quiet ones are 0 until the browser brings them out.
OPACITY = {"residual": 0.5, "attention": 0.62, "mlp": 0.75, "bias": 0.6, "sink": 0.6, "other": 0.5}
#: Opacity with which quiet links appear.
BROUGHT_OUT = 0.55
_NODE = 5


def sankey(
    graph: Graph,
    run: RunResult,
    grid: Grid | None,
    *,
    theme: Theme,
    row: int | None = None,
    pos: int | None = None,
    rule: Rule = USUAL,
    drawing: Drawing | None = None,
) -> Figure:
    """The main ways into the graph's root: tokens at the left, the root at the right.

    ``grid`` labels nodes with what they read as; ``row`` and ``pos``, the page's selection, are
    marked; ``rule`` says which links are main; ``drawing``, if at hand, is what it chose.

    The ``customdata`` of a node is [hover text, row or layer, pos, kind]; of a link [hover text,
    layer, strongest head or -1, source pos, target pos, kind].
    """
    drawing = drawing or select(graph, rule)
    places = place(drawing, len(run.tokens))
    texts = decoded(grid)
    layout = base_layout(
        theme,
        width=places.width,
        height=places.height,
        margin=places.margin,
        annotations=[
            *_lane_names(places, run, theme),
            *_row_names(places, theme),
            *_labels(drawing, places, texts, theme),
        ],
        shapes=[*_guides(places, theme), *_selected(places, row, pos, theme)],
        meta={**_meta(drawing, places), "table": link_rows(drawing, run)},
    )
    return {"data": [_trace(drawing, places, run, texts, theme)], "layout": layout}


def _trace(
    drawing: Drawing,
    places: Places,
    run: RunResult,
    texts: dict[tuple[int, int], str],
    theme: Theme,
) -> dict[str, Any]:
    spots = list(drawing.node_flow)
    return {
        "type": "sankey",
        "orientation": "h",
        "arrangement": "fixed",
        "node": _nodes(drawing, spots, places, run, texts, theme),
        "link": _links(drawing, spots, places, run, theme),
    }


def _meta(drawing: Drawing, places: Places) -> dict[str, Any]:
    """What the browser needs to bring links out (assets/js/flow.js)."""
    return {
        "view": "flow",
        "broughtOut": BROUGHT_OUT,
        "links": len(drawing.links),
        "nodes": len(drawing.node_flow),
        "outlines": [round(places.outline(link), 2) for link in drawing.links],
    }


def _nodes(
    drawing: Drawing,
    spots: list[Spot],
    places: Places,
    run: RunResult,
    texts: dict[tuple[int, int], str],
    theme: Theme,
) -> dict[str, Any]:
    colours = palette(theme)
    flows = [drawing.node_flow[spot] for spot in spots]
    at = [places.fraction(spot) for spot in spots]
    ends = [(-9.0, 0.5), (-8.0, 0.5)]
    return {
        "x": [x for x, _ in (*at, *ends)],
        "y": [y for _, y in (*at, *ends)],
        "label": [""] * (len(spots) + 2),
        "color": [
            rgba(colours.ink_2, (0.85 if spot.kind == "block" else 0.4) if flow > 0 else 0)
            for spot, flow in zip(spots, flows, strict=True)
        ]
        + ["rgba(0,0,0,0)"] * 2,
        "line": {"width": 0},
        "thickness": _NODE,
        "pad": 0.01,
        "align": "left",
        "customdata": [
            [node_hover(spot, flow, run, texts), spot.depth, spot.pos, spot.kind]
            for spot, flow in zip(spots, flows, strict=True)
        ]
        + [["", -1, -1, "scale"]] * 2,
        "hovertemplate": "%{customdata[0]}<extra></extra>",
    }


def _links(
    drawing: Drawing, spots: list[Spot], places: Places, run: RunResult, theme: Theme
) -> dict[str, Any]:
    """The links as plotly has them; the last one, out of sight, sets the scale."""
    number = {spot: index for index, spot in enumerate(spots)}
    count = len(spots)
    return {
        "source": [*(number[link.source] for link in drawing.links), count],
        "target": [*(number[link.target] for link in drawing.links), count + 1],
        "value": [*(link.flow for link in drawing.links), places.scale_value],
        "color": [*(_colour(link, theme) for link in drawing.links), "rgba(0,0,0,0)"],
        "hovercolor": [
            *(rgba(_hue(link.kind, theme), 0.9 if link.main else 0) for link in drawing.links),
            "rgba(0,0,0,0)",
        ],
        "line": {"width": 0},
        "customdata": [
            *(_link_data(link, run) for link in drawing.links),
            ["", -1, -1, -1, -1, "scale"],
        ],
        "hovertemplate": "%{customdata[0]}<extra></extra>",
    }


def _link_data(link: Drawn, run: RunResult) -> list[Any]:
    ends = [link.source.pos, link.target.pos]
    return [link_hover(link, run), layer_of(link), _head(link), *ends, link.kind]


def layer_of(link: Drawn) -> int:
    """The layer to show for a link: of a joined one, where it attends; a residual's highest."""
    return link.last if link.kind == "residual" else link.first


def _head(link: Drawn) -> int:
    return link.heads[0][0] if link.heads else -1


def _hue(kind: str, theme: Theme) -> str:
    kind = "bias" if kind == "sink" else kind  # both end here, and never stand side by side
    return str(getattr(palette(theme), kind, palette(theme).other))


def _colour(link: Drawn, theme: Theme) -> str:
    return rgba(_hue(link.kind, theme), OPACITY.get(link.kind, 0.5) if link.main else 0.0)


def _text(x: float, y: float, text: str, theme: Theme, **changes: Any) -> dict[str, Any]:
    """A text at pixels (x, y) from the plot area's top left corner."""
    return {
        "x": 0,
        "y": 1,
        "xref": "paper",
        "yref": "paper",
        "xshift": x,
        "yshift": -y,
        "text": text,
        "showarrow": False,
        "font": {"family": MONO, "size": 11, "color": palette(theme).ink_2},
        **changes,
    }


def _lane_names(places: Places, run: RunResult, theme: Theme) -> list[dict[str, Any]]:
    colours = palette(theme)
    style = {"yanchor": "middle", "xanchor": "right", "align": "right"}
    names = []
    for position in places.positions:
        ink = colours.answer if position >= run.prompt_length else colours.ink
        name = token_markup(run.tokens[position], 12)
        number = f'<span style="color:{colours.ink_3};font-size:10px">{position}</span>'
        text = f'<span style="color:{ink}">{name}</span> {number}'
        names.append(_text(-6, places.y(position), text, theme, **style))
    return names


def _row_names(places: Places, theme: Theme) -> list[dict[str, Any]]:
    top = places.top_row
    step = 1 if top <= 13 else 5
    rows = [row for row in range(top + 1) if row % step == 0 or row == top]
    rows = [row for row in rows if row in (0, top) or top - row >= 2 or step == 1]
    style = {"xanchor": "center", "yanchor": "top", "align": "center"}
    muted = {"family": MONO, "size": 11, "color": palette(theme).ink_3}
    return [
        _text(
            places.x(row),
            places.inner_height + 8,
            f"row {row}" if row else "embedding",
            theme,
            font=muted,
            **style,
        )
        for row in rows
    ]


def _labels(
    drawing: Drawing, places: Places, texts: dict[tuple[int, int], str], theme: Theme
) -> list[dict[str, Any]]:
    colours = palette(theme)
    chosen: list[Label] = place_labels(drawing, places, texts)
    return [
        _text(
            label.x,
            label.y,
            label.text,
            theme,
            xanchor="center",
            yanchor="middle",
            bgcolor=rgba(colours.surface, 0.6),
            borderpad=0,
            font={
                "family": MONO,
                "size": 11,
                "color": colours.select if label.spot in drawing.roots else colours.ink,
            },
        )
        for label in chosen
    ]


def _guides(places: Places, theme: Theme) -> list[dict[str, Any]]:
    """A thin line along each lane, behind everything."""
    line = {"color": palette(theme).rule, "width": 1}
    heights = [1 - places.y(position) / places.inner_height for position in places.positions]
    return [
        {
            "type": "line",
            "xref": "paper",
            "yref": "paper",
            "x0": 0,
            "x1": 1,
            "y0": height,
            "y1": height,
            "layer": "below",
            "line": line,
        }
        for height in heights
    ]


def _selected(
    places: Places, row: int | None, pos: int | None, theme: Theme
) -> list[dict[str, Any]]:
    if row is None or pos is None or pos not in places.positions or row > places.top_row:
        return []
    x, y = places.x(row), places.y(pos)
    half = places.root_size / 2 + 4
    return [
        {
            "type": "rect",
            "xref": "paper",
            "yref": "paper",
            "x0": (x - 6) / places.inner_width,
            "x1": (x + 6) / places.inner_width,
            "y0": 1 - (y + half) / places.inner_height,
            "y1": 1 - (y - half) / places.inner_height,
            "fillcolor": "rgba(0,0,0,0)",
            "line": {"color": palette(theme).select, "width": 2},
        }
    ]
