"""States that an intervention puts into the residual stream, and how it does so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from analysis.errors import SpecError
from analysis.model.handle import Model
from analysis.tracing.interventions import Inject, Patch, Steer, positions

#: From states [pos, d_model] to edited ones.
StateEdit = Callable[[Tensor], Tensor]


def as_states(values: Any, d_model: int, dimensions: int) -> Tensor:
    """States [d_model] or [pos, d_model] of any numeric type, as a float32 tensor on the CPU.

    Args:
        values: A torch tensor of any dtype, a numpy array, or nested lists.
        d_model: Width of the residual stream.
        dimensions: 1 to allow [d_model] only, 2 to allow [pos, d_model] also.

    Raises:
        SpecError: If the shape does not fit, or a value is NaN, infinite or not a number.
    """
    try:
        states = torch.as_tensor(values).detach()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise SpecError(
            f"A state of {d_model} numbers is needed, not {type(values).__name__}.",
            "Give a vector of numbers.",
        ) from error
    if states.is_complex():
        raise SpecError("A state has complex numbers.", "Give real numbers.")
    states = states.to("cpu", torch.float32)
    if states.dim() not in range(1, dimensions + 1) or states.shape[-1] != d_model:
        shape = f"[{d_model}]" + (f" or [pos, {d_model}]" if dimensions > 1 else "")
        raise SpecError(
            f"A state must have the shape {shape}, not {list(states.shape)}.",
            "Take it from a trace of the same model.",
        )
    if not bool(states.isfinite().all()):
        raise SpecError("A state has numbers that are NaN or infinite.", "Give finite numbers.")
    return states


def embedding(model: Model, token: int) -> Tensor:
    """[d_model] a token's input embedding as it enters the residual stream, in float32."""
    readout = model.readout
    return readout.input_rows[token].float() * readout.embedding_scale


def change(item: Patch | Steer) -> StateEdit:
    """Replace states [pos, d_model], or add to them."""

    def edit(state: Tensor) -> Tensor:
        """The state with the patch or the vector."""
        changed, where = state.clone(), present(positions(item), state)
        if isinstance(item, Steer):
            changed[where] += item.vector.to(state)
            return changed
        source = item.source.to(state)
        chosen = positions(item)
        if chosen is not None and source.dim() == 2 and len(source) > 1:
            source = source[[n for n, pos in enumerate(chosen) if pos < len(state)]]
        changed[where] = source
        return changed

    return edit


def injection(model: Model, item: Inject) -> StateEdit:
    """Put a token's embedding into states [pos, d_model], or turn their main component to it."""
    readout, token = model.readout, int(item.token)
    if item.mode != "replace":
        readout.require_linear()

    def edit(state: Tensor) -> Tensor:
        """Replace states by the token's embedding, or turn their top token's direction to it."""
        where, changed = present(positions(item), state), state.clone()
        if item.mode == "replace":
            changed[where] = embedding(model, token).to(state)
            return changed
        chosen = state[where].reshape(-1, state.shape[-1])
        top = readout.logits(chosen.to(readout.device, readout.output_rows.dtype)).argmax(-1)
        unit = torch.nn.functional.normalize(readout.output_rows[[*top.tolist(), token]].float())
        main, wanted = unit[:-1].to(chosen), unit[-1].to(chosen)
        turned = chosen + (chosen * main).sum(-1, keepdim=True) * (wanted - main)
        changed[where] = turned.reshape(changed[where].shape)
        return changed

    return edit


def present(where: tuple[int, ...] | None, state: Tensor) -> Any:
    """The positions that this pass has; those to be generated do not exist yet."""
    return slice(None) if where is None else [item for item in where if item < len(state)]
