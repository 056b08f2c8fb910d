"""A second model beside the first: its menu, and what both decode, each on its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dash.development.base_component import Component

from analysis.experiments.alignment import align_texts
from analysis.experiments.specs import mismatch
from analysis.lens.results import Grid
from analysis.lens.specs import LensSpec
from analysis.model import catalog
from analysis.tracing.specs import RunResult, RunSpec, TraceSpec
from dash_app.page.panel import Option, menu
from dash_app.page.theme import Figure, Theme, axis, base_layout, colour_bar, palette, scale
from dash_app.page.token_labels import markup, percent, quoted, row_name, token_markup
from dash_app.state.selection import Selection
from dash_app.views.compare.figure import MARGIN, down_axis

#: The pane that compares two models, and the other panes of its panel.
PANE, _BESIDE = "difference", ("components", "difference")
#: Shown in the pane Patching while there is a second model.
ONE_MODEL = (
    "Patching replaces states within one model. The pane Difference compares the two models; to"
    " patch, choose “Same model” as model B."
)
#: What the comparison of two models shows, by the name in ``DIFFERENCES``: title and help.
_SHOWN = {
    "kl": ("KL", "KL(A ‖ B) of the decoded outputs of models A and B, in nats."),
    "probability": ("Probability", "p_B(token) − p_A(token): the answer, or model A's top token."),
    "clean": ("Model A", "The same probability in model A alone."),
    "corrupted": ("Model B", "The same probability in model B alone."),
}
#: Positions that have a name on the horizontal axis of one of two heatmaps, at most.
_NAMED = 20


def second(selection: Selection) -> str:
    """The model that reads prompt B; empty if it is the same model."""
    return "" if selection.other == selection.model else selection.other


def menu_of_models(selection: Selection) -> Component:
    """The choice of model B. It opens the pane that compares the two models."""
    others = [
        Option(entry.name, entry.name, entry.title if entry.title != entry.name else "")
        for entry in catalog.entries()
        if entry.name != selection.model
    ]
    same = Option("", "Same model", "The model above reads both prompts.")
    kept = {pane for pane in selection.panes if pane not in _BESIDE}
    return menu(
        "other", "Model B", [same, *others], second(selection),
        also={"panes": tuple(sorted({*kept, PANE}))},
    )  # fmt: skip


def shown_options() -> list[Option]:
    """What the comparison of two models can show."""
    return [Option(name, *texts) for name, texts in _SHOWN.items()]


@dataclass(frozen=True, slots=True)
class Sides:
    """What two models read and decode, each on its own.

    Attributes:
        names: The names of the models.
        runs: Prompt A as model A reads it, and prompt B as model B does.
        grids: Their states under the logit lens.
        differ: Why the states can't be compared one by one; empty if they can.
    """

    names: tuple[str, str]
    runs: tuple[RunResult, RunResult]
    grids: tuple[Grid, Grid]
    differ: str


def read_sides(get: Callable[[Any, Any], Any], selection: Selection) -> Sides | None:
    """What the two models read and decode; None if ``get`` lacks a part of it.

    Args:
        get: Gives the result of a spec on a model or a forward pass, or None.
        selection: Has the prompts and the models.
    """
    names = (selection.model, second(selection))
    texts = {"a": selection.clean, "b": selection.corrupted or selection.clean}
    runs = {(one, field): get(one, RunSpec(one, text))
            for one in names for field, text in texts.items()}  # fmt: skip
    if any(run is None for run in runs.values()):
        return None
    a, b = runs[names[0], "a"], runs[names[1], "b"]
    grids = tuple(get(TraceSpec(one, run.token_ids), LensSpec())
                  for one, run in zip(names, (a, b), strict=True))  # fmt: skip
    if any(grid is None for grid in grids):
        return None
    read = {field: [runs[one, field].token_ids for one in names] for field in texts}
    sizes = [(run.info.layers, run.info.vocab) for run in (a, b)]
    differ = mismatch(names, [size[0] for size in sizes], [size[1] for size in sizes], read)
    return Sides(names, (a, b), (grids[0], grids[1]), differ)


def sides_figure(sides: Sides, theme: Theme) -> Figure:
    """A heatmap of each model's states, side by side: the probability of the top token."""
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = {}
    for side, domain in enumerate(([0.0, 0.43], [0.57, 1.0])):
        key, rows = "2" if side else "", len(sides.grids[side].rows)
        name = f"{'AB'[side]}: {markup(sides.names[side])}"
        data.append(_heat(sides, side, key, theme))
        layout[f"xaxis{key}"] = axis(
            theme, name, domain=domain, anchor=f"y{key}", **_ticks(sides.runs[side])
        )
        layout[f"yaxis{key}"] = {**down_axis("row", rows, theme), "anchor": f"x{key}"}
    meta = {"view": PANE}
    return {
        "data": data,
        "layout": base_layout(theme, meta=meta, margin={**MARGIN, "b": 84}, **layout),
    }


def _heat(sides: Sides, side: int, key: str, theme: Theme) -> dict[str, Any]:
    grid = sides.grids[side]
    rows, count = grid.probs.shape[:2]
    partners = _partners(sides, side)
    return {
        "type": "heatmap",
        "z": grid.probs[..., 0],
        "x": list(range(count)),
        "y": list(range(rows)),
        "xaxis": f"x{key}",
        "yaxis": f"y{key}",
        "zmin": 0.0,
        "zmax": 1.0,
        "colorscale": scale(palette(theme).magnitude),
        "colorbar": colour_bar(theme, "p(top token)"),
        "showscale": side == 1,
        "xgap": 1,
        "ygap": 1,
        "hovertext": [
            [_words(sides, side, row, place, partners.get(place)) for place in range(count)]
            for row in range(rows)
        ],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }


def _pairs(sides: Sides) -> tuple[tuple[int, int], ...]:
    """Positions of the two models that have read the same text."""
    a, b = ([token.text for token in run.tokens] for run in sides.runs)
    return align_texts(a, b)


def _partners(sides: Sides, side: int) -> dict[int, int]:
    return {pair[side]: pair[1 - side] for pair in _pairs(sides)}


def _words(sides: Sides, side: int, row: int, place: int, partner: int | None) -> str:
    grid, run = sides.grids[side], sides.runs[side]
    tokens = {token.id: token for token in grid.vocabulary}
    lines = [f"<b>{row_name(row)}, position {place} {token_markup(run.tokens[place], 14)}</b>"]
    lines += [
        f"{token_markup(tokens[int(number)], 14)} {percent(float(prob))}"
        for number, prob in zip(grid.token_ids[row, place], grid.probs[row, place], strict=True)
        if number >= 0
    ]
    other = "BA"[side]
    read = "no position ends" if partner is None else f"position {partner} ends"
    return "<br>".join([*lines, f"in model {other}, {read} at the same character"])


def _ticks(run: RunResult) -> dict[str, Any]:
    count = len(run.tokens)
    places = list(range(0, count, -(-count // _NAMED)))
    texts = [token_markup(run.tokens[place], 10) for place in places]
    return {
        "tickmode": "array", "tickvals": places, "ticktext": texts, "tickangle": -60,
        "range": [-0.5, count - 0.5],
    }  # fmt: skip


def sides_caption(sides: Sides) -> str:
    """Why the models stand side by side, what is shown, and what each predicts at the end."""
    ends = []
    for name, grid in zip("AB", sides.grids, strict=True):
        best = next(one for one in grid.vocabulary if one.id == int(grid.token_ids[-1, -1, 0]))
        ends.append(f"{name} predicts {quoted(best)} ({percent(float(grid.probs[-1, -1, 0]))})")
    sizes = " and ".join(str(len(run.tokens)) for run in sides.runs)
    paired = len(_pairs(sides))
    return (
        f"{sides.differ} So each model is decoded on its own, by the logit lens; the colour is the"
        f" probability of its top token. {paired} positions (of {sizes}) end at the same"
        f" character. After the prompt, {' and '.join(ends)}."
    )
