"""States given by a user, as float32 tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from analysis.errors import SpecError


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
