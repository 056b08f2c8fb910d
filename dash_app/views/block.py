"""The block that writes the chosen state: its steps, heads, sources, score parts and neurons."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any

import numpy as np
from dash import Output, html
from dash.development.base_component import Component

from analysis.contract.specs import Floats, Token
from analysis.inside_block.specs import BlockSpec, OpenedBlock, ScoreParts, ScoreSpec
from dash_app.errors import explain
from dash_app.page.panel import aria, problem_notice, select_button, target
from dash_app.page.panes import Pane
from dash_app.page.token_labels import label, percent, quoted
from dash_app.state.context import Context, Drawing, PageId, Service, View, result_of, trace_of
from dash_app.state.exports import Export
from dash_app.state.selection import RunRef, Selection, resolve


class BlockId(StrEnum):
    """Ids of this view's components."""

    SUBTITLE = "block-subtitle"
    BODY = "block-body"
    WHY = "block-why"


NAME = "block"
#: Most keys, or most products, in a table.
LISTED = 8
HELP = (
    "The block whose output is the chosen cell, in the order in which the model computes it. For"
    " each vector, the table gives the length, the cosine with the state that comes in, and tokens."
    " The tokens of a state come from the logit lens, those of a part from its direct effect on the"
    " logits. The line of relative errors says how exactly the parts sum to the whole.",
    "A score is the scaled product of query and key, before soft cap, mask and softmax. Content"
    " is the score if both were at the same position. Position is what their distance changes"
    " (rotary position); it is 0 in a model whose states contain the positions. Mask also shows the"
    " bias that some models add by distance (ALiBi).",
    "Why a head looks at a key: if the norms' factors are frozen, the score is bilinear in the"
    " states of query and key. It is then the sum over all pairs of earlier components (Elhage et"
    " al., 2021). The table lists the largest pairs. Click a head or a key to choose it.",
    "Neurons: the column Logit is the activation times what one unit of it adds to the token's"
    " logit. Reads: tokens whose embeddings point along the neuron's input weights. Writes: tokens"
    " that the neuron promotes.",
)


def layout(_context: Context) -> dict[str, Any]:
    """The tables; the selection is their only option."""
    body = html.Div(
        [html.Div(id=BlockId.BODY), html.Div(id=BlockId.WHY)],
        className="scroll-x", tabIndex="0", **aria(label="Inside the block"),
    )  # fmt: skip
    pane = Pane(
        NAME,
        "Block",
        "What happens inside the block",
        body,
        HELP,
        caption="The block that writes the chosen state, step by step.",
        caption_id=BlockId.SUBTITLE,
    )
    return {pane.name: pane}


def is_open(selection: Selection) -> bool:
    """Whether the pane is on top of its panel; if it is not, nothing is computed."""
    return NAME in selection.panes and selection.page == "explore"


def block_spec(run: RunRef, selection: Selection) -> BlockSpec:
    """The spec of the block that writes the chosen cell; for the embedding, of the first block."""
    chosen = resolve(selection, run)
    token, foil = (
        one if one is not None and one < run.vocab else None
        for one in (selection.token, selection.foil)
    )
    return BlockSpec(max(chosen.row - 1, 0), chosen.pos, token=token, foil=foil)


def chosen_pair(found: OpenedBlock, selection: Selection) -> tuple[int, int] | None:
    """The head and the key whose score is explained; None if there are no heads.

    The head is the one chosen in this layer, or else the one that writes most. The key is that of
    the chosen link if the link belongs to this layer and position, or else the key with the largest
    weight.
    """
    if not len(found.weights):
        return None
    here = selection.layer in (None, found.layer)
    heads = [head for head in selection.heads if here and head < len(found.weights)]
    sizes = np.nan_to_num(found.head_lengths, nan=-1.0)
    head = heads[0] if heads else int(sizes.argmax())
    kind, *numbers = selection.link.split(":") if selection.link else ("",)
    if kind == "attention":
        layer, key, position, _ = map(int, numbers)
        if (layer, position) == (found.layer, found.position) and key <= position:
            return head, key
    return head, int(np.nan_to_num(found.weights[head]).argmax())


def draw(service: Service, run: RunRef, selection: Selection) -> tuple[str, list[Component]]:
    """The caption, and the tables of steps, heads, sources and neurons."""
    if not is_open(selection):
        return "", []
    try:
        found = service.ask(trace_of(run), block_spec(run, selection))
        tokens = result_of(service, run).tokens
        known = {token.id: token for token in (*tokens, *found.vocabulary)}
        pair = chosen_pair(found, selection)
        parts = [steps(found, known), heads(found, known, pair), sources(found, tokens, pair),
                 neurons(found, known), errors(found)]  # fmt: skip
        order = " Attention and MLP read the same state." if found.parallel else ""
        where = f"{quoted(tokens[found.position])} (position {found.position})"
    except Exception as error:  # noqa: BLE001 - shown in place of the tables
        return "", [problem_notice(explain(error))]
    return f"Layer {found.layer} at {where}, step by step.{order}", list(filter(None, parts))


def draw_why(service: Service, run: RunRef, selection: Selection) -> list[Component]:
    """The largest products of earlier components in one score."""
    if not is_open(selection):
        return []
    try:
        found = service.ask(trace_of(run), block_spec(run, selection))
        pair = chosen_pair(found, selection)
        if pair is None or found.scores_missing:
            return []
        spec = ScoreSpec(found.layer, pair[0], found.position, pair[1])
        parts = service.ask(trace_of(run), spec)
        return [why(parts, result_of(service, run).tokens)]
    except Exception as error:  # noqa: BLE001 - shown in place of the table
        return [problem_notice(explain(error))]


def words(ids: Iterable[int], known: dict[int, Token]) -> str:
    """Tokens side by side; nothing for ids below 0."""
    return "  ".join(label(known[int(one)], 12) for one in ids if int(one) >= 0)


def table(title: str, head: Sequence[str], rows: Sequence[Component], note: str = "") -> Component:
    """A table with its heading and a line below."""
    cells = [html.Th(text, scope="col") for text in head]
    return html.Section(
        [
            html.H3(title, className="sheet-group"),
            html.Table(
                [html.Thead(html.Tr(cells)), html.Tbody(list(rows))],
                className="table contributions",
            ),
            html.P(note, className="prompt-hint") if note else None,
        ],
        **aria(label=title),
    )


def row(name: Any, *cells: str, mono: int = 0, is_chosen: bool = False) -> Component:
    """A row: its name, numbers, and at the end ``mono`` cells of tokens."""
    numbers = len(cells) - mono
    return html.Tr(
        [
            html.Th(name, scope="row"),
            *(
                html.Td(text, className="num" if place < numbers else "mono")
                for place, text in enumerate(cells)
            ),
        ],
        className="is-chosen" if is_chosen else "",
    )


def number(value: float, digits: int = 2) -> str:
    """A number with its sign; a dash if there is none."""
    if np.isnan(value):
        return "–"
    return f"{value:+.{digits}f}".replace("-", "−")


def steps(found: OpenedBlock, known: dict[int, Token]) -> Component:
    """One row for each vector of the block."""
    rows = [
        row(
            name,
            f"{found.lengths[at]:.2f}",
            number(float(found.cosines[at])),
            ", ".join(str(one) for one in found.coordinates[at, :3]),
            words(found.step_tokens[at], known),
            mono=1,
        )
        for at, name in enumerate(found.steps)
    ]
    norms = [
        f"The norm before {_the(name)} multiplies the state by {found.norm_factors[at]:.3g} and by"
        f" its scale (cosine before and after: {found.norm_cosines[at]:.2f}). The scale is largest"
        f" at coordinates {_listed(found.norm_coordinates[at][:3], found.norm_scales[at][:3])}."
        for at, name in enumerate(found.norm_names)
    ]
    head = ("Step", "Length", "Cosine", "Largest coordinates", "Tokens")
    return table("Steps", head, rows, " ".join(norms))


def _the(name: str) -> str:
    return "the MLP" if name == "MLP" else name


def _listed(places: Iterable[int], scales: Iterable[float]) -> str:
    return ", ".join(f"{at} (× {by:.2f})" for at, by in zip(places, scales, strict=True))


def heads(
    found: OpenedBlock, known: dict[int, Token], pair: tuple[int, int] | None
) -> Component | None:
    """One row for each head, the one that writes most first."""
    if found.heads_missing or pair is None:
        return html.P(found.heads_missing, className="prompt-hint")
    rows = [
        row(
            select_button(
                f"Head {head}",
                target(layer=found.layer, heads=(head,)),
                "story-phrase",
                label=f"Choose head {head}",
                pressed=head == pair[0],
            ),
            f"{found.head_lengths[head]:.2f}",
            number(float(found.head_cosines[head])),
            words(found.head_tokens[head], known),
            mono=1,
            is_chosen=head == pair[0],
        )
        for head in np.argsort(-found.head_lengths).tolist()
    ]
    note = "Cosine: with the whole attention output."
    return table("Heads", ("Head", "Length", "Cosine", "Tokens"), rows, note)


def sources(
    found: OpenedBlock, tokens: Sequence[Token], pair: tuple[int, int] | None
) -> Component | None:
    """The keys with the largest weights in the chosen head."""
    if pair is None:
        return None
    head, chosen = pair
    order = np.argsort(-np.nan_to_num(found.weights[head]), kind="stable")[:LISTED].tolist()
    keys = order if chosen in order else [*order[:-1], chosen]
    rows = [
        row(
            select_button(
                f"{label(tokens[key], 14)} ({key})",
                target(link=f"attention:{found.layer}:{key}:{found.position}:{head}",
                       layer=found.layer, heads=(head,)),
                "story-phrase", label=f"Choose key {key}", pressed=key == chosen,
            ),
            number(float(found.content[head, key])),
            number(float(found.rotation[head, key])),
            _mask(float(found.bias[head, key])),
            percent(float(found.weights[head, key])),
            f"{found.brought[head, key]:.2f}",
            number(float(found.brought_cosines[head, key])),
            is_chosen=key == chosen,
        )
        for key in keys
    ]  # fmt: skip
    head_row = ("Key", "Content", "Position", "Mask", "Weight", "Brings", "Cosine")
    cap = f" The soft cap is {found.softcap:.3g}." if found.softcap else ""
    note = (
        f"Scores before the softmax.{cap} Brings: the length of what the head writes from the key."
    )
    note = found.scores_missing or note
    return table(f"Head {head}: what it reads", head_row, rows, note)


def _mask(value: float) -> str:
    if np.isnan(value):
        return "–"
    return "masked" if np.isinf(value) else ("0" if value == 0 else number(value))


def why(found: ScoreParts, tokens: Sequence[Token]) -> Component:
    """The largest products of a query part and a key part."""
    entries = found.largest(LISTED)
    rows = [
        row(_capital(entry.query_part), number(entry.score), _capital(entry.key_part), mono=1)
        for entry in entries
    ]
    rest = found.total - sum(entry.score for entry in entries)
    count = len(found.kinds) ** 2 - len(entries)
    rows.append(row(f"{count:,} other pairs", number(rest), "", mono=1))
    note = (
        f"All pairs sum to {number(found.total, 3)}; the model's own score is"
        f" {number(found.score, 3)}. Residual error: {found.residual_error:.1e}."
    )
    title = f"Why head {found.head} looks at {quoted(tokens[found.key])} ({found.key})"
    return table(title, ("In the query's state", "Score", "In the key's state"), rows, note)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def neurons(found: OpenedBlock, known: dict[int, Token]) -> Component | None:
    """The neurons that change the logit most."""
    if found.neurons_missing:
        return html.P(found.neurons_missing, className="prompt-hint")
    readers = [f"Reads ({name})" for name in found.neuron_readers]
    rows = [
        row(
            f"Neuron {int(neuron)}",
            number(float(found.activations[at])),
            number(float(found.effects[at]), 3),
            *(words(ids, known) for ids in found.neuron_reads[at]),
            words(found.neuron_writes[at], known),
            mono=len(readers) + 1,
        )
        for at, neuron in enumerate(found.neurons)
    ]
    head = ("Neuron", "Activation", "Logit", *readers, "Writes")
    note = f"Logit: what the neuron adds to the logit of {quoted(known[found.token])} directly."
    return table("Neurons", head, rows, note)


def errors(found: OpenedBlock) -> Component:
    """The errors of the sums in one line."""
    values: list[tuple[str, float | Floats]] = [
        ("sum of heads and biases", found.attention_error),
        ("sum of neurons and biases", found.mlp_error),
        ("sum of all parts", found.state_error),
    ]
    known = [f"{name}: {value:.1e}" for name, value in values if not np.isnan(value)]
    return html.P(f"Relative errors: {'; '.join(known)}.", className="prompt-hint")


PARTS = (PageId.CELL, PageId.FOCUS, PageId.LINK, PageId.METHOD, PageId.ARRANGEMENT)
DRAWING = Drawing(
    "block",
    (Output(BlockId.SUBTITLE, "children"), Output(BlockId.BODY, "children")),
    draw,
    parts=PARTS,
)
WHY = Drawing("why", (Output(BlockId.WHY, "children"),), draw_why, parts=PARTS)
VIEW = View(
    "block",
    layout,
    drawings=(DRAWING, WHY),
    exports={"block": Export(lambda _service, run, chosen: [block_spec(run, chosen)])},
)
