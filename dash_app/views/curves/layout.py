"""The curves' panel: what is pinned, how it moves over the rows, and when each token emerges."""

from __future__ import annotations

from enum import StrEnum

from dash import dcc, html
from dash.development.base_component import Component

from analysis.contract.results import Token
from analysis.tracing.specs import RunResult
from analysis.trajectory.specs import LargestStep, Steps
from dash_app.jobs.progress import progress, small_button, stop_button
from dash_app.page.controls import aria, go, options_of, switch, target
from dash_app.page.panel import graph, panel
from dash_app.page.token_labels import label, percent
from dash_app.state.context import Context
from dash_app.state.options import CURVES
from dash_app.state.selection import toggle


class CurvesId(StrEnum):
    """What callbacks of this view name."""

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
    READY = "emergence-ready"
    LAST = "emergence-last"


#: The probability that "emerges" asks for (``StepsSpec.tau``).
TAU = 0.5
HELP = (
    "The logit lens (output decoder, full norm) of the chosen position, row by row. For each"
    " pinned token: its probability p, ln p, or its rank among all tokens (1 is best; ties count"
    " in its favour). Of each row: its entropy −Σ p ln p, or KL(final ‖ row) = Σ q ln(q / p), both"
    " in nats.",
    "Emergence, four questions: “first” is the first row where the token ranks first, “emerges”"
    " the first row from which its probability stays at 0.5 or more, “stays” the first row from"
    " which it ranks first to the end (saturation; Geva et al., 2022), “commits” the first row r"
    " such that, for it and every later row, attention can be set to zero from there on at this"
    " position and the choice is kept. The first two may be “never”, and for a token that is not"
    " the model's choice all of them. Dashed lines mark those of the first pinned token.",
    "A diamond marks a token's largest step: the block at which p rises most, and whether its"
    " attention or its MLP made more of the rise of ln p there (where blocks are parallel, the"
    " mean over both orders; Shapley, 1953). Heads are ordered by what they add to the token's"
    " logit directly.",
    "Pin tokens in the list of the chosen cell, by a double click in the heatmap, or with the"
    " alternatives under an answer token. A click chooses the row.",
)


def layout(context: Context) -> Component:
    """Pins, switch, curves, table, and the strip of all positions."""
    quantity = html.Div(
        switch("curve", options_of(CURVES), context.base().curve, "Curves"),
        id=CurvesId.QUANTITY,
        className="segmented",
    )
    body = [
        dcc.Store(id=CurvesId.READY),
        dcc.Store(id=CurvesId.LAST),
        html.Div(id=CurvesId.PINS, className="pin-list", role="group", **aria(label="Pins")),
        graph(CurvesId.GRAPH, "Curves over the rows", height=300, fluid=True),
        html.Div(id=CurvesId.FACTS, className="steps-table"),
        _all_positions(),
    ]
    return panel(
        "curves",
        "How the answer emerges",
        body,
        help_text=HELP,
        subtitle="Pinned tokens at the chosen position, over the rows.",
        subtitle_id=CurvesId.SUBTITLE,
        controls=quantity,
    )


def _all_positions() -> Component:
    bar = progress(CurvesId.PROGRESS, stop_button(CurvesId.STOP))
    heading = html.Div(
        [
            html.H3("Every position", className="inspector-title"),
            html.Span(id=CurvesId.STRIP_LINE, className="control-help"),
            small_button("Measure commits", CurvesId.COMMIT),
        ],
        className="emergence-heading",
    )
    strip = graph(CurvesId.STRIP, "When each position's token emerges, by four measures", height=40)
    return html.Div([heading, bar, strip], className="emergence")


def pin_list(tokens: tuple[Token, ...], colours: tuple[str, ...]) -> list[Component]:
    """Pinned tokens, each with a button that unpins it."""
    pins = tuple(token.id for token in tokens)
    return [
        html.Span(
            [
                _swatch(colours, index),
                html.Span(label(token), className="mono"),
                go(
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
    """For each token, when it emerges and which component made its largest step."""
    heads = ("Token", "first", "emerges", "stays", "Largest step")
    titles = ("", "Ranks first", f"p ≥ {percent(TAU)} to the end", "Ranks first to the end", "")
    head = [
        html.Th(text, scope="col", title=title) for text, title in zip(heads, titles, strict=True)
    ]
    body = [_token_row(steps, index, run, colours) for index in range(len(steps.tokens))]
    return html.Table(
        [html.Thead(html.Tr(head)), html.Tbody(body)], className="ledger-table steps-of-tokens"
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
    return go(str(row), to, "story-phrase", label=f"Choose row {row}")


def _step(step: LargestStep, position: int, run: RunResult) -> Component:
    """What made a step: a button that chooses it, its size, and the strongest heads."""
    attention = step.component == "attention"
    part = "attention" if attention else "MLP"
    made = step.attention if attention else step.mlp
    where: dict[str, object] = {"layer": step.layer, "row": step.layer + 1, "pos": position}
    if attention and step.heads.size:
        where["heads"] = (int(step.heads[0]),)
    size = f"{made:+.1f} of {step.step:+.1f} nats".replace("-", "−")
    button = go(
        f"layer {step.layer}, {part}",
        target(**where),
        "story-phrase",
        label=f"Choose layer {step.layer}, {part}",
    )
    return html.Span([button, f" ({size})", *_heads(step, run)])


def _heads(step: LargestStep, run: RunResult) -> list[str]:
    """The two heads that add most, where attention made the step."""
    if step.component != "attention" or not step.heads.size:
        return []
    told = [
        f"head {head} {logit:+.1f} reading {label(run.tokens[source], 10)}".replace("-", "−")
        for head, logit, source in zip(
            step.heads[:2].tolist(),
            step.head_logits[:2].tolist(),
            step.head_sources[:2].tolist(),
            strict=True,
        )
    ]
    return [f": {'; '.join(told)} (logits)"]
