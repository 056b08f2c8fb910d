"""Figures of the reports on sums: contributions, attention, probes, patches and projections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape as html_escape
from typing import Any, Literal

import numpy as np

from analysis.tasks.sum_specs import (
    CarryCircuits,
    ContributionReport,
    PatchReport,
    ProbeReport,
    Projection,
)
from dash_app.page.theme import Figure, Theme, axis, base_layout, colour_bar, palette, scale
from dash_app.views.tasks.figure_parts import line, matrix, part_name, title_of

#: Most rows of a heatmap; the weakest components are omitted.
MOST_ROWS = 40
#: Most columns of a head's attention.
MOST_READ = 30

#: From a group, a component ("head 0.3", "row 2") and a position to the target of a click.
Link = Callable[[int, str, int], str]


def short(names: Sequence[str]) -> list[str]:
    """Names of positions as axis labels: "ans3" for "answer3", with visible spaces."""
    return [name.replace("answer", "ans").replace(" ", "␣").replace("\n", "↵") for name in names]


def contributions(report: ContributionReport, link: Link, *, theme: Theme) -> Figure:
    """Contribution of each component to the right digit over the other carry's, by digit and carry.

    The group of ``link`` is ``2 * digit + carry``.
    """
    names, table = _parts(report)
    kept = _strongest(table)
    names, table = [names[n] for n in kept], table[kept]
    groups = [(d, c) for d in range(len(report.columns)) for c in (0, 1)]
    labels = [f"{report.columns[d]}<br>{'carry' if c else 'none'}" for d, c in groups]
    most = float(np.nanmax(np.abs(table))) if np.isfinite(table).any() else 1.0
    links = [[link(2 * d + c, name, int(report.positions[d])) for d, c in groups] for name in names]
    hover = [
        [
            f"{name}, digit {report.columns[d]}, {'with' if c else 'without'} a carry"
            f" ({report.counts[d, c]} sums)"
            for d, c in groups
        ]
        for name in names
    ]
    return matrix(
        table, columns=labels, rows=names, theme=theme, quantity="logits", low=-most, high=most,
        signed=True, title="Logit of the right digit minus that of the other carry's digit",
        x_title="Digit that is written (0: units), with or without a carry into it",
        links=links, hover=hover,
    )  # fmt: skip


def _parts(report: ContributionReport) -> tuple[list[str], Any]:
    """Names and [component, digit * 2 + carry] contributions, in the model's order."""
    digits, _, layers, heads = report.heads.shape
    names, rows = ["embedding"], [report.embedding.reshape(-1)]
    for layer in range(layers):
        for head in range(heads):
            names.append(f"head {layer}.{head}")
            rows.append(report.heads[:, :, layer, head].reshape(-1))
        names.append(f"mlp {layer}")
        rows.append(report.mlps[:, :, layer].reshape(-1))
    return names, np.stack(rows).reshape(len(names), 2 * digits)


def _strongest(table: Any) -> list[int]:
    """The rows with the largest contributions, in their order."""
    size = np.nan_to_num(np.abs(table)).max(1)
    return sorted(np.argsort(-size)[:MOST_ROWS].tolist())


def left_out(report: ContributionReport) -> str:
    """How many components the heatmap omits, and their contribution; empty if it has all."""
    _, table = _parts(report)
    size, kept = np.nan_to_num(np.abs(table)), _strongest(table)
    rest = np.delete(size, kept, 0)
    if not len(rest):
        return ""
    share = float((rest.sum(0) / np.maximum(size.sum(0), 1e-30)).max())
    return (
        f" The {len(kept)} strongest of {len(table)} components are drawn. Each of the others"
        f" contributes at most {rest.max():.2f} logits, and all of them together at most"
        f" {share:.0%} of a column's absolute values."
    )


def _read(report: ContributionReport, layer: int, head: int) -> np.ndarray:
    """The positions that are drawn: all, or in a long prompt those that are read most."""
    places = np.flatnonzero(np.arange(len(report.sources)) <= report.positions.max())
    if len(places) <= MOST_READ:
        return places
    read = report.attention[:, layer, head][:, places].max(0)
    return np.sort(places[np.argsort(-read)[:MOST_READ]])


def unread(report: ContributionReport, layer: int, head: int) -> str:
    """How many tokens of a long prompt are omitted, and how much attention they get."""
    drawn = _read(report, layer, head)
    count = int(report.positions.max()) + 1 - len(drawn)
    if not count:
        return ""
    rest = np.delete(report.attention[:, layer, head], drawn, 1).sum(1).max()
    return (
        f" The {count} tokens with the least attention are omitted. Together they get at most"
        f" {rest:.0%} of a digit's attention."
    )


def attention(
    report: ContributionReport, layer: int, head: int, link: Link, *, theme: Theme
) -> Figure:
    """What one head reads from the state that writes each digit: mean pattern by position."""
    seen = report.attention[:, layer, head]
    places = _read(report, layer, head)  # worked examples stand before the question
    rows = [f"digit {column}" for column in report.columns]
    part = f"head {layer}.{head}"
    links = [[link(2 * d, part, int(p))] * len(places) for d, p in enumerate(report.positions)]
    return matrix(
        seen[:, places], columns=short([report.sources[p] for p in places]), rows=rows,
        theme=theme, quantity="mean pattern",
        title=f"What head {layer}.{head} reads while each digit is written",
        x_title="Token that is read: digits of operands a and b by column, signs, written digits",
        links=links,
    )  # fmt: skip


def probes(report: ProbeReport, target: int, link: Link, *, control: bool, theme: Theme) -> Figure:
    """Accuracy of the probes for one fact, by component and position."""
    values = (report.control if control else report.accuracy)[target]
    name = report.targets[target]
    carry = name.startswith("carry")
    what = (
        f"the carry into column {name[5:]}" if carry else f"the raw digit sum of column {name[3:]}"
    )
    titled = f"Probe for {what}" + (", labels shuffled (control)" if control else "")
    rows = list(report.components)
    links = [[link(target, part, int(position)) for position in report.positions] for part in rows]
    return matrix(
        values, columns=short(report.places), rows=[part_name(one) for one in rows], theme=theme,
        quantity="balanced accuracy" if carry else "accuracy",
        low=0.5 if carry else 0.0, title=titled,
        x_title="Position of the state", links=links,
    )  # fmt: skip


def probe_lines(report: ProbeReport, link: Link, *, kind: str, theme: Theme) -> Figure:
    """Accuracy by component for each column, at the state that writes the column."""
    colours = palette(theme)
    chosen = [n for n, name in enumerate(report.targets) if name.startswith(kind)]
    x = list(range(len(report.components)))
    data: list[dict[str, Any]] = []
    for order, target in enumerate(chosen):
        place = int(report.written[target])
        colour = colours.categories[order % len(colours.categories)]
        drawn = line(x, report.accuracy[target, :, place], titled(report.targets[target]), colour)
        position = int(report.positions[place])
        links = [link(target, part, position) for part in report.components]
        data.append({**drawn, "customdata": links})
    places = report.written[chosen]
    mixed = np.stack([report.control[t, :, p] for t, p in zip(chosen, places, strict=True)])
    data.append(line(x, mixed.max(0), "labels shuffled, the best column", colours.ink_3, "dash"))
    return {
        "data": data,
        "layout": base_layout(
            theme,
            meta={"view": "tasks"},
            hovermode="closest",
            height=320,
            showlegend=True,
            legend={"x": 1.01, "y": 1, "font": {"size": 11}},
            margin={"l": 64, "r": 230, "t": 16, "b": 96, "pad": 0, "autoexpand": False},
            xaxis=axis(
                theme, "Component, in the model's order", tickmode="array",
                tickvals=x[:: max(1, len(x) // 34)],
                ticktext=[part_name(one) for one in report.components][:: max(1, len(x) // 34)],
                tickangle=-50,
            ),
            yaxis=axis(
                theme, "Balanced accuracy" if kind == "carry" else "Accuracy",
                tickformat=".0%", range=[0.4 if kind == "carry" else 0.0, 1.03], showgrid=True,
            ),
        ),
    }  # fmt: skip


def titled(target: str) -> str:
    """Name of a probe's target: "carry into column 2", "sum of column 0"."""
    kind, column = ("carry into", target[5:]) if target[0] == "c" else ("sum of", target[3:])
    return f"{kind} column {column}"


def carry_heads(report: CarryCircuits, *, theme: Theme) -> Figure:
    """For each head: what it reads of the column below, how far it writes the carry, and both."""
    values = np.concatenate([report.below, report.carry, report.scores[:, None]], 1)
    kept = _strongest(values[:, -1:])
    labels = [f"{what}<br>{n}" for what in ("reads below", "carry") for n in report.columns]
    return matrix(
        values[kept], columns=[*labels, "score"], rows=[report.name(at) for at in kept],
        theme=theme, quantity="share", title="Heads that make carries, by their weights",
        x_title="Column that receives the carry",
    )  # fmt: skip


def carry_steps(report: CarryCircuits, at: int, *, theme: Theme) -> Figure:
    """What a head writes for each sum of the two digits below, between no carry and a carry."""
    colours = palette(theme).categories
    lines = [
        {
            **line(list(range(19)), report.outputs[at, place], f"into column {column}",
                   colours[place % len(colours)]),
            "hovertemplate": f"digit sum %{{x}}, into column {column}: %{{y:.2f}}<extra></extra>",
        }
        for place, column in enumerate(report.columns)
    ]  # fmt: skip
    title = f"What {report.name(at)} writes: 0 is the mean without a carry, 1 the mean with one"
    return {
        "data": lines,
        "layout": base_layout(
            theme,
            meta={"view": "tasks"},
            hovermode="closest",
            height=320,
            showlegend=True,
            title=title_of(title, theme),
            legend={"x": 1.01, "y": 1, "font": {"size": 11}},
            margin={"l": 64, "r": 150, "t": 36, "b": 52, "pad": 0, "autoexpand": False},
            xaxis=axis(
                theme, "Sum of the two digits of the column below", dtick=1, range=[-0.4, 18.4]
            ),
            yaxis=axis(theme, "Output", showgrid=True),
        ),
    }


def patches(report: PatchReport, link: Link, *, control: bool, theme: Theme) -> Figure:
    """Share of pairs whose digit increases by one, patched where it is written and everywhere."""
    table = report.control if control else report.effect
    there = np.stack([table[n, :, p] for n, p in enumerate(report.positions)], 1)
    values = np.concatenate([there, table[:, :, -1].T], 1)
    labels = [
        f"into {column}<br>{where}"
        for where in ("there", "everywhere")
        for column in report.columns
    ]
    rows = list(report.components)
    columns = range(len(report.columns))
    links = [
        [link(n, part, int(report.positions[n])) for _ in range(2) for n in columns]
        for part in rows
    ]
    title = "Share of pairs whose digit increases by one"
    return matrix(
        values, columns=labels, rows=[part_name(one) for one in rows], theme=theme,
        quantity="share that changes",
        title=title + (" if the donor has no carry either (control)" if control else ""),
        x_title="Column that receives the carry; patched at the state that writes it, or at all",
        links=links,
    )  # fmt: skip


def patch_positions(
    report: PatchReport, column: int, link: Link, *, control: bool = False, theme: Theme
) -> Figure:
    """The same for one column, with each state patched on its own."""
    last = int(report.positions[column]) + 1
    rows = list(report.components)
    table, donor = (report.control, " (control)") if control else (report.effect, "")
    return matrix(
        table[column, :, :last], columns=short(report.places[:last]),
        rows=[part_name(one) for one in rows], theme=theme, quantity="share that changes",
        title=f"Patched at one state alone: the carry into column {report.columns[column]}{donor}",
        x_title="Position of the state that is patched",
        links=[[link(column, part, place) for place in range(last)] for part in rows],
    )  # fmt: skip


def projection(
    found: Projection,
    *,
    colour: Literal["carry", "digit_sum"],
    theme: Theme,
    links: Sequence[str] = (),
) -> Figure:
    """States on their two principal axes, coloured by the carry or by the raw digit sum.

    ``links`` [sum] is the target of a click on a dot.
    """
    share = [f"{100 * part:.0f} % of the variance" for part in found.explained]
    dots = {
        "type": "scatter",
        "mode": "markers",
        "x": found.points[:, 0],
        "y": found.points[:, 1],
        "marker": _coloured(found, colour, theme),
        "customdata": list(links),
        "text": _sums(found),
        "hovertemplate": "%{text}<extra></extra>",
    }
    what = "the carry into" if colour == "carry" else "the raw digit sum of"
    title = (
        f"{part_name(found.component)} at {found.place}, coloured by {what} column {found.column}"
    )
    return {
        "data": [dots],
        "layout": base_layout(
            theme,
            meta={"view": "tasks"},
            hovermode="closest",
            height=360,
            title=title_of(title, theme),
            margin={"l": 64, "r": 72, "t": 36, "b": 48, "pad": 0, "autoexpand": False},
            xaxis=axis(theme, f"axis 1 ({share[0]})", showgrid=True),
            yaxis=axis(theme, f"axis 2 ({share[1]})", showgrid=True),
        ),
    }


def _coloured(found: Projection, colour: str, theme: Theme) -> dict[str, Any]:
    """Markers by carry (colour and shape) or by digit sum (colour)."""
    colours = palette(theme)
    marker: dict[str, Any] = {"size": 5, "opacity": 0.75}
    if colour == "carry":
        return marker | {
            "color": [colours.select if carry else colours.accent for carry in found.carry],
            "symbol": ["diamond" if carry else "circle" for carry in found.carry],
        }
    return marker | {
        "color": found.digit_sum, "colorscale": scale(colours.magnitude), "cmin": 0, "cmax": 18,
        "colorbar": colour_bar(theme, "digit sum"),
    }  # fmt: skip


def _sums(found: Projection) -> list[str]:
    prompts = found.prompts or ("",) * len(found.points)
    return [
        f"{html_escape(prompt.splitlines()[-1] if prompt else '')}<br>digit sum {total}, "
        f"{'a' if carry else 'no'} carry"
        for prompt, total, carry in zip(prompts, found.digit_sum, found.carry, strict=True)
    ]
