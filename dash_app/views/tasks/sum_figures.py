"""Reports on sums as figures: contributions, attention, probes and patches, each a map of cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from analysis.tasks.sum_specs import ContributionReport, PatchReport, ProbeReport
from dash_app.page.theme import Figure, Theme, axis, base_layout, palette
from dash_app.views.tasks.figure_parts import line, matrix

#: Rows of a map: more parts than this are too many to read, the weakest are left out.
MOST_ROWS = 40
#: Columns of the attention of a head.
MOST_READ = 30

#: From a part of the model ("head 0.3", "row 2") and a position to what a click opens.
Link = Callable[[int, str, int], str]


def short(names: Sequence[str]) -> list[str]:
    """Names of places as axis labels: "ans3" for "answer3", visible spaces."""
    return [name.replace("answer", "ans").replace(" ", "␣").replace("\n", "↵") for name in names]


def contributions(report: ContributionReport, link: Link, *, theme: Theme) -> Figure:
    """What each head and MLP adds to the right digit over the other carry's, by digit and carry.

    ``link`` is asked with ``2 * digit + carry``.
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
            f"{name} → digit {report.columns[d]}, {'with' if c else 'without'} a carry"
            f" ({report.counts[d, c]} sums)"
            for d, c in groups
        ]
        for name in names
    ]
    return matrix(
        table, columns=labels, rows=names, theme=theme, quantity="logits", low=-most, high=most,
        signed=True, title="Logits added to the right digit, over the digit of the other carry",
        x_title="Digit that is written (0: units), and whether a carry goes into it",
        links=links, hover=hover,
    )  # fmt: skip


def _parts(report: ContributionReport) -> tuple[list[str], Any]:
    """Names and [part, digit * 2 + carry] contributions, in the order in which they come about."""
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
    """The rows that matter most anywhere, in their order."""
    size = np.nan_to_num(np.abs(table)).max(1)
    return sorted(np.argsort(-size)[:MOST_ROWS].tolist())


def left_out(report: ContributionReport) -> str:
    """How many parts the map leaves out, and how much they do; empty where it has all."""
    _, table = _parts(report)
    size, kept = np.nan_to_num(np.abs(table)), _strongest(table)
    rest = np.delete(size, kept, 0)
    if not len(rest):
        return ""
    share = float((rest.sum(0) / np.maximum(size.sum(0), 1e-30)).max())
    return (
        f" Drawn are the {len(kept)} of {len(table)} parts that do most; none of the others does"
        f" more than {rest.max():.2f} logits anywhere, all of them together at most {share:.0%} of"
        " a column's absolute values."
    )


def _read(report: ContributionReport, layer: int, head: int) -> np.ndarray:
    """The positions that are drawn: all that can be read, or in a long prompt those read most."""
    places = np.flatnonzero(np.arange(len(report.sources)) <= report.positions.max())
    if len(places) <= MOST_READ:
        return places
    read = report.attention[:, layer, head][:, places].max(0)
    return np.sort(places[np.argsort(-read)[:MOST_READ]])


def unread(report: ContributionReport, layer: int, head: int) -> str:
    """How many tokens a long prompt's picture leaves out, and how much is read of them."""
    drawn = _read(report, layer, head)
    count = int(report.positions.max()) + 1 - len(drawn)
    if not count:
        return ""
    rest = np.delete(report.attention[:, layer, head], drawn, 1).sum(1).max()
    return (
        f" The {count} tokens read least are left out: together they have at most {rest:.0%} of"
        " what is read for a digit."
    )


def attention(
    report: ContributionReport, layer: int, head: int, link: Link, *, theme: Theme
) -> Figure:
    """Where one head reads from the state that writes each digit: mean pattern by position."""
    seen = report.attention[:, layer, head]
    places = _read(report, layer, head)  # worked examples stand before the question
    rows = [f"digit {column}" for column in report.columns]
    part = f"head {layer}.{head}"
    links = [[link(2 * d, part, int(p))] * len(places) for d, p in enumerate(report.positions)]
    return matrix(
        seen[:, places], columns=short([report.sources[p] for p in places]), rows=rows,
        theme=theme, quantity="mean pattern",
        title=f"What head {layer}.{head} reads while each digit is written",
        x_title="Token that is read: digit of operand a or b by column, signs, digits written",
        links=links,
    )  # fmt: skip


def probes(report: ProbeReport, target: int, link: Link, *, control: bool, theme: Theme) -> Figure:
    """Accuracy of a probe for one fact, every component by every position."""
    values = (report.control if control else report.accuracy)[target]
    name = report.targets[target]
    carry = name.startswith("carry")
    what = (
        f"the carry into column {name[5:]}" if carry else f"the raw digit sum of column {name[3:]}"
    )
    titled = f"Probe of {what}" + (", labels shuffled (control)" if control else "")
    rows = list(report.components)
    links = [[link(target, part, int(position)) for position in report.positions] for part in rows]
    return matrix(
        values, columns=short(report.places), rows=rows, theme=theme,
        quantity="balanced accuracy" if carry else "accuracy",
        low=0.5 if carry else 0.0, title=titled,
        x_title="Position of the state that is read", links=links,
    )  # fmt: skip


def probe_lines(report: ProbeReport, link: Link, *, kind: str, theme: Theme) -> Figure:
    """By component, how well each column's fact is read at the state that writes the column."""
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
                theme, "Component, in the order in which they come about", tickmode="array",
                tickvals=x[:: max(1, len(x) // 34)],
                ticktext=list(report.components)[:: max(1, len(x) // 34)], tickangle=-50,
            ),
            yaxis=axis(
                theme, "Balanced accuracy" if kind == "carry" else "Accuracy",
                tickformat=".0%", range=[0.4 if kind == "carry" else 0.0, 1.03], showgrid=True,
            ),
        ),
    }  # fmt: skip


def titled(target: str) -> str:
    """What a probe's target is called: "carry into column 2", "sum of column 0"."""
    kind, column = ("carry into", target[5:]) if target[0] == "c" else ("sum of", target[3:])
    return f"{kind} column {column}"


def patches(report: PatchReport, link: Link, *, control: bool, theme: Theme) -> Figure:
    """Share of pairs whose digit becomes one more, patched where it is written and everywhere."""
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
    title = "Share of pairs whose digit becomes one more"
    return matrix(
        values, columns=labels, rows=rows, theme=theme, quantity="share that changes",
        title=title + (": the donor has no carry either (control)" if control else ""),
        x_title="Column that the carry goes into; patched at the state that writes it, or at all",
        links=links,
    )  # fmt: skip


def patch_positions(
    report: PatchReport, column: int, link: Link, *, control: bool = False, theme: Theme
) -> Figure:
    """The same for one column, patched at each state on its own."""
    last = int(report.positions[column]) + 1
    rows = list(report.components)
    table, donor = (report.control, " (control)") if control else (report.effect, "")
    return matrix(
        table[column, :, :last], columns=short(report.places[:last]), rows=rows,
        theme=theme, quantity="share that changes",
        title=f"Patched at one state alone: the carry into column {report.columns[column]}{donor}",
        x_title="Position of the state that is patched",
        links=[[link(column, part, place) for place in range(last)] for part in rows],
    )  # fmt: skip
