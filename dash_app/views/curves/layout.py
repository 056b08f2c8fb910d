"""The panel of curves: pinned tokens, their values over the rows, and when each token emerges."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from dash import dcc
from dash.development.base_component import Component

from analysis.contract.specs import PART_NAMES, Token
from analysis.tracing.specs import RunResult
from analysis.trajectory.specs import LargestStep, Steps
from dash_app.jobs.job_and_draw import progress_bar, start_button, stop_button
from dash_app.page.panel import aria, control, graph, options_of, select_button, switch, target
from dash_app.page.panes import Pane
from dash_app.page.thin_layout import html
from dash_app.page.token_labels import at_row, label, percent
from dash_app.state.context import Context
from dash_app.state.options import CURVES
from dash_app.state.selection import Selection, toggle


class CurvesId(StrEnum):
    """Ids of this view's components."""

    GRAPH = "curves-graph"
    QUANTITY = "curves-quantity"
    FACTS = "curves-facts"
    PINS = "curves-pins"
    SUBTITLE = "curves-subtitle"
    STRIP = "emergence-graph"
    STRIP_LINE = "emergence-line"
    COMMIT = "emergence-commit"
    STOP = "emergence-stop"
    PROGRESS = "emergence-progress"
    LAST = "emergence-last"


#: The probability that a token must keep to have emerged (``StepsSpec.tau``).
TAU = 0.5
HELP = (
    "The logit lens (output decoder, full norm) at the chosen position, layer by layer. For"
    " each pinned token: its probability p, ln p, or its rank among all tokens (1 is best; ties"
    " count in its favour). For each state: its entropy −Σ p ln p, or KL(final ‖ state) = Σ q"
    " ln(q / p), both in nats.",
    "Four measures of emergence. “First”: the first layer after which the token ranks first."
    " “Emerges”: the first layer from which its probability stays at 0.5 or more. “Stays”: the"
    " first layer from which it ranks first to the end (saturation; Geva et al., 2022)."
    " “Commits”: the first layer such that attention can be set to zero at this position after"
    " that layer, or any later one, without changing the choice. “First” and “emerges” can be"
    " “never”; for a token that is not the model's choice all four can. Dashed lines mark the"
    " layers of the first pinned token.",
    "A diamond marks a token's largest step: the block where p rises most, and whether"
    " attention or the MLP caused more of the rise of ln p there (in parallel blocks, the mean"
    " over both orders; Shapley, 1953). Heads are ordered by their direct contribution to the"
    " token's logit.",
    "Pin a token in the list of the chosen cell, by a double click in the heatmap, or in the"
    " alternatives under an answer token. Click a curve to choose the layer.",
)


def layout(context: Context) -> dict[str, Any]:
    """The curves of the pinned tokens, and the strip of all positions."""
    quantity = html.Div(quantities(context.base()), id=CurvesId.QUANTITY, className="segmented")
    body = [
        html.Div(id=CurvesId.PINS, className="pin-list", role="group", **aria(label="Pins")),
        graph(CurvesId.GRAPH, "Curves over the layers"),
        html.Div(id=CurvesId.FACTS, className="steps-table", tabIndex="0", **aria(label="Steps")),
    ]
    curves = Pane(
        "curves",
        "Curves",
        "How the answer emerges",
        body,
        HELP,
        caption="Pinned tokens at the chosen position, over the layers.",
        caption_id=CurvesId.SUBTITLE,
        options={"Shown": control("Curves", quantity)},
    )
    return {curves.name: curves, "emergence": _all_positions()}


def quantities(selection: Selection) -> list[Component]:
    """The switch of what the curves show."""
    return switch("curve", options_of(CURVES), selection.curve, "Curves")


def _all_positions() -> Pane:
    body = [
        dcc.Store(id=CurvesId.LAST),
        html.Div(start_button("Measure commits", CurvesId.COMMIT), className="controls"),
        progress_bar(CurvesId.PROGRESS, stop_button(CurvesId.STOP)),
        graph(CurvesId.STRIP, "When each position's token emerges, by four measures"),
    ]
    return Pane(
        "emergence",
        "Emergence",
        "When the token of every position emerges",
        body,
        HELP,
        caption_id=CurvesId.STRIP_LINE,
    )


def pin_list(tokens: tuple[Token, ...], colours: tuple[str, ...]) -> list[Component]:
    """Pinned tokens, each with a button that unpins it."""
    pins = tuple(token.id for token in tokens)
    return [
        html.Span(
            [
                _swatch(colours, index),
                html.Span(label(token), className="mono"),
                select_button(
                    "×",
                    toggle("pins", token.id, pins),
                    "pin-remove",
                    label=f"Unpin {label(token)}",
                ),
            ],
            className="pin",
        )
        for index, token in enumerate(tokens)
    ]


def _swatch(colours: tuple[str, ...], index: int) -> Component:
    return html.Span(className="pin-swatch", style={"background": colours[index % len(colours)]})


def steps_table(steps: Steps, run: RunResult, colours: tuple[str, ...]) -> Component:
    """For each token, when it emerges and which component caused its largest step."""
    heads = ("After layer", "first", "emerges", "stays", "Largest step")
    titles = ("", "Ranks first", f"p ≥ {percent(TAU)} to the end", "Ranks first to the end", "")
    head = [
        html.Th(text, scope="col", title=title) for text, title in zip(heads, titles, strict=True)
    ]
    body = [_token_row(steps, index, run, colours) for index in range(len(steps.tokens))]
    return html.Table(
        [html.Thead(html.Tr(head)), html.Tbody(body)],
        className="table ledger-table steps-of-tokens",
    )


def _token_row(steps: Steps, index: int, run: RunResult, colours: tuple[str, ...]) -> Component:
    rows = (steps.first_top1[index], steps.emergence[index], steps.saturation[index])
    name = html.Th(
        [_swatch(colours, index), " ", html.Span(label(steps.tokens[index], 14), className="mono")],
        scope="row",
    )
    cells = [html.Td(_row(row, steps.position), className="num") for row in rows]
    return html.Tr([name, *cells, html.Td(_step(steps.largest[index], steps.position, run))])


def _row(row: int | None, position: int) -> Component:
    if row is None:
        return html.Span("never", className="muted")
    to = target(row=row, pos=position, layer=max(row - 1, 0))
    text = "emb." if row == 0 else str(row - 1)
    return select_button(text, to, "story-phrase", label=f"Choose the state {at_row(row)}")


def _step(step: LargestStep, position: int, run: RunResult) -> Component:
    """The cause of a step: a button that selects it, its size, and the strongest heads."""
    attention = step.component == "attention"
    part = PART_NAMES[step.component]
    made = step.mlp if step.component == "mlp" else step.attention
    where: dict[str, object] = {"layer": step.layer, "row": step.layer + 1, "pos": position}
    if attention and step.heads.size:
        where["heads"] = (int(step.heads[0]),)
    size = f"{made:+.1f} of {step.step:+.1f} nats".replace("-", "−")
    button = select_button(
        f"layer {step.layer}, {part}",
        target(**where),
        "story-phrase",
        label=f"Choose layer {step.layer}, {part}",
    )
    return html.Span([button, f" ({size})", *_heads(step, run)])


def _heads(step: LargestStep, run: RunResult) -> list[str]:
    """The two heads that contribute most, if attention caused the step."""
    if step.component != "attention" or not step.heads.size:
        return []
    heads = [
        f"head {head} {logit:+.1f} reading {label(run.tokens[source], 10)}".replace("-", "−")
        for head, logit, source in zip(
            step.heads[:2].tolist(),
            step.head_logits[:2].tolist(),
            step.head_sources[:2].tolist(),
            strict=True,
        )
    ]
    return [f": {'; '.join(heads)} (logits)"]
