"""Does it add up? The identities of a model, measured.

Each function gives the largest relative error of one identity on one trace:
the norm of the difference over the largest norm among the parts.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import torch

from analysis.attribution.direct import attribute_logit
from analysis.contract.ledger import Ledger, LedgerEntry, LedgerSpec, ModelLedgerSpec
from analysis.contract.specs import Floats, resolve_index
from analysis.errors import SpecError, UnsupportedModelError
from analysis.flow_graph import graph as flow_graph
from analysis.flow_graph.options import SHARES
from analysis.flow_graph.results import Graph
from analysis.flow_graph.specs import FlowSpec
from analysis.model.handle import Model, plain_logits, probes
from analysis.model.probe import LOOSE_TOLERANCE, tolerance
from analysis.tracing.capture import Trace, trace
from analysis.tracing.heads import has_heads, head_parts
from analysis.tracing.interventions import Patch
from analysis.tracing.storage import is_kept

#: A model that fails one of these is refused at load: every result depends on them.
ESSENTIAL = (1, 2, 3, 4, 5)
#: Sums of heads through an 8-bit layer: LLM.int8() rounds each token's input to 255 steps.
PACKED_TOLERANCE = 5e-2
Found = tuple[float, str]
Probe = tuple[Model, Trace, Trace]


def relative(difference: Floats, *parts: Floats) -> float:
    """Norm of the difference over the largest norm among the parts; NaN counts as infinite."""
    largest = max(float(np.linalg.norm(part)) for part in parts)
    error = float(np.linalg.norm(difference)) / max(largest, 1e-30)
    return error if np.isfinite(error) else float("inf")


def _capture(probe: Probe) -> Found:
    """Compare with one forward pass of the untouched model, or with the result of an earlier one.

    A run with interventions is checked by tracing its prompt without them.
    """
    model, one, _ = probe
    if one.interventions:
        clean = model.capture_errors.get((one.token_ids, "without interventions"))
        if clean is None:
            clean, _ = _capture((model, trace(model, one.token_ids), one))
            model.capture_errors.put((one.token_ids, "without interventions"), clean)
        return clean, "measured on the prompt without interventions"
    key = one.token_ids, hashlib.blake2b(np.ascontiguousarray(one.logits).data).digest()
    error = model.capture_errors.get(key)
    if error is None:
        plain = plain_logits(model, one.token_ids)
        error = relative(plain - one.logits, plain)
        model.capture_errors.put(key, error)
    return error, ""


def _stream(probe: Probe) -> Found:
    model, one, _ = probe
    errors, edited = [], one.edited_states[1:]
    for layer, after in enumerate(one.resid[1:]):
        parts = [one.kept(layer), one.attn_out[layer], one.mlp_out[layer]]
        parts += one.others(layer).values()
        whole: Floats = np.sum(parts, axis=0, dtype=np.float32)
        errors.append(relative((whole - after)[~edited[layer]], *parts, after))
    notes = [_whole(model)]
    if edited.any():
        notes.append(f"{edited.sum()} states were changed by interventions")
    return max(errors), "; ".join(note for note in notes if note)


def _whole(model: Model) -> str:
    """Blocks whose sum holds by definition: what they add was not split into parts."""
    count = sum(block.writes("whole_block") for block in model.stream.blocks)
    return f"{count} blocks can't be split into attention and MLP" if count else ""


def _lens(probe: Probe) -> Found:
    model, one, _ = probe
    readout = model.readout
    states = torch.from_numpy(one.resid[-1]).to(readout.device, readout.output_rows.dtype)
    found = readout.logits(states).cpu().numpy()
    return relative(found - one.logits, one.logits), ""


def _patterns(probe: Probe) -> Found:
    model, one, _ = probe
    attending = [i for i, block in enumerate(model.stream.blocks) if block.heads]
    layers = [layer for layer in attending if is_kept(one.pattern, layer)]
    if not layers:
        return 0.0, "no layer with attention" if not attending else "no pattern was kept"
    heads = (head for layer in layers for head in one.pattern_of(layer))
    future = max(float(np.abs(np.triu(head, 1)).max()) for head in heads)
    missing = np.concatenate([one.sink_of(layer).ravel() for layer in layers])
    notes = [_skipped(model, attending), _unkept(attending, layers), _empty(one)]
    if one.pattern_error:
        notes.append(f"patterns are kept in 16 bits, which round by up to {one.pattern_error:.2%}")
    if _has_sinks(model):
        notes.append(f"learned sinks take {float(missing.mean()):.1%} of the attention")
        missing = np.minimum(missing, 0.0)
    note = "; ".join(note for note in notes if note)
    return max(future, float(np.abs(missing).max())), note


def _empty(one: Trace) -> str:
    count = len(one.empty_queries)
    return f"{count} queries have no key left and get no attention output" if count else ""


def _has_sinks(model: Model) -> bool:
    return any(block.scaled_heads for block in model.stream.blocks) or any(
        name.endswith("sinks")
        for module in model.stream.attending
        for name, _ in module.named_parameters()
    )


def _unkept(attending: list[int], layers: list[int]) -> str:
    count = len(attending) - len(layers)
    return f"the patterns of {count} layers were not kept" if count else ""


def _skipped(model: Model, layers: list[int]) -> str:
    without = model.info.layers - len(layers)
    return f"{without} layers have no attention" if without else ""


def _heads(probe: Probe) -> Found:
    model, one, _ = probe
    errors = [0.0]
    opaque = [
        i for i, block in enumerate(model.stream.blocks) if block.heads and not has_heads(model, i)
    ]
    for layer in range(model.info.layers):
        if has_heads(model, layer) and is_kept(one.pattern, layer):
            parts = head_parts(model, one, layer)
            heads, bias = parts.heads().numpy(), parts.bias.numpy()
            whole = one.attn_out[layer]
            errors.append(relative(heads.sum(0) + bias - whole, whole, bias, *heads))
    note = f"not in {len(opaque)} layers, whose attention can't be split into heads"
    return max(errors), note if opaque else ""


def attribution_error(model: Model, states: Trace, position: int) -> Found:
    """The error of the sum of the parts, against the logit of the model's top token."""
    parts = attribute_logit(model, states, position, None, None)
    sizes = [abs(parts.logit), abs(parts.embedding), abs(parts.interventions)]
    sizes += [float(np.abs(part).max(initial=0.0)) for part in (parts.heads, parts.mlps)]
    note = "" if model.readout.softcap is None else "before the soft cap"
    return abs(parts.residual_error) / max(*sizes, 1e-30), note


def _attribution(probe: Probe) -> Found:
    model, one, _ = probe
    ends = (0, len(one.tokens) - 1)
    return max(attribution_error(model, one, position) for position in ends)


def shown_and_hidden(graph: Graph) -> float:
    """The error of a sum that must be 1: mass that arrives, ends in biases or sinks, is hidden."""
    arrived = graph.node_flow[(graph.node_kind == 0) & (graph.node_depth == 0)].sum()
    return abs(float(arrived) + graph.terminal_share + graph.hidden_share - 1.0)


def graph_error(graph: Graph) -> float:
    """The errors of two sums that must be 1: a whole graph's in-shares, and shown + hidden mass."""
    totals: dict[int, float] = defaultdict(float)
    for target, share in zip(graph.link_target.tolist(), graph.link_share.tolist(), strict=True):
        totals[target] += share
    return max([shown_and_hidden(graph), *(abs(total - 1.0) for total in totals.values())])


def _flow(probe: Probe) -> Found:
    model, one, _ = probe
    return graph_error(flow_graph.compute(model, one, FlowSpec(method=SHARES))), ""


def _patching(probe: Probe) -> Found:
    model, one, other = probe
    itself = trace(model, one.token_ids, [Patch(1, None, one)])
    if not np.array_equal(itself.logits, one.logits):
        return relative(itself.logits - one.logits, one.logits), "patched into itself"
    made = trace(model, one.token_ids, [Patch(-1, None, other)])
    return relative(made.logits - other.logits, other.logits), ""


#: number, what must hold, how it is measured, whether the logits' tolerance applies.
IDENTITIES: tuple[tuple[int, str, Callable[[Probe], Found], bool], ...] = (
    (1, "capture changes no logit of the untouched model", _capture, True),
    (2, "resid + attention + MLP = next row", _stream, False),
    (3, "lens at the last row = logits", _lens, True),
    (4, "patterns are causal and sum to 1", _patterns, False),
    (5, "heads + biases = attention output", _heads, False),
    (6, "attribution sums to the logit", _attribution, True),
    (7, "flow in = flow out, shown + hidden = 1", _flow, False),
    (8, "a patch into itself changes nothing; the last row makes the logits", _patching, True),
)


def limit(model: Model, number: int, *, logits: bool) -> float:
    """The largest error at which an identity holds, for the model's dtype."""
    if number == 5 and model.quantised:  # a packed projection rounds all heads together
        return PACKED_TOLERANCE
    if not model.exact:
        return LOOSE_TOLERANCE
    return tolerance(model.dtype) * (10.0 if logits else 1.0)


def _limit_of_run(model: Model, states: Trace, number: int, *, logits: bool) -> float:
    """The same for a run; sums of heads may carry the rounding of patterns kept in 16 bits."""
    rounding = 2.0 * states.pattern_error if number in (4, 5, 6, 7) else 0.0
    return max(limit(model, number, logits=logits), rounding)


def _measured(measure: Callable[[Probe], Found], probe: Probe) -> Found:
    """An identity's error; 0 with a note where the model has nothing to measure it on."""
    try:
        return measure(probe)
    except SpecError as error:
        return 0.0, f"not measured: {error.message}"


def check(model: Model, numbers: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)) -> Ledger:
    """Measure identities on two short probes of seeded random token ids.

    Args:
        model: From ``load_model``.
        numbers: Which identities.

    Returns:
        A Ledger; each entry's error is the larger of the two probes'.
    """
    ids = [
        tuple(probe[0].tolist())
        for probe in probes(model.readout.input_rows.shape[0], torch.device("cpu"))
    ]
    one, other = (trace(model, tokens) for tokens in ids)
    entries = []
    for number, name, measure, logits in IDENTITIES:
        if number in numbers:
            found = [
                _measured(measure, probe) for probe in ((model, one, other), (model, other, one))
            ]
            error, note = max(found, key=lambda item: item[0])
            entries.append(
                LedgerEntry(number, name, float(error), limit(model, number, logits=logits), note)
            )
    return Ledger(tuple(entries), model.info.dtype, model.exact)


def check_model(model: Model, _spec: ModelLedgerSpec) -> Ledger:
    """Measure every identity of a model, as a technique of ``analysis.registry``."""
    return check(model)


def check_run(model: Model, states: Trace, spec: LedgerSpec) -> Ledger:
    """Measure the identities on a run itself, against the untouched model on the same prompt.

    Costs one forward pass of the untouched model, and none if the same run was checked before.

    Args:
        model: The model that made the trace.
        states: The run.
        spec: The position whose attribution and flow are checked.

    Raises:
        SpecError: If the position does not exist.
    """
    states.require_model(model)
    position = resolve_index("Position", spec.position, len(states.tokens))
    probe = (model, states, states)
    found = {
        number: measure(probe) for number, _, measure, _ in IDENTITIES if number in (1, 2, 3, 4, 5)
    }
    found[6] = _measured(lambda _: attribution_error(model, states, position), probe)
    found[7] = _measured(lambda _: _run_flow(model, states, position), probe)
    entries = [
        LedgerEntry(
            number,
            name,
            float(found[number][0]),
            _limit_of_run(model, states, number, logits=logits),
            found[number][1],
        )
        for number, name, _, logits in IDENTITIES
        if number in found
    ]
    return Ledger(tuple(entries), model.info.dtype, model.exact)


def _run_flow(model: Model, states: Trace, position: int) -> Found:
    spec = FlowSpec(position, method=SHARES, top_k=8, per_head=False, threshold=1e-3)
    graph = flow_graph.compute(model, states, spec)
    hidden = f"{graph.hidden_share:.1%} hidden in a graph of 8 sources per node (not the drawn one)"
    return shown_and_hidden(graph), hidden


def require(model: Model) -> None:
    """Refuse a model on which one of the identities 1 to 5 fails.

    Raises:
        UnsupportedModelError: Naming the identity and its error.
    """
    for entry in check(model, ESSENTIAL).entries:
        if not entry.passed:
            raise UnsupportedModelError(
                f"On {model.info.name} the identity '{entry.name}' fails: relative error "
                f"{entry.error:.1e}, allowed {entry.tolerance:.0e}.",
                "Choose another model: results of this one would be wrong.",
            )
