"""Attention scores before the softmax, in parts: content, position and mask; or by components."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from analysis.contract import jobs
from analysis.contract.specs import Ints, resolve_index
from analysis.errors import SpecError
from analysis.inside_block.specs import ScoreParts, ScoreSpec
from analysis.model.handle import Model
from analysis.model.readout import NormForm
from analysis.tracing.capture import Trace
from analysis.tracing.heads import has_heads, head_parts, other_parts
from analysis.tracing.interventions import HoldPatterns
from analysis.weights.circuits import score_scale
from analysis.weights.front import FROZEN, Call, Front, attention_call

#: Scores at or below this are masked; real scores never are.
MASKED = -9e3
#: Largest difference between the weights and the softmax of the scores, for float32 weights.
AGREEMENT = 1e-4


@dataclass(frozen=True)
class QueryScores:
    """The scores of one query, float64.

    Attributes:
        front: The layer's front with the recorded pass.
        query: The position. scale: The factor of q · k.
        content, rotation: [head, key] parts of the scaled product.
        bias: [head, key] what is added after any soft cap; -inf where a key is masked.
        softcap: 0 if there is none.
        position_by: "rotation", "states" or "bias".
        error: Largest difference between the weights and the softmax of the scores.
    """

    front: Front
    query: int
    scale: float
    content: Tensor
    rotation: Tensor
    bias: Tensor
    softcap: float
    position_by: str
    error: float

    @property
    def total(self) -> Tensor:
        """[head, key] the input of the softmax."""
        raw = self.content + self.rotation
        return capped(raw, self.softcap) + self.bias


def capped(raw: Tensor, softcap: float) -> Tensor:
    """Scores after the soft cap."""
    return softcap * torch.tanh(raw / softcap) if softcap else raw


def query_scores(model: Model, trace: Trace, layer: int, query: int) -> QueryScores:
    """The scores of one query in every head of a layer.

    The scaled product splits exactly into its value at distance 0 (content) and what the distance
    changes (rotation), by running queries and keys at position 0.

    Raises:
        SpecError: If queries and keys can't be read, or their products do not give the weights.
    """
    if HoldPatterns() in trace.interventions:
        raise SpecError(
            "The attention patterns are held at the baseline's, so this run's scores do not give"
            " them.",
            "Leave the patterns free, or read the baseline.",
        )
    call = attention_call(model, layer, trace.token_ids, trace.interventions)
    front = Front(model, layer, call)
    assert call.projected is not None  # noqa: S101 - attention_call refuses a pass without
    heads, size = len(call.projected.query), query + 1
    scale = score_scale(call.options, call.projected.query.shape[-1])
    raw = _products(call.projected.query, call.projected.key, query) * scale
    content, by = raw, "states"
    if front.rotary:
        zero = front.run(call.read, at_zero=True)
        content, by = _products(zero.query, zero.key, query) * scale, "rotation"
    bias = torch.zeros(heads, size, dtype=torch.float64)
    if call.mask is not None and call.mask.is_floating_point():
        bias = bias + call.mask[:, query, :size].double()
        by = "bias" if bool(((bias != 0) & (bias > MASKED)).any()) else by
    if call.softmax is not None:
        bias = bias.masked_fill(call.softmax[:, query, :size] <= MASKED, -torch.inf)
    bias = bias.masked_fill(bias <= MASKED, -torch.inf)
    softcap = float(call.options.get("softcap") or 0.0)
    error = _disagreement(capped(raw, softcap) + bias, trace, layer, query)
    if error > (AGREEMENT if model.exact else 0.05):
        raise SpecError(
            f"In layer {layer} the softmax of the products of queries and keys differs from the "
            f"weights by {error:.1e}, so a score has another part.",
            "Read the weights instead.",
        )
    return QueryScores(front, query, scale, content, raw - content, bias, softcap, by, error)


def _products(query: Tensor, key: Tensor, at: int) -> Tensor:
    """[head, key 0..at] products of one query with its visible keys."""
    keys = key[:, : at + 1].repeat_interleave(len(query) // len(key), dim=0)
    return (keys.double() @ query[:, at, :, None].double())[..., 0]


def _disagreement(total: Tensor, trace: Trace, layer: int, query: int) -> float:
    """The largest difference between the weights and the softmax; a sink's share is left out."""
    pattern = torch.from_numpy(trace.pattern_of(layer)[:, query, : query + 1]).double()
    whole = pattern.sum(-1, keepdim=True)
    shown = whole[:, 0] > 1e-6
    if not bool(shown.any()):
        return 0.0
    made = torch.softmax(total, -1)
    return float((made - pattern / whole.clamp_min(1e-30))[shown].abs().max())


@dataclass(frozen=True)
class StateParts:
    """The parts of some states of one row.

    Attributes:
        kinds: [part] names. layers, heads: [part] or -1.
        vectors: [part, position, d_model].
    """

    kinds: tuple[str, ...]
    layers: Ints
    heads: Ints
    vectors: Tensor


def state_parts(model: Model, trace: Trace, row: int, positions: list[int]) -> StateParts:
    """Embedding, heads, biases, MLPs and other parts of the states at some positions of a row.

    Raises:
        SpecError: If an intervention edited one of the states.
    """
    trace.require_sums(slice(1, row + 1), positions)
    found: list[tuple[str, int, int, Tensor]] = []

    def add(kind: str, layer: int, head: int, vectors: Tensor) -> None:
        for after in range(layer + 1, row):  # the factors of the residual after the part
            if trace.carry is not None:
                vectors = vectors * torch.from_numpy(trace.carry[after])
        found.append((kind, layer, head, vectors))

    add("embedding", -1, -1, torch.from_numpy(trace.resid[0, positions]))
    for layer in range(row):
        if has_heads(model, layer):
            parts = head_parts(model, trace, layer)
            by_head = torch.stack([parts.at(position) for position in positions], 1)
            for head, vectors in enumerate(by_head):
                add("head", layer, head, vectors)
            add("attention_bias", layer, -1, parts.bias[positions])
        elif model.stream.blocks[layer].heads:
            add("attention", layer, -1, torch.from_numpy(trace.attn_out[layer, positions]))
        add("mlp", layer, -1, torch.from_numpy(trace.mlp_out[layer, positions]))
        for part, array in other_parts(model, trace, layer).items():
            add(part, layer, -1, torch.from_numpy(array[positions]))
        jobs.step(layer + 1, row, "Splitting states")
    kept = [one for one in found if bool(one[3].any())]
    return StateParts(
        tuple(kind for kind, _, _, _ in kept),
        np.array([layer for _, layer, _, _ in kept], np.int64),
        np.array([head for _, _, head, _ in kept], np.int64),
        torch.stack([vectors for _, _, _, vectors in kept]),
    )


@torch.no_grad()
def compute(model: Model, trace: Trace, spec: ScoreSpec) -> ScoreParts:
    """The parts of one attention score; see ``score_parts``.

    Raises:
        SpecError: If there is no such layer, head or position, the query can't see the key, or the
            scores can't be read.
    """
    trace.require_model(model)
    layer = resolve_index("Layer", spec.layer, model.info.layers)
    head = model.head_index(layer, spec.head)
    size = len(trace.tokens)
    query, key = (resolve_index("Position", one, size) for one in (spec.query, spec.key))
    if key > query:
        raise SpecError(f"Position {query} can't see position {key}.", "Swap them.")
    scores = query_scores(model, trace, layer, query)
    if bool(torch.isinf(scores.bias[head, key])):
        raise SpecError(
            f"In layer {layer}, position {query} can't see position {key}: it is masked.",
            "Choose a key inside the head's window.",
        )
    parts = state_parts(model, trace, layer, [query, key])
    left, right = _projections(scores.front, parts, head, query, key)
    matrix = (left @ right.T) * scores.scale
    return ScoreParts(
        layer, head, query, key, (*parts.kinds, "bias"),
        np.append(parts.layers, -1), np.append(parts.heads, -1),
        matrix.numpy().astype(np.float32),
        float((scores.content + scores.rotation)[head, key]),
        float(trace.pattern_of(layer)[head, query, key]),
    )  # fmt: skip


def _projections(
    front: Front, parts: StateParts, head: int, query: int, key: int
) -> tuple[Tensor, Tensor]:
    """[part + 1, d_key] queries and keys of the parts, float64; the last is the biases'."""
    call = front.call
    norm = _norm_of(call)
    states = call.state[[query, key]]
    assert call.projected is not None  # noqa: S101 - attention_call refuses a pass without
    kv_head = head // (len(call.projected.query) // len(call.projected.key))

    def run(read: Tensor) -> tuple[Tensor, Tensor]:
        whole = torch.zeros_like(call.read)
        whole[query], whole[key] = read[0], read[1]
        found = front.run(whole, FROZEN)
        return found.query[head, query].double(), found.key[kv_head, key].double()

    zero = run(torch.zeros(2, call.read.shape[-1]))
    pairs = []
    for done, vectors in enumerate(parts.vectors):
        made = run(norm.frozen(vectors, states))
        pairs.append((made[0] - zero[0], made[1] - zero[1]))
        jobs.step(done + 1, len(parts.vectors), "Projecting parts")
    pairs.append(run(norm.bias.expand(2, -1)))
    return torch.stack([one for one, _ in pairs]), torch.stack([one for _, one in pairs])


def _norm_of(call: Call) -> NormForm:
    assert call.norm is not None  # noqa: S101 - attention_call refuses a pass without
    return call.norm


def score_parts(
    model: Model, trace: Trace, layer: int, head: int, query: int = -1, key: int = 0
) -> ScoreParts:
    """Why a head looks from one position to another: the score by earlier components.

    A score is bilinear in the query's and the key's state, once the roots of the norms are frozen
    (Elhage et al. 2021). Each part of each state goes through the frozen norm, the model's own
    projections and its rotation; the products of all pairs sum to the score.

    Args:
        model: From ``load_model``.
        trace: From ``trace``.
        layer: The block.
        head: The head.
        query: The position that reads.
        key: The position that is read.

    Raises:
        SpecError: If there is no such place, the query can't see the key, or the architecture's
            queries and keys can't be read.
    """
    return compute(model, trace, ScoreSpec(layer, head, query, key))
