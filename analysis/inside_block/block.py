"""Open one block at one position: every vector from the state that comes in to the next one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analysis.attribution.direct import target_of
from analysis.contract import jobs
from analysis.contract.specs import PART_NAMES, Floats, Ints, resolve_index
from analysis.errors import SpecError
from analysis.inside_block.neurons import Normed, direct_tokens, neuron_lists
from analysis.inside_block.scores import QueryScores, query_scores
from analysis.inside_block.specs import BlockSpec, OpenedBlock
from analysis.lens.grid import compute as decode_cells
from analysis.lens.specs import LensSpec
from analysis.model.handle import Model
from analysis.model.probe import relative_error
from analysis.model.readout import NormForm, norm_form
from analysis.model.writers import norm_like
from analysis.tracing.capture import Trace
from analysis.tracing.heads import HeadParts, head_parts, other_parts
from analysis.tracing.mlp import mlp_inside
from analysis.tracing.tokens import token_id, vocabulary

#: Coordinates that are named.
COORDINATES = 5
ATTENTION_NORM, MLP_NORM = "attention", "MLP"
MIDDLE, STATE_OUT = "State after attention", "State out"


@dataclass
class _Steps:
    """The vectors of a block, in order."""

    names: list[str] = field(default_factory=list)
    vectors: list[Tensor] = field(default_factory=list)
    #: "state", "part" or "normed".
    sorts: list[str] = field(default_factory=list)

    def add(self, name: str, vector: Tensor, sort: str) -> None:
        """Add a vector [d_model]."""
        self.names.append(name)
        self.vectors.append(vector)
        self.sorts.append(sort)


@torch.no_grad()
def compute(model: Model, trace: Trace, spec: BlockSpec) -> OpenedBlock:
    """Open a block; see ``block``.

    Raises:
        SpecError: If there is no such layer, position or token.
    """
    trace.require_model(model)
    layer = resolve_index("Layer", spec.layer, model.info.layers)
    position = resolve_index("Position", spec.position, len(trace.tokens))
    target = target_of(model, trace, position, spec.token, spec.foil)
    scores, scores_missing = _unless_refused(lambda: query_scores(model, trace, layer, position))
    jobs.step(1, 4, "Opening the block")
    parts, heads_missing = _unless_refused(lambda: _heads(model, trace, layer))
    jobs.step(2, 4, "Opening the block")
    inside, neurons_missing = _unless_refused(lambda: mlp_inside(model, trace, layer, position))
    jobs.step(3, 4, "Opening the block")
    steps, norms = _steps(model, trace, layer, position, scores)
    neurons = neuron_lists(model, trace, layer, inside, target, spec, norms.get(MLP_NORM))
    made = _head_arrays(model, trace, layer, position, parts, spec.k)
    read = _read(model, trace, position, steps, spec, layer)
    lists = (read["step_tokens"], made["head_tokens"], neurons.reads, neurons.writes)
    ids = {int(one) for part in lists for one in np.asarray(part).flatten() if one >= 0}
    return OpenedBlock(
        layer=layer, position=position, parallel=model.info.parallel_blocks,
        steps=tuple(steps.names), **read, **_norm_arrays(norms),
        **_score_arrays(scores, made["weights"]), **made,
        neurons=neurons.ids, activations=neurons.activations, effects=neurons.effects,
        neuron_reads=_ints(neurons.reads), neuron_readers=neurons.readers,
        neuron_writes=_ints(neurons.writes), token=target.token, foil=target.foil_id,
        attention_error=_attention_error(trace, layer, position, parts), mlp_error=neurons.error,
        state_error=_state_error(trace, layer, position), scores_missing=scores_missing,
        heads_missing=heads_missing, neurons_missing=neurons_missing or neurons.missing,
        vocabulary=vocabulary(model.tokenizer, sorted({*ids, target.token})),
    )  # fmt: skip


def _unless_refused(read: Callable[[], Any]) -> tuple[Any, str]:
    """What is read, or None and why it is missing."""
    try:
        return read(), ""
    except SpecError as error:
        return None, error.message


def _heads(model: Model, trace: Trace, layer: int) -> HeadParts:
    if not model.stream.blocks[layer].heads:
        raise SpecError(f"Layer {layer} has no attention.", "Choose another layer.")
    return head_parts(model, trace, layer)


_Norms = dict[str, Normed]


def _steps(
    model: Model, trace: Trace, layer: int, position: int, scores: QueryScores | None
) -> tuple[_Steps, _Norms]:
    """The vectors in the model's order, and the norms among them."""
    steps, norms = _Steps(), _Norms()
    block = model.stream.blocks[layer]
    start = torch.from_numpy(trace.resid[layer, position])
    steps.add("State in", start, "state")
    call = None if scores is None else scores.front.call
    if call is not None and call.norm is not None and call.norm.kind != "none":
        norms[ATTENTION_NORM] = (call.norm, start, call.read[position])
        steps.add("Normed for attention", call.read[position], "normed")
    if block.heads:
        steps.add("Attention output", torch.from_numpy(trace.attn_out[layer, position]), "part")
    others = other_parts(model, trace, layer)
    if "ssm" in others:
        steps.add("Mixer output", torch.from_numpy(others["ssm"][position]), "part")
    middle = start
    if not model.info.parallel_blocks and block.writes("mlp"):
        middle = torch.from_numpy(trace.middle(layer)[position])
        steps.add(MIDDLE, middle, "state")
    form = _mlp_norm(model, layer, middle, call.norm if call else None)
    if form is not None:
        norms[MLP_NORM] = (form, middle, form.full(middle))
        steps.add("Normed for the MLP", form.full(middle), "normed")
    if block.writes("mlp"):
        steps.add("MLP output", torch.from_numpy(trace.mlp_out[layer, position]), "part")
    for part, array in others.items():
        if part != "ssm":
            steps.add(f"{PART_NAMES[part]} output".capitalize(), torch.from_numpy(array[position]),
                      "part")  # fmt: skip
    steps.add(STATE_OUT, torch.from_numpy(trace.resid[layer + 1, position]), "state")
    return steps, norms


def _mlp_norm(model: Model, layer: int, state: Tensor, used: NormForm | None) -> NormForm | None:
    """The norm between the state and the MLP: the module that maps it to what the MLP reads.

    A parallel block may share attention's norm. None if no single norm fits.
    """
    block = model.stream.blocks[layer]
    inside = {id(part) for part in block.attention.modules()} if block.attention else set()
    after = {id(writer.module) for writer in block.writers} | {id(block.post_norm)}
    forms = []
    for name, part in block.module.named_modules():
        usual = list(part.parameters(recurse=False)) and norm_like(part) and id(part) not in inside
        if not name or not usual or id(part) in after:
            continue
        form = norm_form(part, model.info.d_model)
        same = form is not None and used is not None and torch.equal(form.scale, used.scale)
        if form is not None and not same:
            forms.append(form)
    if model.info.parallel_blocks and not forms:
        return used
    return forms[0] if len(forms) == 1 and block.writes("mlp") else None


def _read(
    model: Model, trace: Trace, position: int, steps: _Steps, spec: BlockSpec, layer: int
) -> dict[str, Any]:
    """Length, direction, coordinates and tokens of each step."""
    k = spec.k
    vectors = torch.stack(steps.vectors)
    lengths = vectors.norm(dim=-1)
    cosines = torch.nn.functional.cosine_similarity(vectors, vectors[:1], dim=-1)
    coordinates = vectors.abs().topk(COORDINATES, dim=-1).indices
    tokens = torch.full((len(vectors), k), -1)
    for place, (vector, sort) in enumerate(zip(vectors, steps.sorts, strict=True)):
        if sort == "state":
            tokens[place] = _decoded(model, trace, layer, position, steps.names[place], spec)
        elif sort == "part" and model.readout.linear:
            tokens[place] = direct_tokens(model, trace, position, vector[None], k)[0]
    return {
        "lengths": _floats(lengths),
        "cosines": _floats(cosines),
        "step_tokens": _ints(tokens),
        "coordinates": _ints(coordinates),
        "coordinate_values": _floats(vectors.gather(1, coordinates)),
    }


def _decoded(
    model: Model, trace: Trace, layer: int, position: int, name: str, spec: BlockSpec
) -> Tensor:
    """[k] the tokens of one state by the decoder; -1 where the decoder does not apply."""
    middle = name == MIDDLE
    if middle and spec.decoder == "learned":
        return torch.full((spec.k,), -1)
    component, row = ("mid_residual", layer) if middle else ("block_output", layer)
    row += name == STATE_OUT
    found = decode_cells(
        model, trace,
        LensSpec(component, spec.decoder, k=spec.k, rows=(row,), positions=(position,)),
    )  # fmt: skip
    return torch.from_numpy(found.token_ids[0, 0])


def _norm_arrays(norms: _Norms) -> dict[str, Any]:
    factors, cosines, places, scales = [], [], [], []
    for form, before, after in norms.values():
        factors.append(float(form.inverse_root(before)))
        cosines.append(float(torch.nn.functional.cosine_similarity(before, after, dim=0)))
        largest = form.scale.abs().topk(COORDINATES).indices
        places.append(largest.numpy())
        scales.append(form.scale[largest].numpy())
    shape = (len(norms), COORDINATES)
    return {
        "norm_names": tuple(norms),
        "norm_factors": np.array(factors, np.float32),
        "norm_cosines": np.array(cosines, np.float32),
        "norm_coordinates": np.array(places, np.int64).reshape(shape),
        "norm_scales": np.array(scales, np.float32).reshape(shape),
    }


def _head_arrays(
    model: Model, trace: Trace, layer: int, position: int, parts: HeadParts | None, k: int
) -> dict[str, Any]:
    """Weights, and what heads and sources bring; NaN and no tokens where heads are missing."""
    heads, size = model.stream.blocks[layer].heads, position + 1
    weights = np.zeros((0, size), np.float32)
    if heads:
        weights = trace.pattern_of(layer)[:, position, :size].astype(np.float32)
    if parts is None:
        blank = np.full((heads, size), np.nan, np.float32)
        return {"weights": weights, "brought": blank, "brought_cosines": blank,
                "head_lengths": blank[:, 0], "head_cosines": blank[:, 0],
                "head_tokens": np.full((heads, k), -1, np.int64)}  # fmt: skip
    whole = torch.from_numpy(trace.attn_out[layer, position])
    sources, by_head = parts.sources(position), parts.at(position)
    cosine = torch.nn.functional.cosine_similarity
    tokens = torch.full((heads, k), -1)
    if model.readout.linear:
        tokens = direct_tokens(model, trace, position, by_head, k)
    return {
        "weights": weights,
        "brought": _floats(sources.norm(dim=-1)),
        "brought_cosines": _floats(cosine(sources, whole[None, None], dim=-1)),
        "head_lengths": _floats(by_head.norm(dim=-1)),
        "head_cosines": _floats(cosine(by_head, whole[None], dim=-1)),
        "head_tokens": _ints(tokens),
    }


def _score_arrays(scores: QueryScores | None, weights: Floats) -> dict[str, Any]:
    if scores is None:
        blank = np.full(weights.shape, np.nan, np.float32)
        return {"content": blank, "rotation": blank, "bias": blank, "softcap": 0.0,
                "position_by": "", "score_error": float("nan")}  # fmt: skip
    return {
        "content": _floats(scores.content),
        "rotation": _floats(scores.rotation),
        "bias": _floats(scores.bias),
        "softcap": scores.softcap,
        "position_by": scores.position_by,
        "score_error": scores.error,
    }


def _attention_error(trace: Trace, layer: int, position: int, parts: HeadParts | None) -> float:
    if parts is None:
        return float("nan")
    whole = torch.from_numpy(trace.attn_out[layer, position])
    return relative_error(parts.at(position).sum(0) + parts.bias[position], whole)


def _state_error(trace: Trace, layer: int, position: int) -> float:
    parts = [trace.kept(layer), trace.attn_out[layer], trace.mlp_out[layer]]
    parts += trace.others(layer).values()
    whole = sum(torch.from_numpy(part[position]) for part in parts)
    assert isinstance(whole, Tensor)  # noqa: S101 - there are parts
    return relative_error(whole, torch.from_numpy(trace.resid[layer + 1, position]))


def _ints(values: Any) -> Ints:
    found: Ints = np.asarray(values).astype(np.int64)
    return found


def _floats(values: Tensor) -> Floats:
    found: Floats = values.numpy().astype(np.float32)
    return found


def block(
    model: Model,
    trace: Trace,
    layer: int,
    position: int = -1,
    *,
    k: int = 4,
    neurons: int = 6,
    token: int | str | None = None,
    foil: int | str | None = None,
    decoder: str = "output",
) -> OpenedBlock:
    """One block at one position, step by step, in the model's order.

    Norms with their root and scale; each head's scores before the softmax in content, position and
    mask; weights; what each source brings through value and output projection; the MLP with its
    strongest neurons. The errors of the sums are part of the result. What an architecture does not
    offer is empty, with the reason.

    Args:
        model: From ``load_model``.
        trace: From ``trace``.
        layer: The block.
        position: The position.
        k: Tokens in each list.
        neurons: Neurons that are listed: those with the largest effect on the logit.
        token: The logit's token, as id or text; the model's own top token unless given.
        foil: The token whose logit is subtracted, likewise.
        decoder: How states are decoded, as in ``decode``.

    Raises:
        SpecError: If there is no such layer, position, token or decoder.
    """
    chosen, other = token_id(model.tokenizer, token), token_id(model.tokenizer, foil)
    return compute(model, trace, BlockSpec(layer, position, k, neurons, chosen, other, decoder))
