"""A patching sweep as a heatmap, and in words."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from analysis.experiments.specs import METRICS, PARTS, PromptComparison, Sweep
from dash_app.page.theme import Figure, Theme, axis, base_layout, colour_bar, palette, scale
from dash_app.page.token_labels import at_row, percent, quoted, row_name, token_markup

#: The list below the heatmap: the most effects that it has, and the smallest effect in it.
LISTED, SMALLEST = 8, 0.05
#: The opacity of cells that are only estimated.
ESTIMATED = 0.55
#: The names of the two runs of a comparison: of two prompts, or of two models.
PROMPTS, MODELS = ("clean", "corrupted"), ("A", "B")
_NAMES = {"attention": "Attention", "mlp": "MLP"}
MARGIN = {"l": 104, "r": 84, "t": 12, "pad": 0, "autoexpand": False}


def sweep_figure(sweep: Sweep, theme: Theme) -> Figure:
    """The heatmap; measured cells are opaque, estimated ones paler.

    Args:
        sweep: Measured, estimated, or partly both.
        theme: The page's theme.
    """
    panels = _panels(sweep)
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = {}
    width = 1.0 / len(panels)
    for number, (title, part) in enumerate(panels):
        key = "" if number == 0 else str(number + 1)
        data += _traces(sweep, part, f"x{key}", theme, bar=number == 0)
        domain = [number * width, (number + 1) * width - (0.02 if len(panels) > 1 else 0)]
        layout[f"xaxis{key}"] = axis(
            theme, title or _column_title(sweep), domain=domain, **_columns(sweep)
        )
    below = 84 if sweep.names[-1] == "position" else 48
    named = f"layer {sweep.layer}, head" if sweep.axes == "head_position" else sweep.names[0]
    layout["yaxis"] = down_axis(named, sweep.raw.shape[0], theme)
    return {
        "data": data,
        "layout": base_layout(
            theme,
            meta={"view": "patching", "layer": sweep.layer, "partners": sweep.partners.tolist()},
            margin={**MARGIN, "b": below},
            **layout,
        ),
    }


def down_axis(name: str, count: int, theme: Theme) -> dict[str, Any]:
    """The axis of rows, layers or heads, with at most 12 names."""
    named = list(range(0, count, -(-count // 12)))
    texts = [row_name(place) if name == "row" else f"{name} {place}" for place in named]
    return axis(theme, tickmode="array", tickvals=named, ticktext=texts, range=[-0.5, count - 0.5])


def _panels(sweep: Sweep) -> list[tuple[str, int | None]]:
    """Title and index of each heatmap: one for each part, else one."""
    if "part" not in sweep.names:
        return [("", None)]
    return [(_NAMES[name], number) for number, name in enumerate(PARTS)]


def _traces(
    sweep: Sweep, part: int | None, across: str, theme: Theme, *, bar: bool
) -> list[dict[str, Any]]:
    taken = (slice(None),) if part is None else (slice(None), part)
    effect, measured = sweep.effect[taken], sweep.measured[taken]
    colours = scale(palette(theme).signed)
    traces = []
    for done, opacity in ((1, 1.0), (0, ESTIMATED)):
        cells = np.where(measured == done, effect, np.nan).astype(np.float32)
        traces.append(
            {
                "type": "heatmap",
                "meta": sweep.names[-1] if part is None else part,  # charts.js
                "z": cells,
                "x": list(range(cells.shape[1])),
                "y": list(range(cells.shape[0])),
                "xaxis": across,
                "yaxis": "y",
                "zmin": -1.0,
                "zmax": 1.0,
                "colorscale": colours,
                "opacity": opacity,
                "xgap": 1,
                "ygap": 1,
                "hoverongaps": False,
                "hovertext": _hover(sweep, part, cells.shape),
                "hovertemplate": "%{hovertext}<extra></extra>",
                "showscale": bar and done == int(measured.any()),
                "colorbar": colour_bar(theme, "effect of the patch"),
            }
        )
    return traces


def _hover(sweep: Sweep, part: int | None, shape: tuple[int, ...]) -> list[list[str]]:
    return [
        [_words(sweep, (row, column) if part is None else (row, part, column))
         for column in range(shape[1])]
        for row in range(shape[0])
    ]  # fmt: skip


def _words(sweep: Sweep, place: tuple[int, ...]) -> str:
    kind = "measured" if sweep.measured[place] else "estimated"
    return (
        f"<b>{_where(sweep, place, markup=True)}</b><br>effect {sweep.effect[place]:+.3f}, {kind}"
        f"<br>{METRICS[sweep.metric].label}: {value_text(sweep.metric, float(sweep.raw[place]))}"
    )


def place_name(sweep: Sweep, place: tuple[int, ...]) -> str:
    """A cell in words: "after layer 11, position 5 ' Mary'"."""
    return _where(sweep, place, markup=False)


def _where(sweep: Sweep, place: tuple[int, ...], *, markup: bool) -> str:
    words = []
    for name, index in zip(sweep.names, place, strict=True):
        if name == "part":
            words.append(_NAMES[PARTS[index]])
        elif name == "position":
            token = sweep.patched[index]
            shown = token_markup(token, 14) if markup else quoted(token, 14)
            words.append(f"position {index} {shown}")
        else:
            words.append(row_name(index) if name == "row" else f"{name} {index}")
    return ", ".join(words)


def value_text(metric: str, value: float) -> str:
    """A metric's value as text."""
    if metric == "probability":
        return percent(value)
    return f"{value + 1:.0f}" if metric == "rank" else f"{value:.3f}"


def strongest(sweep: Sweep) -> list[tuple[int, ...]]:
    """The cells with the largest effects, the largest first."""
    size = np.nan_to_num(np.abs(sweep.effect), nan=-1.0).reshape(-1)
    order = np.argsort(-size, kind="stable")[:LISTED]
    return [
        tuple(int(index) for index in np.unravel_index(number, sweep.effect.shape))
        for number in order
        if size[number] >= SMALLEST
    ]


def caption(sweep: Sweep, model: str) -> str:
    """What is shown, the two baselines, and how much of it is measured."""
    cells = int((~np.isnan(sweep.effect)).sum())
    done = int(sweep.measured.sum())
    clean, corrupted = (
        value_text(sweep.metric, value) for value in (sweep.clean_value, sweep.corrupted_value)
    )
    kind = (
        "All cells are measured."
        if done == cells
        else "All cells are estimated."
        if not done
        else f"{done} of {cells} cells are measured; paler cells are estimated."
    )
    ends = "beyond ±1" if cells and float(np.nanmax(np.abs(sweep.effect))) > 1 else ""
    more = f" Values {ends} have the colour of ±1." if ends else ""
    where = f" Heads of layer {sweep.layer}." if sweep.axes == "head_position" else ""
    return f"{_metric(sweep)} on {model}: {clean} clean, {corrupted} corrupted.{where} {kind}{more}"


def _metric(sweep: Sweep) -> str:
    answer, foil = quoted(sweep.answer), quoted(sweep.foil)
    return {
        "logit_difference": f"Logit of {answer} minus {foil}",
        "probability": f"Probability of {answer}",
        "kl": "KL divergence from the clean output, in nats",
        "rank": f"Rank of {answer} (1 is best)",
    }[sweep.metric]


def _column_title(sweep: Sweep) -> str:
    return "" if sweep.names[-1] == "position" else sweep.names[-1]


def _columns(sweep: Sweep) -> dict[str, Any]:
    """Ticks of the horizontal axis: heads by number, positions by token."""
    count = sweep.raw.shape[-1]
    named: dict[str, Any] = {"tickmode": "array", "range": [-0.5, count - 0.5]}
    if sweep.names[-1] != "position":
        return {**named, "tickvals": list(range(count)), "ticktext": list(map(str, range(count)))}
    step = max(1, count // 40)
    places = list(range(0, count, step))
    texts = [_token_text(sweep, place) for place in places]
    return {**named, "tickvals": places, "ticktext": texts, "tickangle": -60}


def _token_text(sweep: Sweep, place: int) -> str:
    """The patched run's token, and the other run's if it differs."""
    own, partner = sweep.patched[place], int(sweep.partners[place])
    other = sweep.clean if sweep.direction == "denoise" else sweep.corrupted
    text = token_markup(own, 10)
    if partner < 0:
        return f"{text} (no partner)"
    return text if other[partner].id == own.id else f"{text} ← {token_markup(other[partner], 10)}"


def difference_figure(
    found: PromptComparison, shown: str, theme: Theme, names: tuple[str, str] = PROMPTS
) -> Figure:
    """The difference of two runs, or one of them, [row, aligned token].

    Args:
        found: The comparison; A is the clean prompt.
        shown: One of ``analysis.experiments.specs.DIFFERENCES``.
        theme: The page's theme.
        names: Of the two runs.
    """
    values, low, high = _difference(found, shown)
    columns = columns_of(found)
    values = _spread(values, columns)
    signed, rows, count = shown == "probability", len(found.kl), len(columns)
    stops = palette(theme).signed if signed else palette(theme).magnitude
    token = quoted(found.token(found.followed[0]), 12)
    title = {"probability": f"change of p({token})", "kl": "KL, nats"}.get(shown, f"p({token})")
    heat = {
        "type": "heatmap",
        "z": values,
        "x": list(range(count)),
        "y": list(range(rows)),
        "zmin": low,
        "zmax": high,
        "colorscale": scale(stops),
        "colorbar": colour_bar(theme, title),
        "xgap": 1,
        "ygap": 1,
        "hoverongaps": False,
        "hovertext": [
            [_pair_words(found, row, one.pair, names) if one.pair >= 0 else "" for one in columns]
            for row in range(rows)
        ],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }
    return {
        "data": [heat],
        "layout": base_layout(
            theme,
            meta={"view": "difference"},
            margin={**MARGIN, "b": 84},
            xaxis=axis(theme, **_pair_ticks(found, columns)),
            yaxis=down_axis("row", rows, theme),
        ),
    }


def _difference(found: PromptComparison, shown: str) -> tuple[Any, float, float]:
    """[row, pair] values, and the ends of their scale."""
    if shown == "probability":
        change = found.b_probs[..., 0] - found.a_probs[..., 0]
        return change.astype(np.float32), -1.0, 1.0
    if shown != "kl":
        return (found.a_probs if shown == "clean" else found.b_probs)[..., 0], 0.0, 1.0
    return found.kl, 0.0, max(float(found.kl.max()), 1e-6)


class Column(NamedTuple):
    """A column of the difference.

    Attributes:
        a, b: The positions in the two prompts; -1 where a prompt has no token.
        pair: The index of the pair in the comparison; -1 for a token without a partner.
    """

    a: int
    b: int
    pair: int


def columns_of(found: PromptComparison) -> list[Column]:
    """All tokens of both prompts, in the order of prompt A; those without a partner are alone."""
    partner = {i: (j, pair) for pair, (i, j) in enumerate(found.pairs.tolist())}
    taken = {j for j, _ in partner.values()}
    waiting = [j for j in range(len(found.b)) if j not in taken]
    columns = []
    for i in range(len(found.a)):
        j, pair = partner.get(i, (-1, -1))
        while waiting and waiting[0] < j:
            columns.append(Column(-1, waiting.pop(0), -1))
        columns.append(Column(i, j, pair))
    return columns + [Column(-1, j, -1) for j in waiting]


def _spread(values: Any, columns: list[Column]) -> Any:
    """[row, column] values from [row, pair]; NaN for a token without a partner."""
    spread = np.full((len(values), len(columns)), np.nan, np.float32)
    for place, column in enumerate(columns):
        if column.pair >= 0:
            spread[:, place] = values[:, column.pair]
    return spread


def _pair_ticks(found: PromptComparison, columns: list[Column]) -> dict[str, Any]:
    count = len(columns)
    places = list(range(0, count, max(1, count // 40)))
    texts = []
    for place in places:
        i, j, pair = columns[place]
        sides = (found.a[i] if i >= 0 else None, found.b[j] if j >= 0 else None)
        names = [token_markup(token, 10) if token else "–" for token in sides]
        same = pair >= 0 and found.a[i].id == found.b[j].id
        texts.append(names[0] if same else " | ".join(names))
    return {
        "tickmode": "array", "tickvals": places, "ticktext": texts, "tickangle": -60,
        "range": [-0.5, count - 0.5],
    }  # fmt: skip


def _pair_words(found: PromptComparison, row: int, pair: int, names: tuple[str, str]) -> str:
    i, j = found.pairs[pair].tolist()
    lines = [f"<b>{row_name(row)}, position {i} {token_markup(found.a[i], 14)} and {j}</b>"]
    for name, top, probs in (
        (names[0], found.a_top, found.a_probs), (names[1], found.b_top, found.b_probs),
    ):  # fmt: skip
        best = token_markup(found.token(int(top[row, pair])), 14)
        parts = ", ".join(
            f"{token_markup(found.token(one), 12)} {percent(float(probs[row, pair, n]))}"
            for n, one in enumerate(found.followed)
        )
        lines.append(f"{name}: {best} first; {parts}")
    lines.append(f"KL {found.kl[row, pair]:.3f} nats")
    return "<br>".join(lines)


def difference_caption(
    found: PromptComparison, shown: str, names: tuple[str, str] = PROMPTS
) -> str:
    """What is shown, how many tokens are aligned, and where the difference is largest."""
    values = np.abs(_difference(found, shown)[0])
    row, pair = np.unravel_index(int(values.argmax()), values.shape)
    i, j = found.pairs[int(pair)].tolist()
    left = len(found.a) + len(found.b) - 2 * len(found.pairs)
    followed = f"Probability of {quoted(found.token(found.followed[0]))}"
    one, other = names
    alone = names[shown == "corrupted"]
    name = {
        "kl": f"KL({one} ‖ {other}) in nats",
        "probability": f"{followed}, {other} minus {one}",
    }.get(shown, f"{followed} in {f'model {alone}' if names == MODELS else f'the {alone} run'}")
    gone = f" {left} tokens have no partner." if left else ""
    return (
        f"{name}, by the logit lens. {len(found.pairs)} tokens are aligned.{gone} Largest"
        f" {at_row(int(row))}, positions {i} and {j}: {float(values[row, pair]):.3f}."
    )
