"""The inspector of the flow: what a link writes and does to the answer, its neurons, and a head."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from dash.development.base_component import Component

from analysis.attribution.specs import AttributionSpec
from analysis.contract.choices import ATTENTION, LINEAR_HEAD, SEPARATE_HEADS, Situation
from analysis.contract.specs import PART_NAMES, Token
from analysis.errors import SpecError
from analysis.flow_graph.results import LINK_KINDS, Graph, LinkReading, Neurons
from analysis.flow_graph.specs import FlowSpec, LinkSpec
from analysis.lens.specs import PromotedSpec
from analysis.tracing.edits import describe, to_text
from analysis.tracing.interventions import Ablate, KnockOut, RunEdit
from analysis.tracing.specs import PatternSpec, RunResult
from dash_app.errors import explain
from dash_app.page.panel import edit_button, fact, problem_notice, select_button, target
from dash_app.page.thin_layout import html
from dash_app.page.token_labels import label, percent, quoted, row_name, tokens_by_id
from dash_app.state.context import Service, result_of, trace_of
from dash_app.state.selection import Chosen, RunRef, Selection, resolve
from dash_app.views.flow.specs import link, wanted
from dash_app.views.flow.specs import neurons as neurons_of

HINT = (
    "Click a link in the picture or the list to see what it writes. For an MLP you also see the"
    " neurons."
)
_NAMES = {**PART_NAMES, "residual": "residual", "bias": "bias"}


def inspect(service: Service, run: RunRef, selection: Selection) -> list[Component]:
    """The chosen link, decoded to tokens."""
    try:
        spec = link(selection)
        if spec is None:
            return [html.P(HINT, className="prompt-hint")]
        reading = service.ask(trace_of(run), spec)
        shown = [*_change(spec, run), _reading(reading, result_of(service, run))]
        if spec.kind == "mlp":
            shown.append(_most_responsible(service, run, spec))
        return [html.Div(shown, className="flow-reading")]
    except Exception as error:  # noqa: BLE001 - shown in place of the link
        return [problem_notice(explain(error))]


def _change(spec: LinkSpec, run: RunRef) -> list[Component]:
    """The button that edits the run at a link of attention or of an MLP."""
    edit: RunEdit
    if spec.kind == "attention":
        head = spec.head if spec.head is not None and spec.head >= 0 else None
        edit, text = KnockOut(spec.layer, head, spec.target_pos, spec.source_pos), "Cut this link"
    elif spec.kind == "mlp":
        edit, text = Ablate("mlp_output", spec.layer, pos=spec.target_pos), "Set this MLP to zero"
    else:
        return []
    return [edit_button(text, to_text(edit), run.edits, describe(edit))]


def _most_responsible(service: Service, run: RunRef, spec: LinkSpec) -> Component:
    try:
        neurons = service.ask(trace_of(run), neurons_of(spec))
        token = tokens_by_id(service, run, [neurons.token])[neurons.token]
        return _neurons(neurons, label(token), spec, run.edits)
    except Exception as error:  # noqa: BLE001 - a mixture of experts has no single set of neurons
        return problem_notice(explain(error))


def _reading(reading: LinkReading, run: RunResult) -> Component:
    source, target = (
        f"{label(run.tokens[pos])} ({pos})" for pos in (reading.source_pos, reading.target_pos)
    )
    part = f"head {reading.head} of" if reading.head >= 0 else f"{_NAMES[reading.kind]} of"
    title = f"What {part} layer {reading.layer} writes"
    if reading.kind == "residual":
        title = f"The residual, {row_name(reading.layer)}"
    moved = f"from {source} to {target}" if reading.source_pos != reading.target_pos else target
    facts = (
        ("Position", moved),
        ("Norm", f"{reading.norm:.2f}, {percent(reading.share_of_norm)} of the state's norm"),
        ("KL alone", f"{reading.kl_source:.2f} nats, KL(state ‖ link alone)"),
        ("KL without", f"{reading.kl_without:.3f} nats, KL(state ‖ state − link)"),
    )
    known = {token.id: token for token in reading.vocabulary}
    return html.Div(
        [
            html.H3(title, className="inspector-title"),
            html.Dl([fact(*pair) for pair in facts], className="inspector-facts"),
            listed_tokens("Promotes", reading.promoted, reading.promoted_logits, known),
            listed_tokens("Suppresses", reading.suppressed, reading.suppressed_logits, known),
        ],
        className="inspector",
    )


def listed_tokens(
    title: str, ids: Iterable[int], logits: Iterable[float], known: dict[int, Token]
) -> Component:
    """Tokens with their logits, as one fact of an inspector."""
    pairs = zip(ids, logits, strict=True)
    items = [
        html.Li([html.Span(label(known[int(token)], 16), className="mono"), f" {logit:+.2f}"])
        for token, logit in pairs
    ]
    return html.Div(
        [html.Span(title, className="inspector-key"), html.Ul(items, className="token-list")],
        className="inspector-row",
    )


def _neurons(found: Neurons, what: str, spec: LinkSpec, edits: tuple[str, ...]) -> Component:
    heads = ("Neuron", "Activation", "Logit", "Promotes", "Change")
    rows = _neuron_rows(found, spec, edits)
    return html.Div(
        [
            html.H3(
                f"Neurons most responsible for {what}: {len(rows)} of {found.size:,}",
                className="inspector-title",
            ),
            html.Table(
                [
                    html.Thead(html.Tr([html.Th(head, scope="col") for head in heads])),
                    html.Tbody(rows),
                ],
                className="table ledger-table",
            ),
            html.P(
                f"Logit: activation times output direction. The whole MLP adds {found.total:+.3f}"
                f" to the logit of {what}, the model's choice at this position.",
                className="prompt-hint",
            ),
        ],
        className="inspector",
    )


def _zero(spec: LinkSpec, neuron: int, edits: tuple[str, ...]) -> Component:
    """The button that sets a neuron to zero at the link's position."""
    edit = Ablate("neuron", spec.layer, neuron=neuron, pos=spec.target_pos)
    return edit_button("Zero", to_text(edit), edits, describe(edit))


def _neuron_rows(found: Neurons, spec: LinkSpec, edits: tuple[str, ...]) -> list[Component]:
    known = {token.id: token for token in found.vocabulary}
    return [
        html.Tr(
            [
                html.Td(f"{number}", className="num"),
                html.Td(f"{activation:.2f}", className="num"),
                html.Td(f"{logit:+.3f}", className="num"),
                html.Td(" ".join(label(known[token], 12) for token in tokens), className="mono"),
                html.Td(_zero(spec, number, edits)),
            ]
        )
        for number, activation, logit, tokens in zip(
            found.neuron.tolist(),
            found.activation.tolist(),
            found.logit.tolist(),
            found.tokens.tolist(),
            strict=True,
        )
    ]


HEAD_HINT = "Choose a head in the attention panel, or click it in the contributions."
#: Tokens that a head reads most, tokens that it promotes, and its strongest links.
READS, WRITES, LINKS = 3, 6, 3
NO_EFFECT = "Only attention and MLP links can be cut. This link has no effect of its own."
NOT_IN_GRAPH = "The graph of effects does not have this link: it leads to no logit at position {}."
JOINED = (
    "The graph has the effects of all heads together, and effects do not add up. Choose a link of"
    " that graph, or split the heads."
)


def inspect_head(service: Service, run: RunRef, selection: Selection) -> list[Component]:
    """Each chosen head at the chosen position: what it reads, writes and does to the answer."""
    chosen = resolve(selection, run)
    if not chosen.heads:
        return [html.P(HEAD_HINT, className="prompt-hint")]
    try:
        return [
            part for head in chosen.heads for part in _head(service, run, selection, chosen, head)
        ]
    except Exception as error:  # noqa: BLE001 - shown in place of the head
        return [problem_notice(explain(error))]


def specs(service: Service, run: RunRef, selection: Selection) -> list[Any]:
    """The requests of the chosen heads: what each promotes, and the direct contributions.

    The attention weights are in the export of the attention panel.
    """
    chosen = resolve(selection, run)
    if not chosen.heads:
        return []
    graph = _spec(run, selection)
    direct = AttributionSpec(chosen.pos, graph.token, graph.foil)
    written = _promoted(result_of(service, run), chosen, chosen.heads)
    return [*written, direct]


def _promoted(result: RunResult, chosen: Chosen, heads: Iterable[int]) -> list[PromotedSpec]:
    """What each head promotes; nothing if the model's heads cannot be read separately."""
    here = Situation(result.info)
    if not all(need.met(here) for need in (ATTENTION, SEPARATE_HEADS, LINEAR_HEAD)):
        return []
    return [
        PromotedSpec("head_output", chosen.layer, chosen.pos, head=head, k=WRITES) for head in heads
    ]


def _head(
    service: Service, run: RunRef, selection: Selection, chosen: Chosen, head: int
) -> list[Component]:
    result = result_of(service, run)
    place = f"{label(result.tokens[chosen.pos])} ({chosen.pos})"
    facts = [
        *_reads(service, run, result, chosen, head),
        _direct(service, run, selection, chosen, head),
        *_effects_of_head(service, run, selection, chosen, head),
    ]
    return [
        html.H3(f"Layer {chosen.layer}, head {head} at {place}", className="inspector-title"),
        html.Dl([fact(*pair) for pair in facts], className="inspector-facts"),
        *_writes(service, run, result, chosen, head),
        *([] if selection.method == "effect" else [_estimate_button("each")]),
    ]


def _reads(
    service: Service, run: RunRef, result: RunResult, chosen: Chosen, head: int
) -> Iterator[tuple[str, str]]:
    """The tokens with the largest attention weights, and how much the head writes."""
    found = service.ask(trace_of(run), PatternSpec(chosen.layer))
    weights = found.pattern[head, chosen.pos, : chosen.pos + 1]
    if np.isnan(weights).any():
        yield "Reads", "Nothing: this layer has no attention."
        return
    first = np.argsort(-weights, kind="stable")[:READS].tolist()
    words = [f"{label(result.tokens[key])} ({key}) {percent(float(weights[key]))}" for key in first]
    yield "Reads", ", ".join(words)
    share = percent(float(found.head_share[head, chosen.pos]))
    norm = float(found.head_norm[head, chosen.pos])
    yield "Norm", f"{norm:.2f}, {share} of the sum over the layer's heads"


def _direct(
    service: Service, run: RunRef, selection: Selection, chosen: Chosen, head: int
) -> tuple[str, str]:
    """The direct contribution to the chosen logit."""
    spec = _spec(run, selection)
    found = service.ask(trace_of(run), AttributionSpec(chosen.pos, spec.token, spec.foil))
    logit = float(found.heads[chosen.layer, head])
    rank = 1 + int((np.abs(found.heads) > abs(logit)).sum())
    name = _logit_name(service, run, found.token, found.foil)
    return "Direct", f"{_number(logit)} to {name}; rank {rank} of {found.heads.size} heads by size"


def _writes(
    service: Service, run: RunRef, result: RunResult, chosen: Chosen, head: int
) -> list[Component]:
    shown: list[Component] = []
    for spec in _promoted(result, chosen, [head]):
        found = service.ask(trace_of(run), spec)
        known = {token.id: token for token in found.vocabulary}
        shown += [
            listed_tokens("Promotes", found.promoted, found.promoted_logits, known),
            listed_tokens("Suppresses", found.suppressed, found.suppressed_logits, known),
        ]
    return shown


def _effects_of_head(
    service: Service, run: RunRef, selection: Selection, chosen: Chosen, head: int
) -> Iterator[tuple[str, str]]:
    """The strongest links of the head into the chosen position, if their effects are known."""
    graph = _graph(service, run, selection, split="each")
    if graph is None:
        return
    tokens = result_of(service, run).tokens
    here = [
        (source, effect)
        for (kind, layer, of, source, to), effect in _by_link(graph).items()
        if (kind, layer, of, to) == ("attention", chosen.layer, head, chosen.pos)
    ]
    here.sort(key=lambda one: -abs(one[1]))
    words = [f"{label(tokens[source])} ({source}) {_number(effect)}" for source, effect in here]
    none = "None: no link of this head leads to this logit."
    yield "Link effects", f"{', '.join(words[:LINKS])} (estimated)" if words else none


def effect_of_link(service: Service, run: RunRef, selection: Selection) -> list[Component]:
    """How much the chosen logit falls if the chosen link is cut, or a button that estimates it."""
    try:
        spec = link(selection)
        if spec is None:
            return []
        return [html.H3("Effect on the answer", className="inspector-title"),
                *_effect(service, run, selection, spec.kind)]  # fmt: skip
    except Exception as error:  # noqa: BLE001 - shown in place of the effect
        return [problem_notice(explain(error))]


def _effect(service: Service, run: RunRef, selection: Selection, kind: str) -> list[Component]:
    if kind not in ("attention", "mlp"):
        return [html.P(NO_EFFECT, className="prompt-hint")]
    layer, source, to, head = map(int, selection.link.split(":")[1:])
    split = "each" if kind == "attention" and head >= 0 else "sum"
    graph = _graph(service, run, selection, split=split)
    if graph is None:
        return [_estimate_button(split)]
    known, key = _by_link(graph), (kind, layer, head, source, to)
    if key not in known:
        heads = {of for what, at, of, *_ in known if (what, at) == (kind, layer)}
        text = JOINED if heads and head not in heads else NOT_IN_GRAPH.format(graph.position)
        return [html.P(text, className="prompt-hint")]
    name = _logit_name(service, run, graph.token, graph.foil)
    value = f"{_number(known[key])} of {_number(graph.logit)}: the fall of {name} if it is cut"
    return [html.Dl(fact("Estimated", value), className="inspector-facts")]


def _spec(run: RunRef, selection: Selection, split: str = "sum") -> FlowSpec:
    """The graph of effects on the chosen logit at the chosen position."""
    found = wanted(run, selection.model_copy(update={"method": "effect", "split": split}))
    if found is None:
        raise SpecError("This state has no graph of effects.", "Choose a higher row.")
    return found


def _graph(service: Service, run: RunRef, selection: Selection, *, split: str) -> Graph | None:
    """The graph of effects; it is computed only while the flow shows it."""
    spec = _spec(run, selection, split)
    if selection.method == "effect" and (selection.split == "each") == (split == "each"):
        return service.ask(trace_of(run), spec)
    return service.peek(trace_of(run), spec)


def _by_link(graph: Graph) -> dict[tuple[str, int, int, int, int], float]:
    """The effect by kind, layer, head, source and target."""
    columns = (
        graph.link_kind, graph.link_layer, graph.link_head, graph.node_pos[graph.link_source],
        graph.node_pos[graph.link_target], graph.link_share,
    )  # fmt: skip
    return {
        (LINK_KINDS[kind], layer, head, source, to): effect
        for kind, layer, head, source, to, effect in zip(
            *(column.tolist() for column in columns), strict=True
        )
    }


def _estimate_button(split: str) -> Component:
    return select_button(
        "Estimate effects",
        target(method="effect", split=split),
        "btn btn-outline-secondary",
        label="Estimate effects: show what cutting each link does to the answer's logit",
    )


def _logit_name(service: Service, run: RunRef, token: int, foil: int | None) -> str:
    ids = [token] if foil is None or foil < 0 else [token, foil]
    known = tokens_by_id(service, run, ids)
    return " − ".join(f"logit({quoted(known[number])})" for number in ids)


def _number(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")
