"""The Compare page: two prompts, what is patched, and the picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import dash_bootstrap_components as dbc
from dash import dcc
from dash.development.base_component import Component

from analysis.contract.choices import Choices
from analysis.experiments.specs import ALIGNMENTS, AXES, DIFFERENCES, METRICS, PATCH_DIRECTIONS
from analysis.tasks.addition import padded_digits
from dash_app.jobs.job_and_draw import progress_bar, start_button, stop_button
from dash_app.page.panel import (
    GRAPH_CONFIG,
    aria,
    blank_figure,
    button,
    control,
    options_of,
    segmented,
    select_button,
    switch,
    target,
)
from dash_app.page.panes import Pane
from dash_app.page.thin_layout import html
from dash_app.state.context import Context, Service
from dash_app.state.selection import RunRef, Selection
from dash_app.views.compare.models import menu_of_models, second


class CompareId(StrEnum):
    """Ids of this view's components."""

    CLEAN = "compare-clean"
    CORRUPTED = "compare-corrupted"
    ANSWER = "compare-answer"
    AGAINST = "compare-against"
    LAYER = "compare-layer"
    INSIDE = "compare-inside"
    ALIGN = "compare-align"
    ALIGNED = "compare-aligned"
    PAIR = "compare-pair"
    PAIRED = "compare-paired"
    PAIR_CLEAN = "compare-pair-clean"
    PAIR_CORRUPTED = "compare-pair-corrupted"
    OPTIONS = "compare-options"
    PAIRS = "compare-pairs"
    PATCH = "compare-patch"
    SENT = "compare-sent"
    PICKED = "compare-picked"
    REFUSED = "compare-refused"
    CONTINUE = "compare-continue"
    REST = "compare-rest"
    STOP = "compare-stop"
    PROGRESS = "compare-progress"
    LAST = "compare-last"
    GRAPH = "compare-graph"
    PICTURE = "compare-picture"
    CAPTION = "compare-caption"
    STRONGEST = "compare-strongest"
    MESSAGE = "compare-message"
    APART_LAST = "apart-last"
    APART_OPTIONS = "apart-options"
    APART_PROGRESS = "apart-progress"
    APART_STOP = "apart-stop"
    APART_GRAPH = "apart-graph"
    APART_CAPTION = "apart-caption"


#: The fields of the form, by the field of the selection that each one shows.
FORM = {
    "clean": CompareId.CLEAN,
    "corrupted": CompareId.CORRUPTED,
    "answer": CompareId.ANSWER,
    "against": CompareId.AGAINST,
    "inside": CompareId.LAYER,
}


@dataclass(frozen=True, slots=True)
class Pair:
    """A ready-made pair.

    Attributes:
        title: What it shows, in two or three words.
        clean, corrupted: The prompts.
        answer, foil: The tokens, with their leading spaces.
        model: The model that the pair is made for; empty for any.
    """

    title: str
    clean: str
    corrupted: str
    answer: str
    foil: str
    model: str = ""


PAIRS = (
    Pair("A fact", "The capital of France is", "The capital of Italy is", " Paris", " Rome"),
    Pair(
        "Indirect object",
        "When Mary and John went to the store, John gave a book to",
        "When Mary and John went to the store, Mary gave a book to",
        " Mary",
        " John",
    ),
    Pair("Subject and verb", "The keys to the cabinet", "The key to the cabinet", " are", " is"),
    Pair("Sum with a carry", "54328+12345=0666", "54321+12345=0666", "7", "6", "addition-5digit"),
)
#: What the empty page explains.
TERMS = (
    ("Clean prompt", "A prompt that the model answers right, such as “The capital of France is”."),
    (
        "Corrupted prompt",
        "The same prompt with one detail changed, so that the answer is another one: “The capital"
        " of Italy is”.",
    ),
    ("Answer", "The next token after the clean prompt: ' Paris'. It has a leading space."),
    ("Foil", "The next token after the corrupted prompt: ' Rome'. Logits are compared with it."),
    (
        "Patch",
        "The model reads the corrupted prompt, but one state is taken from the clean run. If the"
        " answer comes back, that state carries it.",
    ),
)
HELP = (
    "Two prompts with different answers run side by side. One cell after another is patched: the"
    " state of the other run replaces the cell's own. The colour shows how much of the answer that"
    " patch restores or destroys: 0 is the value without a patch, 1 the value of the other run. A"
    " value below 0 is an effect in the opposite direction.",
    "An estimate (attribution patching: Nanda, 2023; Kramár et al., 2024) multiplies a gradient by"
    " the difference of the two states. One backward pass estimates all cells at once, but the"
    " estimates of early rows are often far off. Measured cells replace them from the top down.",
    "A click on a cell opens the prompt with that patch as an edit. With “Row and position” or"
    " “Head and position”, drag a cell to another position: the state of the other prompt that"
    " belongs to the cell is patched there. With the keyboard, change the positions in"
    " the edit's card.",
    *(f"{choice.label}: {choice.summary}" for choice in AXES.values()),
    *(f"{choice.label}: {choice.summary}" for choice in PATCH_DIRECTIONS.values()),
    *(f"{choice.label}: {choice.summary}" for choice in METRICS.values()),
    *(f"{choice.label}: {choice.summary}" for choice in ALIGNMENTS.values()),
)
APART_HELP = (
    "The logit lens (nostalgebraist, 2020) decodes every state of both runs. Equal tokens of the"
    " two prompts are aligned (by a longest common subsequence); the others are left out. The last"
    " positions, which predict the answer, are always compared.",
    *(f"{choice.label}: {choice.summary}" for choice in DIFFERENCES.values()),
    "Model B is a second model: it reads prompt B, or prompt A if B is empty. If layers, vocabulary"
    " and tokens agree, the pane shows the difference of the two models; else each on its own.",
    "A difference shows where the runs differ, not what causes it. For the cause, use Patching.",
)


def layout(_context: Context) -> dict[str, Any]:
    """The form of the pair, and the two pictures."""
    return {"pair": _form(), "patching": _patching(), "difference": _difference()}


def terms() -> list[Component]:
    """What the fields of the form mean, shown until a pair is chosen."""
    parts = [part for name, text in TERMS for part in (html.Dt(name), html.Dd(text))]
    return [html.Dl(parts, className="control-help")]


def pair_button(pair: Pair, barred: bool, *, both: bool = False) -> Component:
    """A button that chooses a pair, and the model that it is made for.

    Args:
        pair: The pair.
        barred: Whether the model can't read it.
        both: Whether two models are compared; then both read the pair's first prompt.
    """
    if barred:
        return html.Button(
            pair.title,
            type="button",
            className="btn btn-outline-secondary example",
            disabled=True,
            title="This model reads only sums. Choose another model above.",
        )
    run = {"model": pair.model, "prompt": pair.clean, "template": "off", "other": ""}
    corrupted = "" if both and not pair.model else pair.corrupted
    to = target(
        **(run if pair.model else {}), clean=pair.clean, corrupted=corrupted, answer=pair.answer,
        against=pair.foil, align=ALIGNMENTS.default, pairs=(),
    )  # fmt: skip
    return select_button(
        pair.title,
        to,
        "btn btn-outline-secondary example",
        label=f"Compare: {pair.title}",
        title=f"{pair.clean} | {pair.corrupted}",
    )


def draw_options(
    _service: Service, _run: RunRef | None, selection: Selection
) -> tuple[list[Component], list[Component], bool, list[Component], str]:
    """Switches, model B and the alignment, whether the layer is hidden, the pairs, the button."""
    reads_sums = padded_digits(selection.model) is not None
    return (
        [
            _switch("axes", "Patch", AXES, selection),
            _switch("way", "Direction", PATCH_DIRECTIONS, selection),
            _switch("metric", "Metric", METRICS, selection),
        ],
        [menu_of_models(selection), _switch("align", "Align", ALIGNMENTS, selection)],
        selection.axes != "head_position",
        [
            html.Span("Ready-made pairs", className="control-label"),
            *(
                pair_button(pair, reads_sums and not pair.model, both=bool(second(selection)))
                for pair in PAIRS
            ),
        ],
        "Compare" if second(selection) else "Patch",
    )


def _switch(name: str, label: str, table: Choices[Any], selection: Selection) -> Component:
    return control(
        label, segmented(switch(name, options_of(table), getattr(selection, name), label))
    )


def _patching() -> Pane:
    return Pane(
        "patching",
        "Patching",
        "Which states carry the answer",
        html.Div(
            [
                dcc.Store(id=CompareId.LAST),
                html.Div(id=CompareId.OPTIONS, className="controls"),
                progress_bar(CompareId.PROGRESS, stop_button(CompareId.STOP)),
                html.Div(
                    start_button("Continue measuring", CompareId.CONTINUE),
                    id=CompareId.REST,
                    hidden=True,
                ),
                html.Div(
                    _picture(
                        CompareId.GRAPH,
                        "Heatmap of patching effects; the list below has the strongest ones",
                    ),
                    id=CompareId.PICTURE,
                ),
                html.Div(id=CompareId.STRONGEST, className="mt-2"),
                _alignment(),
            ]
        ),
        HELP,
        caption="Choose a pair of prompts, or type your own.",
        caption_id=CompareId.CAPTION,
        wraps=True,
    )


def _alignment() -> Component:
    """The partners of all tokens, and a form that changes them."""
    place = {"type": "number", "min": 0, "step": 1, "size": "sm"}
    clean, corrupted = (
        html.Label(
            [label, dbc.Input(id=name, placeholder=hint, **place)], className="control-label"
        )
        for label, name, hint in (
            ("Clean position", CompareId.PAIR_CLEAN, "0"),
            ("Corrupted position", CompareId.PAIR_CORRUPTED, "no partner"),
        )
    )
    made = button("Make partners", CompareId.PAIR)
    form = html.Div([clean, corrupted, made], className="controls align-items-end")
    return html.Details(
        [
            html.Summary("Alignment: which tokens are partners", className="control-label"),
            dcc.Store(id=CompareId.PAIRED),
            html.Div(id=CompareId.ALIGNED),
            form,
        ],
        className="mt-2",
    )


def _difference() -> Pane:
    return Pane(
        "difference",
        "Difference",
        "Where the two runs differ",
        html.Div(
            [
                dcc.Store(id=CompareId.APART_LAST),
                html.Div(id=CompareId.APART_OPTIONS, className="controls"),
                progress_bar(CompareId.APART_PROGRESS, stop_button(CompareId.APART_STOP)),
                _picture(CompareId.APART_GRAPH, "Heatmap of the difference between the two runs"),
            ]
        ),
        APART_HELP,
        caption="Choose a pair of prompts, or type your own.",
        caption_id=CompareId.APART_CAPTION,
        wraps=True,
    )


def _form() -> Component:
    """The two prompts, the tokens, and one place for a message about them."""
    return html.Section(
        [
            dcc.Store(id=CompareId.SENT),
            dcc.Store(id=CompareId.PICKED),
            html.Div(id=CompareId.PAIRS, className="controls"),
            html.Div(_prompts(), className="row g-2 mt-0"),
            html.Div(_tokens(), className="controls mt-1 align-items-end"),
            html.Div(id=CompareId.MESSAGE, className="mt-1", **aria(live="polite")),
            html.Div(id=CompareId.REFUSED, className="mt-1", **aria(live="polite")),
        ],
        className="panel panel-compare px-2 py-1",
        **aria(label="Two prompts"),
    )


def _prompts() -> list[Component]:
    """The two prompts; beside them, the second model and the alignment."""
    texts = (
        ("clean", "Clean prompt (A)", "The prompt with the answer"),
        (
            "corrupted",
            "Corrupted prompt (B)",
            "A similar prompt with another answer; for a model B, A if empty",
        ),
    )
    fields = [
        _field(name, label, {"className": "col-12 col-lg"}, placeholder=hint)
        for name, label, hint in texts
    ]
    return [*fields, html.Div(id=CompareId.ALIGN, className="col-12 col-lg-3")]


def _tokens() -> list[Component]:
    layer = {"type": "number", "min": 0, "step": 1, "placeholder": "middle"}
    return [
        _field("answer", "Answer", placeholder="top token"),
        _field("against", "Foil", placeholder="top token"),
        _field("inside", "Layer", {"id": CompareId.INSIDE, "hidden": True}, **layer),
        button("Patch", CompareId.PATCH, color="primary"),
    ]


def _field(
    name: str, label: str, outer: Mapping[str, Any] | None = None, /, **more: Any
) -> Component:
    """A field with its label, whose own properties are ``outer``."""
    box = dbc.Input(id=FORM[name], size="sm", autoComplete="off", **{"type": "text", **more})
    return html.Label([html.Span(label, className="control-label"), box], **(outer or {}))


def _picture(name: str, label: str) -> Component:
    return html.Div(
        dcc.Graph(
            id=name,
            figure=blank_figure(),
            config=GRAPH_CONFIG,
            responsive=True,
            style={"height": "19.5rem"},
        ),
        className="figure",
        role="img",
        tabIndex="0",
        **aria(label=label),
    )
