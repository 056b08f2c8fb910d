"""Gradients of a target from one forward and one backward pass, and the effects they estimate."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analysis.attribution.direct import Target
from analysis.contract.choices import Situation
from analysis.errors import BackwardError, NotEnoughMemoryError, SpecError
from analysis.flow_graph.cuts import positions_of
from analysis.flow_graph.options import FLOW_METHODS, SHARES
from analysis.model import memory
from analysis.model.handle import Model
from analysis.tracing.capture import Trace
from analysis.tracing.heads import has_heads
from analysis.tracing.intervention_hooks import applied
from analysis.tracing.storage import pass_bytes
from analysis.tracing.vectors import hook_component

#: Lengths of the passes whose saved tensors are counted.
_PROBED = (4, 8, 16)
#: Less than this of a pattern is rounding, not a learned sink.
ROUNDING = 1e-5
#: With more positions, attention scores are not saved for the way back, but computed again there:
#: saved, those of all layers together grow with the square of the length.
RECOMPUTE_ABOVE = 256
#: A layer saves far less than this many times what a forward pass holds at once.
_GENEROUS = 8


@dataclass(frozen=True)
class Gradients:
    """Gradients of a target, and the values at which they are taken; float32 on the CPU.

    Attributes:
        mixed: Layer to [pos, head, d_head] the gradient for each head's mixed value: pattern times
            values, before a gate or a norm.
        mlp: [layer, pos, d_model] the gradient for the output of each layer's first MLP, as its
            module returns it; 0 in a layer without MLP.
        removed: [layer, pos] the sum over the layer's MLPs of gradient times output.
    """

    mixed: dict[int, Tensor]
    mlp: Tensor
    removed: Tensor


def gradients(model: Model, run: Trace, target: Target) -> Gradients:
    """One forward and one backward pass.

    Args:
        model: The model the run was made with.
        run: From ``analysis.trace``; its interventions stay in force.
        target: Whose gradient.

    Raises:
        BackwardError: If the model can't run backward.
        SpecError: If an attention can't be split into heads.
        NotEnoughMemoryError: If the pass and what it saves for the way back do not fit.
    """
    situation = Situation(model.info)
    if reason := FLOW_METHODS["effect"].unavailable(situation):
        raise SpecError(reason, f"Choose the method {FLOW_METHODS.usable(situation)}.")
    _require_memory(model, run, positions_of(run, target))
    try:
        return _gradients(model, run, target)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, NotImplementedError) as error:
        if "can't allocate memory" in str(error):  # the CPU's
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BackwardError(
            f"This model can't run backward, as the method effect needs: {reason}",
            f"Choose the method {SHARES}.",
        ) from error


def _require_memory(model: Model, run: Trace, size: int) -> None:
    """Refuse a pass whose saved tensors do not fit on the device.

    Raises:
        NotEnoughMemoryError: With what is needed and what is free.
    """
    free, one = memory.free(str(model.device)), pass_bytes(model, 1, size)
    if size <= _PROBED[-1] or _GENEROUS * model.info.layers * one <= free:
        return
    if (needed := one + saved_bytes(model, run, size)) > free:
        raise NotEnoughMemoryError(
            f"A backward pass of {size:,} tokens needs about {memory.gigabytes(needed)}; "
            f"{memory.gigabytes(free)} are free.",
            f"Shorten the prompt, or choose the method {SHARES}.",
        )


def saved_bytes(model: Model, run: Trace, size: int) -> int:
    """Bytes that a forward pass of ``size`` tokens saves for the way back, besides the weights.

    Measured on three short passes. The rest is a parabola: attention saves the square of the
    length, all else the length. Sliding windows save less. Where scores are computed again, those
    of one layer count.
    """
    bends = np.polyfit(_PROBED, [_saved_by(model, run, length) for length in _PROBED], 2)
    if _recomputes(model, size):  # one layer at a time
        bends[0] /= max(sum(bool(block.heads) for block in model.stream.blocks), 1)
    return int(np.polyval(bends, size))


def _recomputes(model: Model, size: int) -> bool:
    return size > RECOMPUTE_ABOVE and not model.stream.by_hooks


def _saved_by(model: Model, run: Trace, length: int) -> int:
    own = {part.untyped_storage().data_ptr() for part in model.hf.parameters()}
    saved: dict[int, int] = {}

    def pack(state: Tensor) -> Tensor:
        """Count the memory of a saved tensor once."""
        storage = state.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return state

    with model.lock, ExitStack() as stack, torch.enable_grad():
        for handle in hook_component(model, "row", 0, _recorded, 1):
            stack.callback(handle.remove)
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(pack, lambda state: state))
        logits = _logits(model, run, length, 1)  # keeps what was saved until it is counted
    return sum(saved.values()) if logits.requires_grad else 0


def _recorded(state: Tensor) -> Tensor:
    """Record the computation from here on."""
    return state.detach().requires_grad_().clone()


def _gradients(model: Model, run: Trace, target: Target) -> Gradients:
    size, blocks = positions_of(run, target), model.stream.blocks
    kept: dict[tuple[str, int], list[Tensor]] = defaultdict(list)

    def keep(name: str, layer: int) -> Any:
        """A hook that keeps what a component of a layer writes."""

        def edit(state: Tensor) -> Tensor:
            """Keep the state for its gradient, and change nothing."""
            kept[name, layer].append(state)
            return state

        return edit

    headed = [layer for layer in range(len(blocks)) if has_heads(model, layer)]
    with model.lock, ExitStack() as stack, torch.enable_grad():
        hooks = [("row", 0, _recorded)]
        hooks += [("mlp_output", n, keep("mlp_output", n)) for n in range(len(blocks))]
        for name, layer, edit in hooks:
            for handle in hook_component(model, name, layer, edit, 1):
                stack.callback(handle.remove)
        mixed = {layer: keep("mixed", layer) for layer in headed}
        again = _recomputes(model, size)
        stack.enter_context(applied(model, run.interventions, size, mixed=mixed, recompute=again))
        logits = _logits(model, run, size, size - target.position)
        _require_one_call(kept, headed)
        states = [state for several in kept.values() for state in several]
        found = torch.autograd.grad(target.value(logits.float()), states, allow_unused=True)
    grads = iter(
        torch.zeros_like(state) if one is None else one
        for state, one in zip(states, found, strict=True)
    )
    pairs = {
        name: [(_plain(next(grads)), _plain(state)) for state in several]
        for name, several in kept.items()
    }
    return _collected(model, pairs, size)


def _logits(model: Model, run: Trace, size: int, behind: int) -> Tensor:
    """[vocab] of the model's own forward pass, ``behind`` positions from the end."""
    options: dict[str, Any] = {"use_cache": False}
    if "logits_to_keep" in inspect.signature(model.hf.forward).parameters:
        options["logits_to_keep"] = behind
    ids = torch.tensor([run.token_ids[:size]], device=model.device)
    logits: Tensor = model.hf(input_ids=ids, **options).logits[0, -behind]
    return logits


def _collected(model: Model, pairs: dict[tuple[str, int], list[Any]], size: int) -> Gradients:
    """The gradients from (gradient, state) of each component's modules, by name and layer."""
    blocks, nothing = model.stream.blocks, torch.zeros(size, model.info.d_model)
    mixed = {layer: several[0][0] for (name, layer), several in pairs.items() if name == "mixed"}
    mlps = [pairs.get(("mlp_output", n), [(nothing, nothing)]) for n in range(len(blocks))]
    removed = [sum(((grad * out).sum(-1) for grad, out in one), nothing[:, 0]) for one in mlps]
    return Gradients(mixed, torch.stack([one[0][0] for one in mlps]), torch.stack(removed))


def _require_one_call(kept: Mapping[tuple[str, int], list[Tensor]], headed: list[int]) -> None:
    """Refuse a pass whose attention edges can't be told apart, or were not seen.

    Raises:
        SpecError: Naming the first layer.
    """
    for layer in headed:
        if (calls := len(kept.get(("mixed", layer), ()))) != 1:
            raise SpecError(
                f"The attention of layer {layer} ran {calls} times in one pass, not once, so its "
                "edges can't be cut one at a time.",
                "Choose the method attention.",
            )


def _plain(state: Tensor) -> Tensor:
    """[pos, ...] of a state [1, pos, ...], float32 on the CPU."""
    return state.detach()[0].to("cpu", torch.float32)


def edge_effects(run: Trace, layer: int, gradient: Tensor, other: Trace | None) -> Iterator[Tensor]:
    """[query, key] of each head in turn: first-order effect of cutting each edge of a layer.

    With ``other``, an edge is replaced by that run's edge: ``g_i · (a v_j - a' v'_j)``. If a
    query's only key is cut, its head has no output: ``g_i · z_i``. One head at a time: all heads of
    a long prompt would need gigabytes.

    Args:
        run: From ``analysis.trace``.
        layer: The layer.
        gradient: [query, head, d_head] of each head's mixed value.
        other: The run of a second prompt.
    """
    size, heads = gradient.shape[:2]

    def moved(one: Trace, head: int) -> tuple[Tensor, Tensor]:
        """The pattern [query, key], and ``g_i · v_j``."""
        values = one.value[layer]
        value = torch.from_numpy(values[head * len(values) // heads][:size])
        pattern = torch.from_numpy(one.pattern[layer][head][:size, :size])
        return pattern, gradient[:, head] @ value.T

    for head in range(heads):
        pattern, read = moved(run, head)
        if other is not None:
            yield pattern * read - torch.mul(*moved(other, head))
        else:
            yield _after_cut(pattern.double(), read.double())


def _after_cut(pattern: Tensor, read: Tensor) -> Tensor:
    """[query, key] the effect of cuts before the softmax, from a pattern and ``g_i · v_j``.

    In float64: where one key has almost all the weight, the others still count.
    """
    total = pattern.sum(-1, keepdim=True)
    sink = torch.where(1.0 - total > ROUNDING, 1.0 - total, 0.0)  # weight on a learned sink
    rest = total - pattern + sink
    others = (pattern * read).sum(-1, keepdim=True) - pattern * read
    after = torch.where(rest > 0.0, others / torch.where(rest > 0.0, rest, 1.0), 0.0)
    return (pattern * (read - after)).float()


def seen_edges(run: Trace, layer: int, gradient: Tensor, other: Trace | None) -> Iterator[Tensor]:
    """[query, key] of each head in turn: which edges have any weight, so that a cut changes it.

    Their effect can differ from 0 though their estimate is 0: where a softmax or a gate saturates.
    """
    size, heads = gradient.shape[:2]
    for head in range(heads):
        seen = torch.from_numpy(run.pattern[layer][head][:size, :size]) > 0.0
        if other is not None:
            seen = seen | (torch.from_numpy(other.pattern[layer][head][:size, :size]) > 0.0)
        yield seen
