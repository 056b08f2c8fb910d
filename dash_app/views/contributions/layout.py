"""The panel of contributions: a sortable table with bars."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from dash import html
from dash.development.base_component import Component

from analysis.attribution.specs import Attribution, Contribution
from analysis.contract.specs import PART_NAMES
from dash_app.page.panel import aria, control, radio, select_button, target
from dash_app.page.panes import Pane
from dash_app.state.context import Context


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
