"""The inspector of the flow: what a link writes, and the neurons behind an MLP's link."""

from __future__ import annotations

from collections.abc import Iterable

from dash import html
from dash.development.base_component import Component

from analysis.contract.specs import PART_NAMES, Token
from analysis.flow_graph.results import LinkReading, Neurons
from analysis.flow_graph.specs import LinkSpec
from analysis.tracing.edits import describe, to_text
from analysis.tracing.interventions import Ablate, KnockOut, RunEdit
from analysis.tracing.specs import RunResult
from dash_app.errors import explain
from dash_app.page.logit_tokens import tokens_by_id
from dash_app.page.panel import edit_button, fact, problem_notice
from dash_app.page.token_labels import label, percent, row_name
from dash_app.state.context import Service, result_of, trace_of
from dash_app.state.selection import RunRef, Selection
from dash_app.views.flow.specs import link
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
        return _neurons(neurons, label(token))
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


def _neurons(found: Neurons, what: str) -> Component:
    heads = ("Neuron", "Activation", "Logit", "Promotes")
    rows = _neuron_rows(found)
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


def _neuron_rows(found: Neurons) -> list[Component]:
    known = {token.id: token for token in found.vocabulary}
    return [
        html.Tr(
            [
                html.Td(f"{number}", className="num"),
                html.Td(f"{activation:.2f}", className="num"),
                html.Td(f"{logit:+.3f}", className="num"),
                html.Td(" ".join(label(known[token], 12) for token in tokens), className="mono"),
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
