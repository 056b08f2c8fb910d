"""The block that writes the chosen state: its steps, heads, sources, score parts and neurons."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from typing import Any

import dash_bootstrap_components as dbc
import numpy as np
from dash import Dash, Input, Output, State, dcc, set_props
from dash.development.base_component import Component

from analysis.contract.choices import Situation
from analysis.inside_block.specs import BlockSpec, ExpertSpec, OpenedBlock, ScoreSpec
from analysis.learned import library
from analysis.lens.options import DECODERS
from analysis.tasks.neuron_text_specs import MOST_CHARACTERS, NeuronTextSpec
from dash_app.errors import explain
from dash_app.jobs.job_and_draw import (
    JobParts,
    Work,
    progress_bar,
    register_job,
    start_button,
    stop_button,
    stored_problem,
)
from dash_app.page.panel import aria, field, menu, options_of, problem_notice
from dash_app.page.panes import Pane
from dash_app.page.thin_layout import html
from dash_app.page.token_labels import quoted
from dash_app.state.context import (
    Context,
    Drawing,
    NewJob,
    PageId,
    Service,
    View,
    result_of,
    trace_of,
)
from dash_app.state.exports import Export
from dash_app.state.selection import RunRef, Selection, resolve
from dash_app.views.block import tables
from dash_app.views.block.tables import errors, heads, sources, steps, why


class BlockId(StrEnum):
    """Ids of this view's components."""

    SUBTITLE = "block-subtitle"
    BODY = "block-body"
    WHY = "block-why"
    SUITE = "block-suite"
    OWN = "block-own"
    SAID = "block-texts-said"
    START = "block-texts-start"
    STOP = "block-texts-stop"
    PROGRESS = "block-texts-progress"
    LAST = "block-texts-last"
    TEXTS = "block-texts"


NAME = "block"
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
    " that the neuron promotes. Zero: an edit that sets the neuron to zero at this position. Find"
    " texts runs a suite, or your own texts, and lists those on which these neurons fire most.",
    "Experts: a layer with experts chooses some of them by a router. Each chosen expert is run"
    " alone. Its weight is the router's.",
)


def layout(_context: Context) -> dict[str, Any]:
    """The tables; the selection is their only option."""
    own = dbc.Textarea(
        id=BlockId.OWN, size="sm", rows=2, maxLength=MOST_CHARACTERS, debounce=True,
        placeholder="One text a line. They replace the suite.",
    )  # fmt: skip
    body = html.Div(
        [
            dcc.Store(id=BlockId.LAST),
            html.Div(id=BlockId.BODY),
            html.Div(
                [
                    html.Div(id=BlockId.SUITE),
                    html.Div(field("Your own texts", own), className="flex-grow-1"),
                    start_button("Find texts", BlockId.START),
                ],
                className="controls align-items-center my-2",
            ),
            progress_bar(BlockId.PROGRESS, stop_button(BlockId.STOP)),
            html.Div(id=BlockId.SAID),
            html.Div(id=BlockId.TEXTS, **aria(live="polite")),
            html.Div(id=BlockId.WHY),
        ],
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
    usable = not DECODERS[selection.decoder].unavailable(_situation(run))
    decoder = selection.decoder if usable else DECODERS.default
    return BlockSpec(max(chosen.row - 1, 0), chosen.pos, token=token, foil=foil, decoder=decoder)


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
        result = result_of(service, run)
        spec, tokens = block_spec(run, selection), result.tokens
        found = service.ask(trace_of(run), spec)
        known = {token.id: token for token in (*tokens, *found.vocabulary)}
        pair = chosen_pair(found, selection)
        parts = [
            _decoder_menu(run, spec), steps(found, known), heads(found, known, pair),
            sources(found, tokens, pair), errors(found), tables.neurons(found, known, run.edits),
            _experts(service, run, spec) if found.neurons_missing else None,
        ]  # fmt: skip
        order = " Attention and MLP read the same state." if found.parallel else ""
        where = f"{quoted(tokens[found.position])} (position {found.position})"
    except Exception as error:  # noqa: BLE001 - shown in place of the tables
        return "", [problem_notice(explain(error))]
    return f"Layer {found.layer} at {where}, step by step.{order}", list(filter(None, parts))


def _decoder_menu(run: RunRef, spec: BlockSpec) -> Component:
    """The menu of decoders; the heatmap has the same choice."""
    options = options_of(DECODERS, _situation(run))
    found = menu("decoder", "Decoder", options, spec.decoder, derived=True, place=NAME)
    return html.Div(found, className="controls")


def _situation(run: RunRef) -> Situation:
    """What decides which decoders the model has."""
    learned = library.available(run.model) is not None
    return Situation(learned_lens=learned, options={"component": "block_output"})


def _experts(service: Service, run: RunRef, spec: BlockSpec) -> Component | None:
    """The chosen experts of a layer whose neurons can't be separated."""
    chosen = ExpertSpec(spec.layer, spec.position, spec.k, spec.token, spec.foil)
    found = service.ask(trace_of(run), chosen)
    return tables.experts(found, {token.id: token for token in found.vocabulary})


def draw_texts(
    service: Service, run: RunRef, selection: Selection, own: Any
) -> tuple[list[Component], list[Component], bool]:
    """The menu of suites, the texts of the listed neurons, and whether the button is disabled."""
    if not is_open(selection):
        return [], [], True
    try:
        found = service.ask(trace_of(run), block_spec(run, selection))
        shown = tables.texts(service, run, selection, found, own) if len(found.neurons) else []
    except Exception as error:  # noqa: BLE001 - shown in place of the texts
        return [tables.suite_menu(selection)], [problem_notice(explain(error))], True
    if not len(found.neurons):
        return [], [], True
    return [tables.suite_menu(selection)], shown, False


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


PARTS = (
    PageId.CELL, PageId.FOCUS, PageId.LINK, PageId.METHOD, PageId.LENS, PageId.ARRANGEMENT,
)  # fmt: skip
DRAWING = Drawing(
    "block",
    (
        Output(BlockId.SUBTITLE, "children"),
        Output(BlockId.BODY, "children"),
    ),
    draw,
    parts=PARTS,
)
WHY = Drawing("why", (Output(BlockId.WHY, "children"),), draw_why, parts=PARTS)
TEXTS = Drawing(
    "texts",
    (
        Output(BlockId.SUITE, "children"),
        Output(BlockId.TEXTS, "children"),
        Output(BlockId.START, "disabled"),
    ),
    draw_texts,
    parts=(*PARTS, PageId.SUITE),
    controls={"own": BlockId.OWN},
)
JOB = JobParts(BlockId.LAST, BlockId.PROGRESS, BlockId.STOP)


def searched(service: Service, spec: NeuronTextSpec, job: NewJob) -> dict[str, Any] | None:
    """Run the texts, and show a problem in the pane."""
    set_props(BlockId.SAID, {"children": []})
    found = tables.search(service, spec, job)
    problem = stored_problem(found)
    if problem is None:
        return found
    set_props(BlockId.SAID, {"children": [problem_notice(problem)]})
    return None


def register(app: Dash, context: Context) -> None:
    """Run texts on request."""

    def prepare(run: RunRef, selection: Selection, presses: Any, own: Any) -> Work | None:
        if not presses:
            return None
        spec = tables.text_spec(run, selection, block_spec(run, selection).layer, own)
        return partial(searched, context.service, spec)

    inputs: dict[str, Input | State] = {
        "presses": Input(BlockId.START, "n_clicks"),
        "own": State(BlockId.OWN, "value"),
    }
    register_job(app, context, TEXTS, JOB, prepare, inputs, patient=True)


def specs(_service: Service, run: RunRef, selection: Selection) -> list[Any]:
    """The requests of the tables."""
    return [block_spec(run, selection)]


VIEW = View(
    NAME, layout, register, drawings=(DRAWING, WHY, TEXTS), exports={"block": Export(specs)}
)
