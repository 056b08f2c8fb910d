"""The curves' panel: what is pinned, and how it moves over the rows."""

from __future__ import annotations

from dash import html
from dash.development.base_component import Component

from analysis.results import Story, Token
from dash_app.components.attributes import aria
from dash_app.components.go import go, switch, target, toggled
from dash_app.components.panel import control, graph, panel
from dash_app.figures.text import label, percent, quoted
from dash_app.shell import Context
from dash_app.views.curves.ids import CurvesId

#: The probability that "emerges" asks for (``StorySpec.tau``).
TAU = 0.5
QUANTITIES = (("probability", "Probability"), ("rank", "Rank"))
HELP = (
    "The logit lens of the chosen position, row by row, for each pinned token: its probability, or"
    " its rank among all tokens (1 is best; ties count in its favour).",
    "Dashed lines mark when the model's own choice emerges: “first” is the first row where it ranks"
    " first, “emerges” the first row from which its probability stays at 0.5 or more, “stays” the"
    " first row from which it ranks first to the end (saturation; Geva et al., 2022). The first two"
    " may never happen.",
    "Pin tokens in the list of the chosen cell, or with the alternatives under an answer token."
    " A click chooses the row.",
)


def layout(context: Context) -> Component:
    """Pins, switch and curves."""
    quantity = html.Div(
        switch("curve", QUANTITIES, context.base().curve, "Curves"),
        id=CurvesId.QUANTITY,
        className="segmented",
    )
    body = [
        html.Div(id=CurvesId.PINS, className="pin-list", role="group", **aria(label="Pins")),
        graph(CurvesId.GRAPH, "Curves of pinned tokens over the rows", height=320),
        html.Dl(id=CurvesId.FACTS, className="fact-list"),
    ]
    return panel(
        "curves",
        "How the answer emerges",
        body,
        help_text=HELP,
        subtitle="Pinned tokens at the chosen position, over the rows.",
        subtitle_id=CurvesId.SUBTITLE,
        controls=control("Curves", quantity),
    )


def pin_list(tokens: tuple[Token, ...], colours: tuple[str, ...]) -> list[Component]:
    """Pinned tokens, each with a button that unpins it."""
    pins = tuple(token.id for token in tokens)
    return [
        html.Span(
            [
                html.Span(
                    className="pin-swatch",
                    style={"background": colours[index % len(colours)]},
                ),
                html.Span(label(token), className="mono"),
                go(
                    "×",
                    target(pins=toggled(pins, token.id)),
                    "pin-remove",
                    label=f"Unpin {label(token)}",
                ),
            ],
            className="pin",
        )
        for index, token in enumerate(tokens)
    ]


def emergence_facts(story: Story) -> list[Component]:
    """When the model's own choice at this position emerges: rows as buttons that choose them."""
    name = quoted(story.token)
    facts = (
        (f"{name} first ranks first", story.first_top1),
        (f"its probability stays at {percent(TAU)} or more", story.emergence),
        ("it stays first (saturation)", story.saturation),
    )
    return [
        html.Div(
            [html.Dt(text), html.Dd(_row(row, story.position))],
            className="fact",
        )
        for text, row in facts
    ]


def _row(row: int | None, position: int) -> Component:
    if row is None:
        return html.Span("never", className="muted")
    to = target(row=row, pos=position, layer=max(row - 1, 0))
    return go(f"row {row}", to, "story-phrase", label=f"Choose row {row}")
