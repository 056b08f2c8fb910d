"""Hidden states in what modules take and return, and the weights of a linear module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.pytorch_utils import Conv1D

#: Changes hidden states [batch, pos, d].
Edit = Callable[[Tensor], Tensor]


def float32_copy(tensor: Tensor) -> Tensor:
    """A float32 copy on the CPU."""
    return tensor.detach().to("cpu", torch.float32, copy=True)


def first_tensor(value: Any) -> Tensor | None:
    """The hidden states among what a module takes or returns."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (tuple, list)) and value:
        return first_tensor(value[0])
    if hasattr(value, "last_hidden_state"):
        return first_tensor(value.last_hidden_state)
    return None


def hidden_input(args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor | None:
    """The hidden states among the arguments of a call."""
    return first_tensor(args[0] if args else kwargs.get("hidden_states"))


def hidden_output(output: Any) -> Tensor:
    """The hidden states in a module's output."""
    tensor: Tensor = output[0] if isinstance(output, (tuple, list)) else output
    return tensor


def with_hidden_output(output: Any, state: Tensor) -> Any:
    """The same output with other hidden states."""
    if isinstance(output, tuple):
        return (state, *output[1:])
    return [state, *output[1:]] if isinstance(output, list) else state


def batched(state: Tensor, batch: int) -> Tensor:
    """[batch, pos, d] of states that some models flatten to [batch * pos, d] (OPT's MLP)."""
    return state if state.dim() == 3 else state.reshape(batch, -1, state.shape[-1])


def edit_output(module: nn.Module, edit: Edit, batch: int) -> RemovableHandle:
    """Hook a module so that ``edit`` replaces the hidden states [batch, pos, d] it returns."""

    def hook(module: Any, args: Any, output: Any) -> Any:
        """Replace the hidden states."""
        state = hidden_output(output)
        return with_hidden_output(output, edit(batched(state, batch)).reshape(state.shape))

    return module.register_forward_hook(hook)


def edit_input(module: nn.Module, edit: Edit, batch: int) -> RemovableHandle:
    """Hook a module so that ``edit`` replaces the hidden states [batch, pos, d] it takes."""

    def hook(module: Any, args: Any, kwargs: Any) -> Any:
        """Replace the hidden states."""
        state = hidden_input(args, kwargs)
        assert state is not None  # noqa: S101 - loading refuses a block without hidden states
        changed = edit(batched(state, batch)).reshape(state.shape)
        if args:
            return (changed, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": changed}

    return module.register_forward_pre_hook(hook, with_kwargs=True)


@torch.no_grad()
def linear_weights(module: Any, width: int) -> tuple[Tensor, Tensor]:
    """Weight [in, out] and bias [out], zero if there is none, float32 on the CPU.

    Args:
        module: A linear module: torch's, GPT-2's Conv1D, a quantised or an adapted one.
        width: Size of its input.
    """
    if type(module) is nn.Linear or type(module) is Conv1D:
        weight = module.weight.detach().float().cpu()
        weight = weight if type(module) is Conv1D else weight.T
        bias = module.bias
        return weight, torch.zeros(weight.shape[1]) if bias is None else bias.detach().float().cpu()
    # Quantised or adapted: apply the module to one unit vector at a time.
    like = next(module.parameters())
    dtype = like.dtype if like.is_floating_point() else torch.float32
    offset = module(torch.zeros(1, width, dtype=dtype, device=like.device))[0].float().cpu()
    rows = module(torch.eye(width, dtype=dtype, device=like.device)).float().cpu() - offset
    return rows, offset
