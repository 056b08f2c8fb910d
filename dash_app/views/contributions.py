"""The contribution of every part of the model to one token's logit, as a sortable table."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from dash import Output
from dash.development.base_component import Component

from analysis.attribution.specs import Attribution, AttributionSpec, Contribution
from analysis.contract.specs import PART_NAMES
from dash_app.errors import explain
from dash_app.page.panel import aria, control, problem_notice, radio, select_button, target
from dash_app.page.panes import Pane
from dash_app.page.thin_layout import html
from dash_app.page.token_labels import logit_controls, logit_options, quoted, tokens_by_id
from dash_app.state.context import Context, Drawing, PageId, Service, View, result_of, trace_of
from dash_app.state.exports import Export
from dash_app.state.selection import Chosen, RunRef, Selection, resolve


class ContributionsId(StrEnum):
    """Ids of this view's components."""

    ORDER = "contributions-order"
    COUNT = "contributions-count"
    TOKENS = "contributions-tokens"
    SUBTITLE = "contributions-subtitle"
    TABLE = "contributions-table"


ORDERS = {"size": "Size", "raises": "Raises", "lowers": "Lowers", "model": "Layer"}
#: Number of parts in the table; 0: all.
COUNTS = {"20": "20", "0": "All"}
NAMES = {
    "embedding": "embedding",
    "attention_bias": "attention bias",
    **PART_NAMES,
    "bias": "biases of final norm and unembedding",
}
HELP = (
    "Direct logit attribution: the last state is the sum of the outputs of the embedding, every"
    " head, every MLP and every bias. With the scale of the final norm frozen at that state, the"
    " token's logit is the sum of U[token] · N(part) over these parts (Elhage et al., 2021).",
    "This is the direct effect only: the effect of a head through a later head or MLP is not"
    " included. Choose a token to subtract to see what decides between two tokens.",
    "Size lists the largest contributions of either sign first. Click a head to see its attention."
    " Click an MLP or the embedding to choose the row that it writes to.",
)


def layout(_context: Context) -> dict[str, Any]:
    """The table; the tokens, the order and the number of parts are options."""
    table = html.Div(
        id=ContributionsId.TABLE, className="scroll-x", tabIndex="0", **aria(label="Contributions")
    )
    pane = Pane(
        "contributions",
        "Contributions",
        "What writes the answer",
        table,
        HELP,
        caption="The contribution of every head, MLP, embedding and bias to the token's logit.",
        caption_id=ContributionsId.SUBTITLE,
        options={
            "What": html.Div(id=ContributionsId.TOKENS),
            "Shown": [
                control("Order", radio(ContributionsId.ORDER, ORDERS)),
                control("Parts", radio(ContributionsId.COUNT, COUNTS)),
            ],
        },
    )
    return {pane.name: pane}


def table(
    found: Attribution, listed: Sequence[Contribution], chosen: Contribution | None
) -> list[Component]:
    """The listed parts, one row for the others, and the sum with the model's own logit."""
    rest = found.total - sum(part.logit for part in listed)
    largest = max(abs(rest), *(abs(part.logit) for part in found.parts))
    rows = [_row(part, found.position, largest, is_chosen=part == chosen) for part in listed]
    others = len(found.parts) - len(listed)
    if others:
        rows.append(_line(f"{others} other parts", rest, largest))
    heads = [html.Th(text, scope="col") for text in ("Part", "", "Logit")]
    own = "logit" if found.foil is None else "difference of the two logits"
    summary = (
        f"All {len(found.parts)} parts sum to {_number(found.total)}. The model's own {own} before"
        f" any soft cap is {_number(found.logit)}. Residual error: {found.residual_error:.1e}."
    )
    return [
        html.Table(
            [html.Thead(html.Tr(heads)), html.Tbody(rows)],
            className="table contributions",
        ),
        html.P(summary, className="prompt-hint"),
    ]


def _row(part: Contribution, position: int, largest: float, *, is_chosen: bool) -> Component:
    where = _target(part, position)
    text = part_name(part)
    label = f"Choose {text}"
    shown = (
        select_button(text, where, "story-phrase", label=label, pressed=is_chosen)
        if where
        else text
    )
    return _line(shown, part.logit, largest, is_chosen=is_chosen)


def part_name(part: Contribution) -> str:
    """Such as "Layer 3, head 2" or "Embedding"."""
    name = NAMES.get(part.kind, f"head {part.head}")
    text = name if part.layer is None else f"layer {part.layer}, {name}"
    return text[0].upper() + text[1:]


def _target(part: Contribution, position: int) -> str:
    """The target of a click: a head in its layer, or the row that the part writes to."""
    if part.kind == "embedding":
        return target(row=0, pos=position)
    if part.layer is None:
        return ""
    if part.head is not None:
        return target(layer=part.layer, heads=(part.head,), pos=position)
    return target(row=part.layer + 1, layer=part.layer, pos=position)


def _line(
    name: Component | str, logit: float, largest: float, *, is_chosen: bool = False
) -> Component:
    return html.Tr(
        [
            html.Th(name, scope="row"),
            html.Td(_bar(logit, largest)),
            html.Td(_number(logit), className="num"),
        ],
        className="is-chosen" if is_chosen else "",
    )


def _bar(logit: float, largest: float) -> Component:
    """A bar from the middle: to the right if it raises the logit, else to the left."""
    width = 50.0 * min(abs(logit) / max(largest, 1e-12), 1.0)
    start = 50.0 if logit >= 0 else 50.0 - width
    colour = "var(--positive)" if logit >= 0 else "var(--negative)"
    style = {"marginLeft": f"{start:.1f}%", "width": f"{width:.1f}%", "background": colour}
    fill = html.Span(className="bar-fill", style=style)
    return html.Div(
        fill,
        className="bar-track",
        **aria(hidden="true"),
    )


def _number(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


#: Line, switches of the tokens, table.
Shown = tuple[str, list[Component], list[Component]]


def spec(run: RunRef, selection: Selection) -> AttributionSpec:
    """The spec of the selected attribution; unknown tokens are ignored."""
    token, foil = (
        one if one is not None and one < run.vocab else None
        for one in (selection.token, selection.foil)
    )
    return AttributionSpec(resolve(selection, run).pos, token, foil)


def draw(service: Service, run: RunRef, selection: Selection, order: str, count: str) -> Shown:
    """The subtitle, the tokens to choose from, and the table.

    Args:
        service: Computes.
        run: The run.
        selection: The position and the tokens; its layer, heads and row are marked.
        order: "size", "raises", "lowers" or "model".
        count: Number of parts to list; "0": all.
    """
    controls: list[Component] = []
    try:
        tokens, foils = logit_options(service, run, selection)
        controls = logit_controls(selection, tokens, foils)
        found = service.ask(trace_of(run), spec(run, selection))
        most = int(count) if str(count) in COUNTS else int(next(iter(COUNTS)))
        listed = ranked(found, order)[: most or None]
        line = _summary(service, run, found)
        return line, controls, table(found, listed, _chosen(found, resolve(selection, run)))
    except Exception as error:  # noqa: BLE001 - shown in place of the table
        return "", controls, [problem_notice(explain(error))]


def ranked(found: Attribution, order: str) -> list[Contribution]:
    """The parts in one of the orders."""
    if order == "model":
        return list(found.parts)
    if order == "size":
        return sorted(found.parts, key=lambda part: -abs(part.logit))
    return sorted(found.parts, key=lambda part: part.logit, reverse=order == "raises")


def _chosen(found: Attribution, chosen: Chosen) -> Contribution | None:
    """The part that is selected: one head of the chosen layer, else the MLP of the chosen row."""
    head = chosen.heads[0] if len(chosen.heads) == 1 else None
    for part in found.parts:
        if head is not None and (part.layer, part.head) == (chosen.layer, head):
            return part
        if head is None and part.kind == "mlp" and part.layer == chosen.row - 1:
            return part
    return found.parts[0] if head is None and chosen.row == 0 else None


def _summary(service: Service, run: RunRef, found: Attribution) -> str:
    tokens = [found.token] if found.foil is None else [found.token, found.foil]
    known = tokens_by_id(service, run, tokens)
    logit = f"the logit of {quoted(known[found.token])}"
    if found.foil is not None:
        logit += f" minus that of {quoted(known[found.foil])}"
    last: Any = result_of(service, run).tokens[found.position]
    return f"Contribution of each part to {logit} after {quoted(last)} (position {found.position})."


DRAWING = Drawing(
    "contributions",
    (
        Output(ContributionsId.SUBTITLE, "children"),
        Output(ContributionsId.TOKENS, "children"),
        Output(ContributionsId.TABLE, "children"),
    ),
    draw,
    parts=(PageId.CELL, PageId.FOCUS, PageId.PINS, PageId.METHOD),
    controls={"order": ContributionsId.ORDER, "count": ContributionsId.COUNT},
)
VIEW = View(
    "contributions",
    layout,
    drawings=(DRAWING,),
    exports={"contributions": Export(lambda _service, run, chosen: [spec(run, chosen)])},
)
