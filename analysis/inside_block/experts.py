"""A mixture of experts at one position: which were chosen, with which weight, what each wrote.

The experts are not found by name. They are the module that gets states, the numbers of the chosen
experts and their weights. Each chosen expert then runs alone, in that module.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from analysis.attribution.direct import LogitDirection, target_of
from analysis.contract.specs import resolve_index
from analysis.errors import SpecError
from analysis.inside_block.specs import Experts, ExpertSpec
from analysis.model.handle import Model
from analysis.model.probe import relative_error
from analysis.model.readout import NormForm, norm_form
from analysis.model.stream import batched, hidden_input
from analysis.model.writers import norm_like
from analysis.tracing.capture import Trace
from analysis.tracing.intervention_hooks import applied
from analysis.tracing.tokens import token_id, vocabulary
from analysis.tracing.vocabulary import extremes, token_logits


class _Stop(Exception):  # noqa: N818 - not an error: the rest of the pass is not needed
    """Ends a forward pass after the block."""


@dataclass
class _Call:
    """One call of a block's experts in a pass, and what the MLP's writer read and returned.

    Attributes:
        chosen, weights: [pos, k] numbers and weights of experts, the largest weight first.
        module: The experts; None if there are none. states: [pos, d_model] what they read.
        output: [pos, d_model] their sum. read: [pos, d_model] what the MLP's writer reads.
    """

    chosen: Tensor
    weights: Tensor
    module: nn.Module | None = None
    states: Tensor | None = None
    output: Tensor = field(default_factory=lambda: torch.zeros(0))
    read: Tensor | None = None


@torch.no_grad()
def compute(model: Model, trace: Trace, spec: ExpertSpec) -> Experts:
    """The experts of one layer at one position; see ``experts``.

    Raises:
        SpecError: If there is no such layer, position or token.
    """
    trace.require_model(model)
    layer = resolve_index("Layer", spec.layer, model.info.layers)
    position = resolve_index("Position", spec.position, len(trace.tokens))
    target = target_of(model, trace, position, spec.token, spec.foil)
    call = _call(model, trace, layer)
    whole = torch.from_numpy(trace.mlp_out[layer, position])
    parts, error, missing = torch.zeros(0, model.info.d_model), 0.0, ""
    if call.module is None:
        missing = f"The MLP of layer {layer} has no experts that can run alone."
    else:
        alone = _alone(call, position)
        error = relative_error(alone.sum(0), call.output[position])
        parts = _as_added(model, layer, call, position, alone)
    vectors = torch.cat([parts, (whole - parts.sum(0))[None]])
    direction = LogitDirection(model, trace, position, target.token, target.foil)
    state = torch.from_numpy(trace.resid[-1, position])
    tokens = extremes(token_logits(model, vectors, state), spec.k)[0]
    cosines = torch.nn.functional.cosine_similarity(vectors, whole[None], dim=-1)
    return Experts(
        layer, position, _ints(call.chosen[position]), _floats(call.weights[position]),
        0 if call.module is None else _count(call.module), _floats(vectors.norm(dim=-1)),
        _floats(cosines), _floats(direction.of(vectors, layer + 1)), _ints(tokens), target.token,
        target.foil_id, error, missing,
        vocabulary(model.tokenizer, sorted({target.token, *map(int, tokens.flatten())})),
    )  # fmt: skip


def _call(model: Model, trace: Trace, layer: int) -> _Call:
    """Run the prompt up to the block's end, and keep the call of its experts."""
    block, size = model.stream.blocks[layer], len(trace.token_ids)
    call = _Call(torch.zeros(size, 0, dtype=torch.long), torch.zeros(size, 0))
    writers = block.of("mlp")

    def experts(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Keep a call with states, expert numbers and weights."""
        found = _routing([*args, *kwargs.values()])
        if found is None or not isinstance(output, Tensor):
            return
        call.module = module
        call.states, chosen, weights = found
        order = weights.argsort(-1, descending=True)
        call.chosen, call.weights = chosen.gather(1, order), weights.gather(1, order)
        call.output = output.detach().reshape(call.states.shape).float().cpu()

    def wrote(_module: nn.Module, args: Any, kwargs: Any, _output: Any) -> None:
        """Keep the writer's input."""
        state = hidden_input(args, kwargs)
        call.read = None if state is None else _copy(state)

    def stop(*_call: Any) -> None:
        """End the pass."""
        raise _Stop

    tokens = torch.tensor([trace.token_ids], device=model.device)
    with applied(model, trace.interventions, size), ExitStack() as stack:
        for part in block.module.modules():
            stack.callback(part.register_forward_hook(experts, with_kwargs=True).remove)
        for writer in writers:
            handle = writer.module.register_forward_hook(wrote, with_kwargs=True, prepend=True)
            stack.callback(handle.remove)
        stack.callback(block.module.register_forward_hook(stop).remove)
        with suppress(_Stop):
            model.hf(input_ids=tokens, use_cache=False)
    return call


def _routing(values: list[Any]) -> tuple[Tensor, Tensor, Tensor] | None:
    """States [pos, d], expert numbers [pos, k] and weights [pos, k], if these are the arguments."""
    found = [one for one in values if isinstance(one, Tensor)]
    if len(found) != 3 or any(one.dim() != 2 for one in found):
        return None
    states, chosen, weights = found
    whole = not chosen.is_floating_point() and weights.is_floating_point()
    if not whole or len({len(one) for one in found}) != 1 or not states.is_floating_point():
        return None
    if weights.shape != chosen.shape:  # the weights of all experts
        weights = (
            weights.gather(1, chosen.long()) if weights.shape[1] > chosen.shape[1] else weights
        )
    if weights.shape != chosen.shape:
        return None
    return states.detach(), chosen.detach().long(), weights.detach()


def _alone(call: _Call, position: int) -> Tensor:
    """[k, d_model] what each chosen expert returns, times its weight."""
    assert call.module is not None and call.states is not None  # noqa: S101, PT018 - by the caller
    state, at = call.states[position, None], slice(position, position + 1)
    parts = [
        call.module(state, call.chosen[at, one : one + 1], call.weights[at, one : one + 1])
        for one in range(call.chosen.shape[1])
    ]
    return torch.cat([part.reshape(1, -1) for part in parts]).float().cpu()


def _as_added(model: Model, layer: int, call: _Call, position: int, parts: Tensor) -> Tensor:
    """[k, d_model] the parts as the block adds them to the stream: after its norm and multiplier.

    Raises:
        SpecError: If the block has several writers.
    """
    writers = model.stream.blocks[layer].of("mlp")
    if len(writers) != 1:
        raise SpecError(f"The MLP of layer {layer} has several outputs.", "Read each of them.")
    form: NormForm | None = None
    if norm_like(writers[0].module) and call.read is not None:
        form = norm_form(writers[0].module, model.info.d_model)
    if form is not None and call.read is not None:
        parts = form.frozen(parts, call.read[position])
    return parts * writers[0].scale


def _count(module: nn.Module) -> int:
    """The number of experts: the first size of the module's parameters."""
    sizes = [len(weight) for weight in module.parameters() if weight.dim() == 3]
    return max(sizes, default=int(getattr(module, "num_experts", 0)))


def _copy(state: Tensor) -> Tensor:
    return batched(state.detach().to("cpu", torch.float32, copy=True), 1)[0]


def _ints(values: Tensor) -> Any:
    return values.cpu().numpy().astype(np.int64)


def _floats(values: Tensor) -> Any:
    return values.float().cpu().numpy().astype(np.float32)


def experts(
    model: Model,
    trace: Trace,
    layer: int,
    position: int = -1,
    *,
    k: int = 4,
    token: int | str | None = None,
    foil: int | str | None = None,
) -> Experts:
    """The experts that an MLP uses at one position, their weights, and what each writes.

    Each chosen expert runs alone on what the MLP reads. The rest of the MLP's output is the part
    that does not depend on the router: shared experts and biases. A layer without experts gives an
    empty list, with the reason.

    Args:
        model: From ``load_model``.
        trace: From ``trace``.
        layer: The block.
        position: The position.
        k: Tokens in each list.
        token: The token whose logit is measured, as id or text; the model's top token unless given.
        foil: The token whose logit is subtracted, likewise.

    Raises:
        SpecError: If there is no such layer, position or token.
    """
    chosen, other = token_id(model.tokenizer, token), token_id(model.tokenizer, foil)
    return compute(model, trace, ExpertSpec(layer, position, k, chosen, other))
