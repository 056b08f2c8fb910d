"""The picture of each kind of result, made by the functions that draw the page.

Arguments after the star are options of ``Result.plot``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from analysis.contract.specs import Token
from analysis.errors import SpecError
from analysis.experiments.component_specs import ComponentGraph
from analysis.experiments.specs import PromptComparison, Sweep
from analysis.flow_graph.options import FLOW_METHODS
from analysis.flow_graph.results import CausalCheck, Graph
from analysis.inside_block.specs import AggregationReport
from analysis.lens.results import Colours, Disagreement, Grid
from analysis.reports.specs import EmbeddingReport, NormReport, SimilarityReport
from analysis.tasks.suite_effects import SuiteEffects
from analysis.tasks.suite_specs import FailureReport, SuiteReport
from analysis.tasks.sum_specs import (
    CarryCircuits,
    ContributionReport,
    PatchReport,
    ProbeReport,
    Projection,
)
from analysis.tracing.specs import PatternResult, RunResult
from analysis.trajectory.specs import Emergence, Steps
from analysis.weights.specs import WeightReport
from dash_app.figures.colours import cell_colours, effective
from dash_app.figures.heatmap import framed, heatmap, layered
from dash_app.page.theme import Figure, Theme
from dash_app.page.window import Window, laid_out
from dash_app.pictures.flow_svg import FlowPicture, Shown
from dash_app.views.attention.figure import attention
from dash_app.views.compare.figure import difference_figure, sweep_figure
from dash_app.views.components.figure import components_figure
from dash_app.views.curves.emergence_figure import strip
from dash_app.views.curves.figure import curves
from dash_app.views.disagreement.figure import disagreement
from dash_app.views.flow.effect_picture import effect_figure
from dash_app.views.flow.effect_selection import select_effects
from dash_app.views.flow.link_selection import USUAL, Rule
from dash_app.views.flow.picture import picture, scatter
from dash_app.views.flow.signed_picture import select_signed, signed_figure
from dash_app.views.model import figure as model_figures
from dash_app.views.tasks import failure_figures, suite_figures, sum_figures
from dash_app.views.weights import figure as weight_figures


class Words(NamedTuple):
    """The tokens of a run, as far as figures need it."""

    tokens: tuple[Token, ...]
    prompt_length: int
    vocabulary: tuple[Token, ...] = ()


def _words(tokens: Sequence[Token], count: int) -> RunResult:
    """The tokens of a run; positions in brackets where they are not given."""
    named = tuple(tokens[:count])
    named += tuple(Token(-1 - at, f"[{at}]", f"[{at}]") for at in range(len(named), count))
    return cast(RunResult, Words(named, count))


def _last(values: Any) -> int:
    return int(values.max()) + 1 if len(values) else 0


def _grid(
    grid: Grid,
    tokens: Sequence[Token],
    *,
    theme: Theme,
    colour: str = "probability",
    colours: Colours | None = None,
    part: str = "attention",
    by: str = "norm",
    row: int | None = None,
    pos: int | None = None,
) -> Figure:
    run = _words(tokens, max(len(tokens), _last(grid.positions)))
    window = _window(grid, layered(grid.component), len(run.tokens))
    cells = laid_out(grid, window)
    shades = cell_colours(
        effective(colour, grid.similarity), cells, colours, window, part=part, by=by,
        asked=grid.token(int(grid.target_ids[0])) if len(grid.target_ids) else None,
    )  # fmt: skip
    return heatmap(cells, run, shades, window, **_chosen(window, row, pos), theme=theme)


def _colours(
    found: Colours,
    tokens: Sequence[Token],
    *,
    theme: Theme,
    colour: str = "cross_entropy",
    part: str = "attention",
    by: str = "norm",
) -> Figure:
    run = _words(tokens, max(len(tokens), _last(found.positions)))
    window = _window(found, False, len(run.tokens))
    shades = cell_colours(colour, cast(Grid, None), found, window, part=part, by=by)
    words = shades.words or (lambda value: f"{value:.4g}")
    hover = [
        ["no value" if np.isnan(value) else words(value) for value in row]
        for row in np.asarray(shades.values, float)
    ]
    return framed(
        shades, hover, {"labels": []}, run, window, **_chosen(window, None, None), theme=theme
    )


def _disagreement(
    found: Disagreement, tokens: Sequence[Token], *, theme: Theme, differ: str = "jsd"
) -> Figure:
    run = _words(tokens, max(len(tokens), _last(found.positions)))
    window = _window(found, False, len(run.tokens))
    chosen = _chosen(window, None, None)
    return disagreement(found, run, window, differ=differ, **chosen, theme=theme)


def _window(found: Any, of_layers: bool, size: int) -> Window:
    offset = 1 if of_layers else 0
    rows = tuple(int(row) + offset for row in found.rows)
    first = (offset, *rows)
    return Window(rows, tuple(int(pos) for pos in found.positions), first, size)


def _chosen(window: Window, row: int | None, pos: int | None) -> dict[str, Any]:
    """The cell with the outline: the top right one unless chosen."""
    last_row, last_pos = max(window.rows, default=0), max(window.positions, default=0)
    return {"row": last_row if row is None else row, "pos": last_pos if pos is None else pos}


def _attention(
    pattern: PatternResult,
    tokens: Sequence[Token],
    *,
    theme: Theme,
    heads: Sequence[int] = (),
    pos: int = -1,
    scaling: Any = "linear",
    first_key: bool = True,
) -> Figure:
    size = pattern.pattern.shape[-1]
    return attention(
        pattern, _words(tokens, size), heads=tuple(heads), pos=pos % size, theme=theme,
        scaling=scaling, first_key=first_key,
    )  # fmt: skip


def _flow(
    graph: Graph,
    tokens: Sequence[Token],
    *,
    theme: Shown,
    grid: Grid | None = None,
    rule: Rule = USUAL,
    size: tuple[float, float] | None = None,
) -> Figure | FlowPicture:
    run = _words(tokens, max(len(tokens), _last(graph.node_pos)))
    page: Theme = "dark" if theme == "dark" else "light"
    if graph.method == "effect":
        return effect_figure(graph, select_effects(graph, rule), run, theme=page)
    if FLOW_METHODS[graph.method].signed:
        return signed_figure(graph, select_signed(graph, rule), run, theme=page)
    return FlowPicture(picture(graph, run, grid, rule=rule), theme, size)


def _check(found: CausalCheck, tokens: Sequence[Token], *, theme: Theme) -> Figure:
    count = int(max(found.source_pos.max(), found.target_pos.max(), 0)) + 1
    return scatter(found, _words(tokens, max(len(tokens), count)), theme=theme)


def _emergence(found: Emergence, tokens: Sequence[Token], *, theme: Theme, pos: int = -1) -> Figure:
    size = len(found.first_top1)
    places = tuple(range(size))
    return strip(found, _words(tokens, size), places, pos=pos % max(size, 1), theme=theme)


def _steps(
    steps: Steps, _tokens: Sequence[Token], *, theme: Theme, quantity: str = "probability"
) -> Figure:
    return curves(steps, quantity=quantity, theme=theme)


def _compared(
    found: PromptComparison, _tokens: Sequence[Token], *, theme: Theme, shown: str = "kl"
) -> Figure:
    return difference_figure(found, shown, theme)


def _components(
    found: ComponentGraph, _tokens: Sequence[Token], *, theme: Theme, edges: int = 30
) -> Figure:
    return components_figure(found, edges, theme)


def _norms(report: NormReport, _tokens: Sequence[Token], *, theme: Theme) -> Figure:
    if report.final is None:
        raise SpecError("This model has no final norm.", "Take its numbers with to_dataframe().")
    return model_figures.scales(report, theme)


def _heads(
    report: WeightReport,
    _tokens: Sequence[Token],
    *,
    theme: Theme,
    head: tuple[int, int] = (0, 0),
) -> Figure:
    return weight_figures.kinds(report, theme, head)


def _partners(
    report: WeightReport,
    _tokens: Sequence[Token],
    *,
    theme: Theme,
    head: tuple[int, int] = (0, 0),
) -> Figure:
    return weight_figures.partners(report, theme, head)


def _of_theme(draw: Callable[[Any, Theme], Figure]) -> Callable[..., Any]:
    """A picture that needs neither tokens nor options."""

    def drawn(result: Any, _tokens: Sequence[Token], *, theme: Theme) -> Figure:
        return draw(result, theme)

    return drawn


def _unlinked(*_place: Any) -> str:
    """Points of a figure outside the page lead nowhere."""
    return ""


def _sums(draw: Callable[..., Figure], **more: Any) -> Callable[..., Any]:
    return _of_theme(lambda report, theme: draw(report, link=_unlinked, theme=theme, **more))


def _probes(
    report: ProbeReport, _tokens: Sequence[Token], *, theme: Theme, target: int = 0,
    control: bool = False,
) -> Figure:  # fmt: skip
    return sum_figures.probes(report, target, _unlinked, control=control, theme=theme)


def _suite(draw: Callable[..., Figure], part: Callable[[SuiteReport], Any]) -> Callable[..., Any]:
    return _of_theme(lambda report, theme: draw(part(report), theme=theme))


def _pair(draw: Callable[..., Figure]) -> Callable[..., Any]:
    def drawn(
        report: FailureReport, _tokens: Sequence[Token], *, theme: Theme, pair: int = 0
    ) -> Figure:
        return draw(report.pairs[pair], _unlinked, theme=theme)

    return drawn


Draw = Callable[..., Any]
#: The pictures of each kind of result, the main one first. All others are tables.
PICTURES: Mapping[type[Any], Mapping[str, Draw]] = {
    Grid: {"heatmap": _grid},
    Colours: {"heatmap": _colours},
    Disagreement: {"heatmap": _disagreement},
    PatternResult: {"pattern": _attention},
    Graph: {"flow": _flow},
    CausalCheck: {"cuts": _check},
    Emergence: {"strip": _emergence},
    Steps: {"curves": _steps},
    Sweep: {"sweep": _of_theme(sweep_figure)},
    PromptComparison: {"difference": _compared},
    ComponentGraph: {"components": _components},
    EmbeddingReport: {"cosines": _of_theme(model_figures.cosines)},
    NormReport: {"final": _norms, "norms": _of_theme(model_figures.norms)},
    SimilarityReport: {"similarity": _of_theme(model_figures.similarity)},
    WeightReport: {
        "kinds": _heads, "partners": _partners, "norms": _of_theme(weight_figures.norms),
        "composition": _of_theme(weight_figures.composition),
    },
    AggregationReport: {"shares": _of_theme(weight_figures.aggregation)},
    CarryCircuits: {
        "heads": _of_theme(lambda report, theme: sum_figures.carry_heads(report, theme=theme)),
        "outputs": _of_theme(lambda report, theme: sum_figures.carry_steps(
            report, int(report.order[0]), theme=theme
        )),
    },
    SuiteReport: {
        "emergence": _suite(suite_figures.emergence, lambda report: report.emergence),
        "digits": _suite(suite_figures.by_digit, lambda report: report.emergence),
    },
    SuiteEffects: {
        "effects": _of_theme(lambda report, theme: suite_figures.effects(report, theme=theme)),
        "agreement": _of_theme(lambda report, theme: suite_figures.agreement(report, theme=theme)),
    },
    ContributionReport: {"contributions": _sums(sum_figures.contributions)},
    ProbeReport: {"probes": _probes},
    PatchReport: {"patches": _sums(sum_figures.patches, control=False)},
    Projection: {"projection": _of_theme(
        lambda report, theme: sum_figures.projection(report, colour="carry", theme=theme)
    )},
    FailureReport: {"states": _pair(failure_figures.states), "parts": _pair(failure_figures.parts),
                    "probabilities": _pair(failure_figures.probabilities)},
}  # fmt: skip
