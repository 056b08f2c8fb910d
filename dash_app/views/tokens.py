"""The strip of tokens: one chip each, and the alternatives to each answer token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from dash import Output
from dash.development.base_component import Component

from analysis.contract.specs import Token
from analysis.errors import AnalysisError
from analysis.experiments.specs import ALIGNMENTS
from analysis.tracing.specs import RunResult
from dash_app.errors import explain
from dash_app.page.panel import aria, data, notice, problem_notice, select_button, target
from dash_app.page.thin_layout import html
from dash_app.page.token_labels import label, percent
from dash_app.state.branches import branch_name, taken
from dash_app.state.context import Context, Drawing, PageId, Service, View, result_of
from dash_app.state.exports import Export
from dash_app.state.selection import (
    MAX_PAIR_CHARACTERS,
    RunRef,
    Selection,
    resolve,
    run_spec,
)

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


def draw(service: Service, run: RunRef, selection: Selection) -> list[Component]:
    """The strip with the chosen position marked."""
    try:
        result, pos = result_of(service, run), resolve(selection, run).pos
        beside = _compare(service, run, result) if run.branch == selection.branch else []
        return strip(result, pos, selection.branch, selection.branches, beside)
    except Exception as error:  # noqa: BLE001 - shown in place of the strip
        return [problem_notice(explain(error))]


def strip(
    run: RunResult,
    chosen: int,
    branch: str = "",
    branches: Sequence[str] = (),
    beside: Sequence[Component] = (),
) -> list[Component]:
    """One chip for each token, with alternatives under answer tokens; before them, the branches."""
    chips = [chip(run, pos, chosen) for pos in range(len(run.tokens))]
    if kept := tuple(dict.fromkeys((*branches, *filter(None, (branch,))))):
        chips.insert(run.prompt_length, _branches(branch, kept, beside))
    return [*_unknown(run), *chips]


def _compare(service: Service, run: RunRef, shown: RunResult) -> list[Component]:
    """The button that opens the branch that is shown on Compare; nothing for the own answer."""
    if not run.branch:
        return []
    try:
        own = service.ask(run.model, run_spec(run.model_copy(update={"branch": ""})))
    except AnalysisError as error:
        return [_no_comparison(error.message)]
    return [compare_button(run, own, shown)]


def compare_button(run: RunRef, own: RunResult, shown: RunResult) -> Component:
    """Open the own answer and a branch on Compare, as clean and corrupted prompt.

    Both are cut to the length of the shorter answer, so that each position has a partner. The
    metric is KL, because the same token may follow both.

    Args:
        run: The run of the branch.
        own: The model's own answer.
        shown: The branch.
    """
    count = min(len(one.tokens) - one.prompt_length for one in (own, shown))
    texts = [_text(one.tokens[one.prompt_length :][:count]) for one in (own, shown)]
    clean, corrupted = (run.prompt + (text or "") for text in texts)
    several = f"first {count} tokens" if count > 1 else "first token"
    if run.template == "on":
        return _no_comparison("Compare reads plain text. Switch the prompt from Chat to Text.")
    if clean == corrupted:
        return _no_comparison("Both answers begin alike. Generate more new tokens.")
    if None in texts:
        return _no_comparison(f"The {several} of an answer end inside a character.")
    if max(len(clean), len(corrupted)) > MAX_PAIR_CHARACTERS:
        return _no_comparison(f"Compare reads at most {MAX_PAIR_CHARACTERS:,} characters.")
    to = target(
        page="compare", clean=clean, corrupted=corrupted, answer="", against="",
        align=ALIGNMENTS.default, pairs=(), metric="kl",
    )  # fmt: skip
    return select_button(
        "compare", to, "alternative", label="compare the own answer with this branch",
        title=f"Open the prompt with the {several} of both answers on the page Compare",
    )  # fmt: skip


def _no_comparison(reason: str) -> Component:
    return html.Button(
        "compare", type="button", className="alternative", disabled=True, title=reason
    )


def _text(tokens: Sequence[Token]) -> str | None:
    """Tokens as text; None if they end inside a character."""
    try:
        return b"".join(
            bytes.fromhex(one.data) if one.data else one.text.encode() for one in tokens
        ).decode()
    except UnicodeDecodeError:
        return None


def _branches(chosen: str, kept: Sequence[str], beside: Sequence[Component]) -> Component:
    """The model's own answer and the branches that are kept; the keys [ and ] walk them."""
    buttons = [
        select_button(
            label_of(branch),
            target(branch=branch),
            f"alternative{' fw-bold text-body' if branch == chosen else ''}",
            label=f"Show the {label_of(branch)}{' branch' if branch else ''}",
            pressed=branch == chosen,
            further=data(branch=""),
        )
        for branch in ("", *kept)
    ]
    if chosen:
        gone = urlencode({"branch": "", "without": f"branches:{chosen}"}, safe=":,")
        buttons.append(select_button("remove", gone, "alternative", label="remove this branch"))
        buttons += beside
    return html.Div(
        html.Div(buttons, className="token-alternatives", title="Answers. Keys: [ and ]"),
        className="token-column",
        role="group",
        **aria(label="Answers"),
    )


def label_of(branch: str) -> str:
    """The first token of a branch, as the strip shows it."""
    text = branch_name(branch)
    return label(Token(-1, text, text), 12) if branch else "own answer"


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


def keep(branch: str, **more: Any) -> str:
    """What a button selects that goes on with a branch, and keeps it."""
    return f"{target(branch=branch, **more)}&{urlencode({'with': f'branches:{branch}'}, safe=':,')}"


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
    actual, before = run.tokens[pos].id, run.token_ids[run.prompt_length : pos]
    pairs = zip(run.top_ids[pos - 1].tolist(), run.top_probs[pos - 1].tolist(), strict=True)
    others = [(token, prob) for token, prob in pairs if token != actual and token in names]
    return html.Div(
        [
            select_button(
                [html.Span(label(names[token], 12)), html.Span(percent(prob), className="num")],
                keep(taken(before, token, names[token].text), pos=pos - 1, pins=(actual, token)),
                "alternative",
                label=f"Continue with {label(names[token])} instead of {label(run.tokens[pos])}",
            )
            for token, prob in others[:ALTERNATIVES]
        ],
        className="token-alternatives",
        title="What else the model considered here. Click one: the answer goes on from it, and the"
        " curves compare both.",
    )


DRAWING = Drawing(
    "tokens", (Output(STRIP, "children"),), draw, parts=(PageId.CELL, PageId.BRANCHES)
)
VIEW = View(
    "tokens",
    layout,
    drawings=(DRAWING,),
    exports={"tokens": Export(lambda _service, run, _chosen: [run_spec(run)])},
)
