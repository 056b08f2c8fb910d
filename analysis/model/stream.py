"""The residual stream of a model: its blocks, their writers, and the states at modules."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.pytorch_utils import Conv1D

from analysis.contract.specs import OTHER_PARTS


@dataclass(frozen=True)
class Writer:
    """A module that writes to the residual stream.

    Attributes:
        module: The module.
        part: "attention" (or the mixer in its place), "mlp", "ssm" (a state space model beside
            attention), "per_layer_embedding", or "whole_block" (a block that can't be split:
            what it writes is its output minus its input).
        scale: The factor of its output: one number, or [d_model] one for each coordinate.
        offset: [d_model] constant that the block adds with it; None if there is none.
    """

    module: nn.Module
    part: str
    scale: float | Tensor = 1.0
    offset: Tensor | None = None

    def written(self, output: Tensor) -> Tensor:
        """What an output [..., d_model] adds to the stream."""
        scaled = output if isinstance(self.scale, float) and self.scale == 1.0 else (
            output * self.scale
        )  # fmt: skip
        return scaled if self.offset is None else scaled + self.offset


@dataclass
class Block:
    """One block of the stream: ``carry * resid + sum of what its writers add = next row``.

    Attributes:
        module: The block.
        writers: The modules that write, in the order in which they return.
        carry: Factor of the residual; 1 in most models (not in Gemma 4 and Doge).
        attention: The module that calls the attention function; None if the block has none.
        projection: The output projection that mixes the heads; None if it was not found.
        post_norm: The norm between the projection and the stream; None if there is none.
        heads, kv_heads, d_head: Shape of its attention; 0 without attention.
        scaled_heads: Whether each head's output is multiplied by a factor per query after the
            softmax, as for a learned sink.
        gated: Whether the projection reads the heads' outputs times a gate, one factor for each
            query, head and coordinate.
        error: Relative error of the sum on the probes.
        down: The MLP's down projection and its number of neurons, once they were looked for
            (``down_projection.down_projection``).
    """

    module: nn.Module
    writers: tuple[Writer, ...]
    carry: float | Tensor = 1.0
    attention: nn.Module | None = None
    projection: nn.Module | None = None
    post_norm: nn.Module | None = None
    heads: int = 0
    kv_heads: int = 0
    d_head: int = 0
    scaled_heads: bool = False
    gated: bool = False
    error: float = 0.0
    down: tuple[nn.Module, int] | None = None

    def of(self, part: str) -> list[Writer]:
        """The writers of one part."""
        return [writer for writer in self.writers if writer.part == part]

    @property
    def mixer_alone(self) -> bool:
        """Whether another mixer is in the place of attention."""
        return self.attention is None and bool(self.of("attention"))

    def writes(self, part: str) -> bool:
        """Whether the block has a part, with a mixer in the place of attention as "ssm"."""
        if part == "attention":
            return self.attention is not None and bool(self.of(part))
        return bool(self.of(part)) or (part == "ssm" and self.mixer_alone)

    def _only(self, part: str) -> Writer | None:
        found = self.of(part)
        return found[0] if found else None

    @property
    def attention_writer(self) -> nn.Module | None:
        """The module that writes attention's output; None if nothing does."""
        found = self._only("attention")
        return None if found is None else found.module

    @property
    def mlp_writer(self) -> nn.Module | None:
        """The first module that writes the MLP's output; None if nothing does."""
        found = self._only("mlp")
        return None if found is None else found.module

    @property
    def attention_scale(self) -> float | Tensor:
        """The factor of attention's output."""
        found = self._only("attention")
        return 1.0 if found is None else found.scale

    @property
    def mlp_scale(self) -> float | Tensor:
        """The factor of the MLP's output."""
        found = self._only("mlp")
        return 1.0 if found is None else found.scale


@dataclass
class Stream:
    """The residual stream of a model.

    Attributes:
        blocks: [layer].
        parallel: Whether attention and MLP read the same state (parallel blocks).
        d_model: Its width.
        layer_of: Layer of each attention module, by the module's ``id``.
        by_hooks: Whether attention is observed with hooks instead of the attention interface.
        entry: A norm inside the first block whose output is row 0; None: the block's input is.
    """

    blocks: list[Block]
    parallel: bool = False
    d_model: int = 0
    layer_of: dict[int, int] = field(default_factory=dict)
    by_hooks: bool = False
    entry: nn.Module | None = None

    @property
    def attending(self) -> list[nn.Module]:
        """The attention modules."""
        return [block.attention for block in self.blocks if block.attention is not None]

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that its blocks write: "attention" stands for the mixer in its place, too."""
        written = {writer.part for block in self.blocks for writer in block.writers}
        return tuple(part for part in ("attention", "mlp", *OTHER_PARTS) if part in written)

    @property
    def named_parts(self) -> tuple[str, ...]:
        """The same, with a mixer in the place of attention as "ssm"."""
        return tuple(
            part
            for part in ("attention", "mlp", *OTHER_PARTS)
            if any(block.writes(part) for block in self.blocks)
        )

    @property
    def split_heads(self) -> bool:
        """Whether every block with attention has an output projection that splits into heads."""
        return all(block.projection is not None for block in self.blocks if block.heads)

    @property
    def carry(self) -> Tensor | None:
        """[layer, d_model] factors of the residual; None if all are 1."""
        if all(isinstance(block.carry, float) and block.carry == 1.0 for block in self.blocks):
            return None
        return torch.stack([torch.ones(self.d_model) * block.carry for block in self.blocks])

    def layer(self, module: nn.Module) -> int | None:
        """The layer of an attention module; None if it is not in the stream."""
        return self.layer_of.get(id(module))


@contextmanager
def without_hooks(model: nn.Module) -> Iterator[None]:
    """Inside this block, a model runs without the hooks that its modules have now."""
    kept = [
        (module, module._forward_pre_hooks, module._forward_hooks) for module in model.modules()
    ]
    for module, *_ in kept:
        module._forward_pre_hooks, module._forward_hooks = OrderedDict(), OrderedDict()
    try:
        yield
    finally:
        for module, before, after in kept:
            module._forward_pre_hooks, module._forward_hooks = before, after


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
