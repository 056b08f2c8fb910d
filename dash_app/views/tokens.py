"""The strip of tokens: one chip each, and the alternatives to each answer token."""

from __future__ import annotations

from typing import Any

from dash import Output, html
from dash.development.base_component import Component

from analysis.contract.specs import Token
from analysis.tracing.specs import RunResult, RunSpec
from dash_app.errors import explain
from dash_app.page.panel import aria, notice, problem_notice, select_button, target
from dash_app.page.token_labels import label, percent
from dash_app.state.context import Context, Drawing, PageId, Service, View, result_of
from dash_app.state.exports import Export
from dash_app.state.selection import RunRef, Selection, resolve

STRIP = "tokens-strip"
#: Alternatives listed under each answer token.
ALTERNATIVES = 3
#: Names of the token that stands for unknown text.
UNKNOWN = ("<unk>", "[UNK]", "<|unk|>", "<UNK>")


def layout(_context: Context) -> dict[str, Any]:
    """The strip, with placeholders before the first run."""
    chips = html.Div(
        [html.Span(className="token skeleton") for _ in range(8)],
        id=STRIP,
        className="token-strip",
        role="group",
        **aria(label="Tokens of prompt and answer"),
    )
    return {"tokens": chips}


def spec(run: RunRef) -> RunSpec:
    """The request of the run itself."""
    return RunSpec(run.model, run.prompt, new_tokens=run.new, template=run.template == "on")


def draw(service: Service, run: RunRef, selection: Selection) -> list[Component]:
    """The strip with the chosen position marked."""
    try:
        return strip(result_of(service, run), resolve(selection, run).pos)
    except Exception as error:  # noqa: BLE001 - shown in place of the strip
        return [problem_notice(explain(error))]


def strip(run: RunResult, chosen: int) -> list[Component]:
    """One chip for each token, with alternatives under answer tokens."""
    chips = [chip(run, pos, chosen) for pos in range(len(run.tokens))]
    return [*_unknown(run), *chips]


def _unknown(run: RunResult) -> list[Component]:
    """A warning that part of the prompt has no tokens in this model."""
    lost = sum(token.raw in UNKNOWN for token in run.tokens[: run.prompt_length])
    if not lost:
        return []
    message = (
        f"{lost} of the prompt's {run.prompt_length} tokens {'is' if lost == 1 else 'are'} unknown."
    )
    hint = "This model has no token for that text and reads the same placeholder for all of it."
    return [html.Div(notice(message, hint, kind="warning"), className="token-note")]


def chip(run: RunResult, pos: int, chosen: int) -> Component:
    """The token at ``pos``; choosing it shows how the model predicts the next token."""
    token = run.tokens[pos]
    answer = pos >= run.prompt_length
    marks = {
        "is-selected": pos == chosen,
        "is-answer": answer,
        "is-special": token.special,
        "is-next": pos == chosen + 1,
        "is-added": pos in run.added,
    }
    names = " ".join(["token", *(name for name, holds in marks.items() if holds)])
    inside = [
        html.Span(str(pos), className="token-pos"),
        html.Span(label(token), className="token-text"),
    ]
    if pos > 0:
        inside.append(html.Span(percent(float(run.next_prob[pos - 1])), className="token-prob"))
    button = select_button(
        inside,
        target(pos=pos),
        names,
        label=_spoken(run, pos),
        pressed=pos == chosen,
        title=described(token, added=pos in run.added),
    )
    if not answer:
        return html.Div(button, className="token-column")
    return html.Div([button, _alternatives(run, pos)], className="token-column")


def described(token: Token, *, added: bool) -> str:
    """The raw piece, its id and its bytes, for the tooltip."""
    lines = [f"piece {token.raw}", f"id {token.id}"]
    if token.data:
        pairs = (token.data[place : place + 2] for place in range(0, len(token.data), 2))
        lines.append(f"bytes {' '.join(pairs)}")
    if token.special:
        lines.append("a special token")
    if added:
        lines.append("not in your text: added by the chat template or the tokenizer")
    return "\n".join(lines)


def _spoken(run: RunResult, pos: int) -> str:
    text = f"Position {pos}, {label(run.tokens[pos])}"
    if pos + 1 < len(run.tokens):
        return f"{text}, followed by {label(run.tokens[pos + 1])}"
    return f"{text}, the last"


def _alternatives(run: RunResult, pos: int) -> Component:
    names: dict[int, Token] = {token.id: token for token in run.vocabulary}
    actual = run.tokens[pos].id
    pairs = zip(run.top_ids[pos - 1].tolist(), run.top_probs[pos - 1].tolist(), strict=True)
    others = [(token, prob) for token, prob in pairs if token != actual and token in names]
    return html.Div(
        [
            select_button(
                [html.Span(label(names[token], 12)), html.Span(percent(prob), className="num")],
                target(pos=pos - 1, pins=(actual, token)),
                "alternative",
                label=f"Compare {label(run.tokens[pos])} with {label(names[token])}",
            )
            for token, prob in others[:ALTERNATIVES]
        ],
        className="token-alternatives",
        title="What else the model considered here: click to compare in the curves",
    )


DRAWING = Drawing("tokens", (Output(STRIP, "children"),), draw, parts=(PageId.CELL,))
VIEW = View(
    "tokens",
    layout,
    drawings=(DRAWING,),
    exports={"tokens": Export(lambda _service, run, _chosen: [spec(run)])},
)
