"""Does it add up? The identities of a model, measured.

Each function gives the largest relative error of one identity on one trace:
the norm of the difference over the largest norm among the parts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import numpy as np
import torch

from analysis.capture import Trace, trace
from analysis.direct import attribute_logit
from analysis.errors import UnsupportedModelError
from analysis.interventions import Patch
from analysis.models.handle import Model, plain_logits, probes
from analysis.models.residual import tolerance
from analysis.parts import has_heads, head_parts
from analysis.results import Graph, Ledger, LedgerEntry
from analysis.results.base import Floats
from analysis.specs import FlowSpec
from analysis.techniques import flow

#: A model that fails one of these is refused: every picture stands on them.
ESSENTIAL = (1, 2, 3, 4)
Found = tuple[float, str]
Probe = tuple[Model, Trace, Trace]


def relative(difference: Floats, *parts: Floats) -> float:
    """Norm of the difference over the largest norm among the parts; NaN counts as infinite."""
    largest = max(float(np.linalg.norm(part)) for part in parts)
    error = float(np.linalg.norm(difference)) / max(largest, 1e-30)
    return error if np.isfinite(error) else float("inf")


def _capture(probe: Probe) -> Found:
    model, one, _ = probe
    plain = plain_logits(model, one.token_ids)
    return relative(plain - one.logits, plain), ""


def _stream(probe: Probe) -> Found:
    _, one, _ = probe
    errors = [
        relative(a + b + c - d, a, b, c, d)
        for a, b, c, d in zip(one.resid, one.attn_out, one.mlp_out, one.resid[1:], strict=False)
    ]
    return max(errors), ""


def _lens(probe: Probe) -> Found:
    model, one, _ = probe
    readout = model.readout
    states = torch.from_numpy(one.resid[-1]).to(readout.device, readout.output_rows.dtype)
    found = readout.logits(states).cpu().numpy()
    return relative(found - one.logits, one.logits), ""


def _patterns(probe: Probe) -> Found:
    model, one, _ = probe
    layers = [i for i, block in enumerate(model.stream.blocks) if block.heads]
    if not layers:
        return 0.0, "no layer with attention"
    pattern = one.pattern[layers]
    future = float(np.abs(np.triu(pattern, 1)).max())
    missing = 1.0 - pattern.sum(-1)
    if not _has_sinks(model):
        return max(future, float(np.abs(missing).max())), _skipped(model, layers)
    outside = max(float(-missing.min()), 0.0)
    share = float(missing.mean())
    return max(future, outside), f"learned sinks take {share:.1%} of the attention"


def _has_sinks(model: Model) -> bool:
    return any(
        name.endswith("sinks")
        for module in model.stream.attending
        for name, _ in module.named_parameters()
    )


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
        if has_heads(model, layer):
            parts = head_parts(model, one, layer)
            heads, bias = parts.heads().numpy(), parts.bias.numpy()
            whole = one.attn_out[layer]
            errors.append(relative(heads.sum(0) + bias - whole, whole, bias, *heads))
    if opaque:
        return float("inf"), f"the heads of {len(opaque)} layers can't be told apart"
    return max(errors), ""


def _attribution(probe: Probe) -> Found:
    model, one, _ = probe
    errors = []
    for position in (0, len(one.tokens) - 1):
        parts = attribute_logit(model, one, position, None, None)
        largest = max(abs(parts.logit), abs(parts.embedding), float(np.abs(parts.mlps).max()))
        errors.append(abs(parts.residual_error) / max(largest, float(np.abs(parts.heads).max())))
    return max(errors), "" if model.readout.softcap is None else "before the soft cap"


def graph_error(graph: Graph) -> float:
    """How far in-shares of a whole graph, and shown + hidden, are from 1."""
    totals: dict[int, float] = defaultdict(float)
    for target, share in zip(graph.link_target.tolist(), graph.link_share.tolist(), strict=True):
        totals[target] += share
    arrived = graph.node_flow[(graph.node_kind == 0) & (graph.node_depth == 0)].sum()
    whole = float(arrived) + graph.terminal_share + graph.hidden_share
    return max([abs(whole - 1.0), *(abs(total - 1.0) for total in totals.values())])


def _flow(probe: Probe) -> Found:
    model, one, _ = probe
    return graph_error(flow.compute(model, one, FlowSpec())), ""


def _patching(probe: Probe) -> Found:
    model, one, other = probe
    itself = trace(model, one.token_ids, [Patch(1, None, one)])
    if not np.array_equal(itself.logits, one.logits):
        return relative(itself.logits - one.logits, one.logits), "patched into itself"
    made = trace(model, one.token_ids, [Patch(-1, None, other)])
    return relative(made.logits - other.logits, other.logits), ""


#: number, what must hold, how it is measured, whether it is held to the logits' tolerance.
IDENTITIES: tuple[tuple[int, str, Callable[[Probe], Found], bool], ...] = (
    (1, "capture changes no logit", _capture, True),
    (2, "resid + attention + MLP = next row", _stream, False),
    (3, "lens at the last row = logits", _lens, True),
    (4, "patterns are causal and sum to 1", _patterns, False),
    (5, "heads + biases = attention output", _heads, False),
    (6, "attribution sums to the logit", _attribution, True),
    (7, "flow in = flow out, shown + hidden = 1", _flow, False),
    (8, "a patch into itself changes nothing; the last row makes the logits", _patching, True),
)


def limit(model: Model, *, logits: bool) -> float:
    """The largest error at which an identity holds, for the model's dtype."""
    return tolerance(model.dtype) * (10.0 if logits and model.exact else 1.0)


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
            found = [measure((model, one, other)), measure((model, other, one))]
            error, note = max(found, key=lambda item: item[0])
            entries.append(
                LedgerEntry(number, name, float(error), limit(model, logits=logits), note)
            )
    return Ledger(tuple(entries), model.info.dtype, model.exact)


def require(model: Model) -> None:
    """Refuse a model on which an identity that every picture stands on fails.

    Raises:
        UnsupportedModelError: Naming the identity and its error.
    """
    for entry in check(model, ESSENTIAL).entries:
        if not entry.passed:
            raise UnsupportedModelError(
                f"On {model.info.name} the identity '{entry.name}' fails: relative error "
                f"{entry.error:.1e}, allowed {entry.tolerance:.0e}.",
                "No picture of this model would be right.",
            )
