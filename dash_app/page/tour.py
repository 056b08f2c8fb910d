"""The first minute: four steps that point at parts of the page (``assets/js/tour.js``)."""

from __future__ import annotations

from dataclasses import dataclass

from dash.development.base_component import Component

from dash_app.page.glossary import with_terms
from dash_app.page.panel import aria, data
from dash_app.page.thin_layout import html


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the tour.

    Attributes:
        target: A CSS selector of what the step points at. The script skips a step whose target is
            not on the page. Choose the box of a picture, because it exists before the picture.
        title: Its heading.
        text: What the part shows and what can be done there.
    """

    target: str
    title: str
    text: str


STEPS = (
    Step(
        "#story-text",
        "One sentence sums up the result",
        "It says when the answer leads and which component adds most to it. Click a part of the"
        " sentence to select what it names.",
    ),
    Step(
        "#lens-graph-box",
        "The heatmap shows what each state predicts",
        "A column is a token, a row is a layer. Each cell is the residual stream decoded by the"
        " logit lens: the token that the model would write if it stopped there. Click a cell, or"
        " move with the arrow keys.",
    ),
    Step(
        "#flow-graph-box",
        "The flow shows what the answer depends on",
        "A line is an attention link between two tokens, a square an MLP. The wider it is, the more"
        " the answer's logit changes if it is cut. Dashed lines are estimates. Click a link to see"
        " what it carries.",
    ),
    Step(
        "#curves-graph-box",
        "The curves follow a token through the layers",
        "They show the probability of the pinned tokens in the chosen column. Double-click a cell"
        " to pin its token. Now run a prompt of your own.",
    ),
)


def tour() -> Component:
    """The steps, drawn when the tour starts. The script shows one beside its target."""
    steps = [_step(number, step) for number, step in enumerate(STEPS)]
    return html.Div(html.Div(steps, **data(later="")), id="tour")


def start_button() -> Component:
    """A button that shows the tour again."""
    return html.Button(
        "Show the tour", type="button", className="btn btn-sm btn-outline-secondary",
        **data(tour="start"),
    )  # fmt: skip


def _step(number: int, step: Step) -> Component:
    last = number == len(STEPS) - 1
    skip = html.Button(
        "Close" if last else "Skip the tour", type="button", className="btn btn-sm btn-link",
        **data(tour="end"),
    )  # fmt: skip
    following = html.Button(
        "Done" if last else "Next", type="button", className="btn btn-sm btn-primary",
        **data(tour="end" if last else "next"),
    )  # fmt: skip
    return html.Div(
        [
            html.H2(step.title),
            html.P(with_terms(step.text)),
            html.Div(
                [
                    html.Span(f"{number + 1} of {len(STEPS)}", className="muted"),
                    *([] if last else [skip]),
                    following,
                ],
                className="tour-buttons",
            ),
        ],
        className="tour-step",
        hidden=True,
        role="dialog",
        tabIndex="-1",
        **data(tour_target=step.target),
        **aria(label=step.title),
    )
