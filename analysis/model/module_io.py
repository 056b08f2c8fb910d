"""Hidden states in what modules take and return, whatever they are wrapped in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def keep(tensor: Tensor) -> Tensor:
    """A float32 copy on the CPU."""
    return tensor.detach().to("cpu", torch.float32, copy=True)


def first_tensor(value: Any) -> Tensor | None:
    """The hidden states among what a module takes or gives."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (tuple, list)) and value:
        return first_tensor(value[0])
    if hasattr(value, "last_hidden_state"):
        return first_tensor(value.last_hidden_state)
    return None


def entered(args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor | None:
    """The hidden states among the arguments of a call."""
    return first_tensor(args[0] if args else kwargs.get("hidden_states"))


def first_of(output: Any) -> Tensor:
    """The hidden states in a module's output."""
    tensor: Tensor = output[0] if isinstance(output, (tuple, list)) else output
    return tensor


def replace_first(output: Any, state: Tensor) -> Any:
    """The same output with other hidden states."""
    if isinstance(output, tuple):
        return (state, *output[1:])
    return [state, *output[1:]] if isinstance(output, list) else state


def batched(state: Tensor, batch: int) -> Tensor:
    """[batch, pos, d] of states that some models flatten to [batch * pos, d] (OPT's MLP)."""
    return state if state.dim() == 3 else state.reshape(batch, -1, state.shape[-1])
