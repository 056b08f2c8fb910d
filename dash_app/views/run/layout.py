"""The top of the page: model, prompt, examples and progress."""

from __future__ import annotations

from enum import StrEnum

from dash import dcc, html
from dash.development.base_component import Component

from analysis.contract.specs import ModelInfo
from dash_app.jobs.job_and_draw import progress_bar
from dash_app.page.panel import aria, select_button, target
from dash_app.state.context import Context, PageId
from dash_app.state.examples import Example, by_question
from dash_app.state.selection import MAX_PROMPT_CHARACTERS


class RunId(StrEnum):
    """Ids of this view's components."""

    MODEL = "run-model"
    CHIPS = "run-chips"
    EXAMPLES = "run-examples"
    PROMPT = "run-prompt"
    NEW = "run-new"
    TEMPLATE = "run-template"
    BUTTON = "run-button"
    CANCEL = "run-cancel"
    LAST = "run-last"
    PROGRESS = "run-progress"


def layout(context: Context) -> Component:
    """Prompt, controls, examples and progress."""
    return html.Section(
        [
            dcc.Store(id=RunId.LAST),
            _model_bar(context),
            _prompt_bar(context),
            _examples(context),
            progress_bar(RunId.PROGRESS),
        ],
        className="run-view",
        **aria(label="Prompt"),
    )


def _model_bar(context: Context) -> Component:
    return html.Div(
        [
            html.Label("Model", htmlFor=RunId.MODEL, className="control-label"),
            dcc.Dropdown(
                id=RunId.MODEL,
                options=[
                    {"label": name, "value": name, "title": title} for name, title in context.models
                ],
                value=context.settings.default_model,
                clearable=False,
                searchable=len(context.models) > 8,
                className="model-picker",
            ),
            html.Div(id=PageId.BADGE, className="model-chips", **aria(live="polite")),
            html.Div(id=RunId.CHIPS, className="model-chips"),
        ],
        className="model-bar",
    )


def _prompt_bar(context: Context) -> Component:
    prompt = dcc.Textarea(
        id=RunId.PROMPT,
        value=context.base().prompt,
        rows=2,
        maxLength=MAX_PROMPT_CHARACTERS,
        spellCheck=False,
        dir="auto",
        placeholder="Type a prompt. The model continues it.",
        className="prompt-input",
        title="The text that the model reads and continues",
    )
    label = html.Label("Prompt", htmlFor=RunId.PROMPT, className="visually-hidden")
    run = html.Button("Run", id=RunId.BUTTON, type="button", className="button button--primary")
    cancel = html.Button(
        "Cancel", id=RunId.CANCEL, type="button", className="button", disabled=True
    )
    actions = html.Div(
        [_template(context), _new_tokens(context), run, cancel], className="prompt-actions"
    )
    return html.Div([label, prompt, actions], className="prompt-bar")


def _new_tokens(context: Context) -> Component:
    new = dcc.Input(
        id=RunId.NEW,
        type="number",
        value=context.base().new,
        min=0,
        max=context.settings.max_new_tokens,
        step=1,
        className="number-input",
    )
    return html.Label(
        [html.Span("New tokens", className="control-label"), new],
        title="Number of tokens to generate after the prompt (greedy)",
    )


def _template(context: Context) -> Component:
    switch = dcc.RadioItems(
        id=RunId.TEMPLATE,
        options=[{"label": "Text", "value": "off"}, {"label": "Chat", "value": "on"}],
        value=context.base().template,
        inline=True,
        className="segmented",
        labelClassName="segment",
        inputClassName="visually-hidden",
    )
    return html.Div(
        [html.Span("Prompt as", className="control-label"), switch],
        className="template-switch",
        role="group",
        title="Chat puts the prompt into the model's own chat template. The token strip marks the"
        " added tokens.",
        **aria(label="Prompt as"),
    )


def examples(model: str) -> list[Component]:
    """Buttons that run the examples for a model, under the question that each helps to answer."""
    return [
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


def _example(example: Example, model: str) -> Component:
    return html.Span(
        select_button(
            example.title,
            target(model=model, prompt=example.prompt, new=example.new, template="off"),
            "example",
            label=f"Run the example: {example.prompt}",
        ),
        title=f"{example.prompt}\n{example.shows}",
    )


def _examples(context: Context) -> Component:
    buttons = html.Span(
        examples(context.settings.default_model), id=RunId.EXAMPLES, className="examples"
    )
    keys = html.Span(
        [
            html.Span("Ctrl", className="kbd"),
            "+",
            html.Span("Enter", className="kbd"),
            " runs, ",
            html.Span("←↑↓→", className="kbd"),
            " move the selection",
        ],
        className="prompt-hint",
    )
    return html.Div(
        [html.Span("Try", className="control-label"), buttons, keys], className="prompt-examples"
    )


def chips(info: ModelInfo) -> list[Component]:
    """The main facts about a model, one chip each."""
    tied = info.tied_embeddings
    facts = [
        (f"{info.layers} layers", "Transformer blocks"),
        (
            f"{info.heads} heads / {info.kv_heads} KV",
            "Attention heads / key-value heads",
        ),
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
    return [html.Span(text, className="model-chip", title=title) for text, title in facts]
