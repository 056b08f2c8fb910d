"""The top of the page: model, prompt, examples and progress."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import dash_bootstrap_components as dbc
from dash import dcc
from dash.development.base_component import Component

from analysis.contract.specs import NO_ATTENTION, ModelInfo
from dash_app.jobs.job_and_draw import progress_bar
from dash_app.page.panel import (
    aria,
    button,
    data,
    number_field,
    radio,
    select_button,
    select_field,
    target,
)
from dash_app.page.thin_layout import html
from dash_app.state import options
from dash_app.state.branches import MAX_OWN
from dash_app.state.context import Context, PageId
from dash_app.state.examples import Example, by_question


class RunId(StrEnum):
    """Ids of this view's components."""

    MODEL = "run-model"
    CHIPS = "run-chips"
    EXAMPLES = "run-examples"
    PROMPT = "run-prompt"
    NEW = "run-new"
    TEMPLATE = "run-template"
    SAMPLING = "run-sampling"
    TEMPERATURE = "run-temperature"
    NUCLEUS = "run-nucleus"
    SEED = "run-seed"
    OWN = "run-own"
    WRITTEN = "run-written"
    BUTTON = "run-button"
    CANCEL = "run-cancel"
    LAST = "run-last"
    PROGRESS = "run-progress"


def layout(context: Context) -> dict[str, Any]:
    """The model picker, the prompt with examples and progress, and facts about the model."""
    prompt = html.Section(
        [dcc.Store(id=RunId.LAST), *_prompt_bar(context), progress_bar(RunId.PROGRESS)],
        className="run-view",
        **aria(label="Prompt"),
    )
    facts = html.Div(id=RunId.CHIPS, className="chips")
    return {"picker": _model_bar(context), "prompt": prompt, "facts": facts}


def _model_bar(context: Context) -> Component:
    return html.Div(
        [
            html.Label("Model", htmlFor=RunId.MODEL, className="visually-hidden"),
            select_field(
                RunId.MODEL,
                [{"label": name, "value": name, "title": title} for name, title in context.models],
                context.settings.default_model,
                "220px",
            ),
            html.Div(id=PageId.BADGE, className="chips", **aria(live="polite")),
        ],
        className="model-bar",
    )


def _prompt_bar(context: Context) -> list[Component]:
    prompt = dbc.Textarea(
        id=RunId.PROMPT,
        value=context.base().prompt,
        rows=1,
        spellcheck="false",
        dir="auto",
        placeholder="Type a prompt. The model continues it.",
        className="prompt-input",
        title="The text that the model reads and continues",
    )
    label = html.Label("Prompt", htmlFor=RunId.PROMPT, className="visually-hidden")
    run = button("Run", RunId.BUTTON, color="primary", title="Ctrl+Enter", class_name="px-3")
    cancel = button("Cancel", RunId.CANCEL, disabled=True)
    bar = [label, prompt, _template(context), _new_tokens(context), _answer(), run, cancel]
    return [html.Div([*bar, _examples(context)], className="prompt-bar")]


def _new_tokens(context: Context) -> Component:
    new = number_field(RunId.NEW, context.base().new, 0, context.settings.max_new_tokens)
    return html.Label(
        ["New tokens", new],
        title="Number of tokens to generate",
        className="control-label",
    )


def _answer() -> Component:
    """A menu: how the tokens of the answer are chosen, and a text of one's own."""
    chosen = {name: choice.label for name, choice in options.SAMPLING.items()}
    fields = (
        ("Temperature", RunId.TEMPERATURE, 1.0, {"min": 0.01, "max": 100, "step": "any"},
         "Logits are divided by it: above 1 the draw is more even, below 1 less."),
        ("Top-p", RunId.NUCLEUS, 1.0, {"min": 0.01, "max": 1, "step": "any"},
         "The draw is from the fewest tokens whose probabilities sum to this."),
        ("Seed", RunId.SEED, 0, {"min": 0, "max": 1_000_000, "step": 1},
         "The same seed draws the same tokens."),
    )  # fmt: skip
    numbers = [
        html.Label(
            [label, dbc.Input(id=name, type="number", value=value, size="sm", **limits)],
            title=help_text,
            className="control-label text-nowrap",
        )
        for label, name, value, limits, help_text in fields
    ]
    switch = radio(RunId.SAMPLING, chosen, options.SAMPLING.default)
    return html.Details(
        [
            html.Summary("Answer", className="btn btn-outline-secondary"),
            html.Div(
                [switch, *numbers, *_own_text()],
                className="examples menu-list",
                title="Press Run after a change.",
                role="group",
                **aria(label="Choose tokens"),
            ),
        ],
        id="menu-answer",
        className="menu menu-of-bar",
        title="Greedy tokens, or tokens drawn with a seed; a text of your own in the answer",
    )


def _own_text() -> list[Component]:
    """The field for a text with which the answer goes on after the selected token."""
    field = dbc.Input(
        id=RunId.OWN, type="text", size="sm", maxLength=MAX_OWN, autoComplete="off",
        placeholder="Continue after the selected token with a text (Enter)",
    )  # fmt: skip
    return [dcc.Store(id=RunId.WRITTEN), field]


def _template(context: Context) -> Component:
    switch = radio(RunId.TEMPLATE, {"off": "Text", "on": "Chat"}, context.base().template)
    return html.Div(
        switch,
        role="group",
        title="Chat puts the prompt into the model's own chat template. The token strip marks the"
        " added tokens.",
        **aria(label="Prompt as"),
    )


def examples(model: str) -> list[Component]:
    """Buttons that run the examples for a model, under the question that each helps to answer."""
    groups = [
        html.Span(
            [
                html.Span(question, className="example-question"),
                *(_example(one, one.model or model) for one in found),
            ],
            className="example-group",
            role="group",
            **aria(label=question),
        )
        for question, found in by_question(model).items()
    ]
    return [html.Div(groups, className="d-grid gap-2", **data(later=""))]


def _example(example: Example, model: str) -> Component:
    return select_button(
        example.title,
        target(model=model, prompt=example.prompt, new=example.new, template="off"),
        "btn btn-outline-secondary example",
        label=f"Run the example: {example.prompt}",
        title=f"{example.prompt}\n{example.shows}",
    )


def _examples(context: Context) -> Component:
    buttons = html.Div(
        examples(context.settings.default_model), id=RunId.EXAMPLES, className="examples menu-list"
    )
    return html.Details(
        [html.Summary("Examples", className="btn btn-outline-secondary"), buttons],
        id="menu-examples",
        className="menu menu-of-bar",
    )


def _heads_chip(info: ModelInfo) -> tuple[str, str]:
    if info.heads:
        return f"{info.heads} heads / {info.kv_heads} KV", "Attention heads / key-value heads"
    return "no attention", NO_ATTENTION


def chips(info: ModelInfo) -> list[Component]:
    """The main facts about a model, one chip each."""
    tied = info.tied_embeddings
    facts = [
        (f"{info.layers} layers", "Transformer blocks"),
        _heads_chip(info),
        (f"d {info.d_model}", "Width of the residual stream"),
        (
            "tied embeddings" if tied else "untied embeddings",
            "One matrix is used at the input and the output, so the input and output decoders are"
            " the same."
            if tied
            else "Different matrices are used at the input and the output.",
        ),
        (info.norm, "Norm before the unembedding"),
        (info.dtype, "Number format of the weights in memory"),
    ]
    if missing := [reason for reason in info.missing if reason != NO_ATTENTION]:
        facts.append(("partly supported", " ".join(missing)))
    return [html.Span(text, className="model-chip", title=title) for text, title in facts]
