"""Reports on a model's embeddings, norms and similarities."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import Any

from dash import Dash, Input, Output, dcc
from dash.development.base_component import Component

from analysis.reports.specs import (
    EmbeddingReport,
    EmbeddingSpec,
    NormReport,
    NormSpec,
    NormSummary,
    SimilarityReport,
    SimilaritySpec,
)
from dash_app.errors import explain
from dash_app.jobs.job_and_draw import (
    JobParts,
    Work,
    part_of,
    progress_bar,
    register_job,
    run_safely,
    start_button,
    stop_button,
    stored_problem,
)
from dash_app.page.panel import GRAPH_CONFIG, aria, problem_notice
from dash_app.page.panes import Pane
from dash_app.page.theme import Figure, Theme
from dash_app.page.thin_layout import html
from dash_app.page.token_labels import percent
from dash_app.state.context import Context, Drawing, JobStart, NewJob, Service, View, trace_of
from dash_app.state.exports import Export
from dash_app.state.selection import RunRef, Selection
from dash_app.views.model.figure import cosines, legend, norms, scales, similarity


class ModelId(StrEnum):
    """Ids of this view's components."""

    REPORTS = "model-reports"
    START = "model-start"
    STOP = "model-stop"
    PROGRESS = "model-progress"
    LAST = "model-last"


EMBEDDINGS, NORMS = EmbeddingSpec(), NormSpec()
#: States without a norm, which would move nearly all of them onto one sphere.
SIMILARITY = SimilaritySpec(norm="none")

HELP = (
    "Embeddings: the cosine between each token's row of the input matrix E and its row of the"
    " output matrix U, and how often a token's own row is the nearest row of the other matrix. If"
    " the matrices differ, the meaning of a state changes with depth, and the choice of the decoder"
    " matters (Press and Wolf, 2017, on tying).",
    "Norms: the parameters of the final norm for each channel, and minimum, quartiles and maximum"
    " of every other norm. RMSNorm: x / √(mean x² + ε) · scale (Zhang and Sennrich, 2019)."
    " LayerNorm subtracts the mean and adds a bias (Ba et al., 2016). If a model stores scale − 1"
    " (Gemma), the effective scale is shown.",
    "Similarities: how many of the best tokens cosine and Euclidean distance share, for states of"
    " this run. |u − h|² = |u|² − 2 u·h + |h|²: far inside the unit ball the length of the rows"
    " decides, far outside it their direction.",
)


def layout(_context: Context) -> dict[str, Any]:
    """A button, and the reports after they are measured."""
    pane = Pane(
        "model",
        "Embeddings and norms",
        "This model's embeddings and norms",
        [
            dcc.Store(id=ModelId.LAST),
            html.Div(
                [
                    start_button("Measure", ModelId.START),
                    html.Span(
                        "Are the input and output embeddings the same? What do the norms do? Do"
                        " cosine and distance agree?",
                        className="control-help",
                    ),
                ],
                className="controls",
            ),
            progress_bar(ModelId.PROGRESS, stop_button(ModelId.STOP)),
            html.Div(id=ModelId.REPORTS, className="model-reports"),
        ],
        HELP,
        caption="Properties of the weights, and of their similarity to states of this run.",
    )
    return {pane.name: pane}


def specs(_service: Service, _run: RunRef, _selection: Selection) -> list[Any]:
    """The requests of the three reports."""
    return [EMBEDDINGS, NORMS, SIMILARITY]


def measure(
    service: Service, run: RunRef, job: NewJob, *, hand_over: Callable[[dict[str, Any]], None]
) -> dict[str, Any] | None:
    """Compute all three reports, and hand over each as it is done."""

    def work() -> int:
        service.ask(run.model, EMBEDDINGS, job(0.0, 0.6))
        hand_over({"done": 1})
        service.ask(run.model, NORMS, job(0.6, 0.7))
        hand_over({"done": 2})
        service.ask(trace_of(run), SIMILARITY, job(0.7, 1.0))
        return 3

    return run_safely(work)


def draw(
    service: Service,
    run: RunRef,
    _selection: Selection,
    theme: Any,
    ready: dict[str, Any] | None,
) -> tuple[list[Component], bool]:
    """The reports that are measured, and whether that is all of them."""
    try:
        found: tuple[tuple[Any, Callable[[Any, Any], Component]], ...] = (
            (service.peek(run.model, EMBEDDINGS), embedding_report),
            (service.peek(run.model, NORMS), norm_report),
            (service.peek(trace_of(run), SIMILARITY), similarity_report),
        )
        reports = [draw_report(one, theme) for one, draw_report in found if one is not None]
        problem = stored_problem(ready)
        errors = [problem_notice(problem)] if problem else []
        return [*reports, *errors], len(reports) == len(found)
    except Exception as error:  # noqa: BLE001 - shown in place of the reports
        return [problem_notice(explain(error))], False


def embedding_report(report: EmbeddingReport, theme: Theme) -> Component:
    """A sentence, the distribution of cosines, and the numbers."""
    quantile = dict(zip(report.quantile_levels.tolist(), range(99), strict=False))
    middle = min(quantile, key=lambda level: abs(level - 0.5))
    at = quantile[middle]
    whole = "all" if report.exact else f"{report.sampled:,} sampled"
    facts = [
        ("Tokens, width", f"{report.tokens:,} × {report.d_model:,}"),
        ("Own output row is nearest to the input row", percent(float(report.self_nearest[0]))),
        ("Own input row is nearest to the output row", percent(float(report.self_nearest[1]))),
        ("Median rank of the own row", f"{report.self_rank_quantiles[0, at] + 1:,.0f} ({whole})"),
        ("Mean norm of input, output rows",
         f"{report.input_norm_mean:.3g}, {report.output_norm_mean:.3g}"),
    ]  # fmt: skip
    if report.zero_rows:
        facts.append(("Rows of zeros, left out", f"{report.zero_rows:,}"))
    if report.embedding_scale != 1.0:
        facts.append(("Input rows are multiplied by", f"{report.embedding_scale:.4g}"))
    return _report(
        "Embeddings",
        report.sentence,
        [(cosines(report, theme), "Distribution of cosines between input and output rows")],
        facts,
    )


def norm_report(report: NormReport, theme: Theme) -> Component:
    """The final norm by channel, the other norms by layer."""
    if report.final is None:
        return _report("Norms", "This model has no final norm.", [], [])
    figures = [(scales(report, theme), "Scale of every channel of the final norm")]
    if report.others:
        figures.append((norms(report, theme), "Scales of the other norms by layer"))
    facts = [
        ("Final norm", _norm_words(report.final)),
        ("Its scale", _five(report.final)),
        ("Other norms", f"{len(report.others)}"),
    ]
    low, high = report.final.scale[0], report.final.scale[4]
    text = (
        f"The final {report.final.kind} multiplies its channels by {low:.3g} to {high:.3g},"
        f" {'and adds a bias' if report.final_bias.any() else 'and adds nothing'}."
    )
    return _report("Norms", text, figures, facts)


def _norm_words(one: NormSummary) -> str:
    return f"{one.kind}, stores {one.stores}, ε = {one.eps:.1e}"


def _five(one: NormSummary) -> str:
    low, first, middle, third, high = one.scale.tolist()
    return f"{low:.3g} | {first:.3g} {middle:.3g} {third:.3g} | {high:.3g}"


def similarity_report(report: SimilarityReport, theme: Theme) -> Component:
    """The overlap of cosine and distance by the state's norm."""
    inside = int((report.state_norm < 1).sum())
    text = (
        f"{len(report.state_norm):,} states of this run ({report.cells_in_all:,} in all),"
        f" {inside:,} of them inside the unit ball. On average the {report.k} best tokens by cosine"
        f" and by distance share {percent(float(report.overlap_euclidean.mean()))}, those by cosine"
        f" and by dot product {percent(float(report.overlap_dot.mean()))}."
    )
    facts = [
        ("Normed by", report.norm),
        ("Mean rank correlation, cosine and distance", f"{report.rank_euclidean.mean():+.2f}"),
        ("Mean rank correlation, cosine and dot product", f"{report.rank_dot.mean():+.2f}"),
        ("Norms of the decoder's rows", " ".join(f"{value:.3g}" for value in report.row_norm)),
    ]
    picture = similarity(report, theme)
    return _report("Similarities", text, [(picture, "Overlap by the state's norm")], facts)


def _report(
    title: str,
    sentence: str,
    figures: list[tuple[Figure, str]],
    facts: list[tuple[str, str]],
) -> Component:
    return html.Section(
        [
            html.H3(title, className="report-title"),
            html.P(sentence, className="report-sentence"),
            *(_picture(figure, label) for figure, label in figures),
            html.Dl([_fact(name, value) for name, value in facts], className="fact-list"),
        ],
        className=f"report report-{title.lower()}",
        **aria(label=title),
    )


def _picture(figure: Figure, label: str) -> Component:
    key = [
        html.Span(
            [html.Span(className="legend-swatch", style={"background": colour}), name],
            className="legend-item",
        )
        for name, colour in legend(figure)
    ]
    return html.Div([_plot(figure, label), html.Div(key, className="legend") if key else None])


def _plot(figure: Figure, label: str) -> Component:
    return html.Div(
        dcc.Graph(figure=figure, config=GRAPH_CONFIG, responsive=True, style={
            "height": f"{figure['layout']['height']}px"
        }),
        className="figure",
        role="img",
        **aria(label=label),
    )  # fmt: skip


def _fact(name: str, value: str) -> Component:
    return html.Div([html.Dt(name), html.Dd(value, className="num")], className="fact")


DRAWING = Drawing(
    "model",
    (Output(ModelId.REPORTS, "children"), Output(ModelId.START, "disabled")),
    draw,
    theme=True,
    job=JobStart.ON_REQUEST,
)
JOB = JobParts(ModelId.LAST, ModelId.PROGRESS, ModelId.STOP)


def register(app: Dash, context: Context) -> None:
    """Measure on request."""

    def prepare(run: RunRef, selection: Selection, presses: Any) -> Work | None:
        if not presses:
            return None
        hand_over = part_of(DRAWING, run, selection)
        return partial(measure, context.service, run, hand_over=hand_over)

    presses = {"presses": Input(ModelId.START, "n_clicks")}
    register_job(app, context, DRAWING, JOB, prepare, presses, patient=True)


HINT = "Press 'Measure' in the view, then export it again."
VIEW = View(
    "model",
    layout,
    register,
    drawings=(DRAWING,),
    exports={"model": Export(specs, DRAWING.name, HINT)},
)
