"""Cuts made by hand in float64: masks, module hooks and a loop, and no code of ``analysis``.

A cut can be made in part: the component then moves only ``part`` of the way to its replacement.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tests.support import every_architecture, zoo

#: Names of the blocks, and in a block of its attention, output projection and MLP writer. Without
#: a projection, mixed values are those that the attention function returns, before a gate or norm.
NAMES = {
    "gpt2": ("transformer.h", "attn", "attn.c_proj", "mlp"),
    "gptj": ("transformer.h", "attn", "attn.out_proj", "mlp"),
    "llama": ("model.layers", "self_attn", "self_attn.o_proj", "mlp"),
    "qwen3": ("model.layers", "self_attn", "self_attn.o_proj", "mlp"),
    "phi": ("model.layers", "self_attn", "self_attn.dense", "mlp"),
    "gemma2": ("model.layers", "self_attn", "self_attn.o_proj", "post_feedforward_layernorm"),
    "qwen3_next": ("model.layers", "self_attn", "", "mlp"),
    "afmoe": ("model.layers", "self_attn", "", "post_mlp_layernorm"),
    "bitnet": ("model.layers", "self_attn", "", "mlp"),
    "gpt_oss": ("model.layers", "self_attn", "", "mlp"),
    "granite_swa": ("model.layers", "self_attn", "", "mlp"),
}
#: The factor of an MLP's output in the stream, where it is not 1.
MLP_FACTORS = {"granite_swa": 0.6}


def make(family: str) -> Any:
    """A small random model of a family."""
    return zoo.make(family) if family in zoo.CONFIGS else every_architecture.make(family)


@contextmanager
def removed(handle: Any) -> Iterator[None]:
    """Remove a hook after this block."""
    try:
        yield
    finally:
        handle.remove()


def first_changed(output: Any, change: Callable[[Tensor], Any]) -> Any:
    """A module's output with its hidden states, the first of a tuple, changed in a copy."""
    state = output[0] if isinstance(output, tuple) else output
    state = state.clone()
    change(state[0])
    return (state, *output[1:]) if isinstance(output, tuple) else state


class Float64(TorchFunctionMode):
    """Keeps float64 where a model turns to float32, as norms, rotations and softmax do."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        named = dict(kwargs or {})
        if function is Tensor.float:
            function = Tensor.double
        if function is Tensor.to:
            args = tuple(torch.float64 if one is torch.float32 else one for one in args)
        if named.get("dtype") is torch.float32:
            named["dtype"] = torch.float64
        return function(*args, **named)


@dataclass
class ByHand:
    """A model of a family, and the prompt whose last logits are read."""

    family: str
    ids: tuple[int, ...]

    def __post_init__(self) -> None:
        self.hf: Any = make(self.family).double()
        self.hf.config._experts_implementation = "eager"  # the others have no float64

    def module(self, layer: int, which: int) -> Any:
        """The attention (1), output projection (2) or MLP writer (3) of a block."""
        names = NAMES[self.family]
        return self.hf.get_submodule(names[0])[layer].get_submodule(names[which])

    @torch.no_grad()
    def logits(self) -> Tensor:
        """[vocab] at the last position, in float64."""
        ids = torch.tensor([self.ids])
        with Float64():
            logits: Tensor = self.hf(input_ids=ids, use_cache=False).logits[0, -1]
        return logits

    def mixed(self, layer: int, cut: tuple[Any, int, Any] | None = None) -> Tensor:
        """[pos, width] the heads' mixed values; with ``cut`` = (heads, query, keys) masked."""
        kept: list[Tensor] = []
        with ExitStack() as stack:
            stack.enter_context(self._at_mixed(layer, lambda state: kept.append(state.clone())))
            if cut is not None:
                stack.enter_context(removed(self._masked(layer, *cut)))
            self.logits()
        return kept[0]

    @contextmanager
    def _at_mixed(self, layer: int, change: Callable[[Tensor], Any]) -> Iterator[None]:
        """Call ``change`` on the mixed values [pos, width] of a layer; it may change them."""
        if NAMES[self.family][2]:

            def enter(module: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
                return (first_changed(inputs[0], change),)

            with removed(self.module(layer, 2).register_forward_pre_hook(enter)):
                yield
            return
        attention = self.module(layer, 1)
        place = sys.modules[type(attention).__module__]
        own: Any = place.eager_attention_forward

        def attend(module: Any, *args: Any, **named: Any) -> Any:
            output, weights = own(module, *args, **named)
            if module is attention:
                output = output.contiguous().clone()
                change(output[0].view(len(self.ids), -1))
            return output, weights

        with patch.object(place, "eager_attention_forward", attend):
            yield

    def _masked(self, layer: int, head: Any, query: int, keys: Any) -> Any:
        def mask(module: Any, inputs: Any, named: dict[str, Any]) -> Any:
            size = len(self.ids)
            old = named["attention_mask"]
            new = old.expand(1, self.hf.config.num_attention_heads, size, size).clone()
            new[0, head, query, keys] = torch.finfo(new.dtype).min
            return inputs, {**named, "attention_mask": new}

        return self.module(layer, 1).register_forward_pre_hook(mask, with_kwargs=True)

    def edge(self, layer: int, head: Any, query: int, key: int, part: float) -> Tensor:
        """[vocab] logits with a part of an attention edge's cut, in one head or a slice of them."""
        change = self.mixed(layer, (head, query, key)) - self.mixed(layer)
        return self.moved(layer, query, change[query], part)

    def moved(self, layer: int, query: int, change: Tensor, part: float) -> Tensor:
        """[vocab] logits with the mixed values at a position changed by part of ``change``."""

        def move(state: Tensor) -> None:
            state[query] += part * change

        with self._at_mixed(layer, move):
            return self.logits()

    def value(self, layer: int, head: int, query: int, key: int) -> Tensor:
        """[width] what a head reads from a key, in the head's place, zero elsewhere.

        It is the head's mixed value with every other key masked, and without a learned sink.
        """
        others = [one for one in range(query + 1) if one != key]
        sinks = getattr(self.module(layer, 1), "sinks", torch.zeros(0)).detach()
        kept = sinks.clone()
        sinks.fill_(-1e9)
        mixed = self.mixed(layer, (head, query, others))[query]
        sinks.copy_(kept)
        size = len(mixed) // self.hf.config.num_attention_heads
        part = slice(head * size, (head + 1) * size)
        found = torch.zeros_like(mixed)
        found[part] = mixed[part]
        return found

    def added(self, layer: int, pos: int, change: Tensor, part: float) -> Tensor:
        """[vocab] logits with part of ``change`` added to what an MLP adds to the stream."""
        factor = MLP_FACTORS.get(self.family, 1.0)

        def move(state: Tensor) -> None:
            state[pos] += part * change / factor

        return self._with_mlp(layer, move)

    def mlp(self, layer: int, pos: int, value: str, part: float) -> Tensor:
        """[vocab] logits with an MLP's output moved to zero, or to its mean over positions."""

        def move(state: Tensor) -> None:
            goal = state.mean(0) if value == "mean" else torch.zeros_like(state[pos])
            state[pos] += part * (goal - state[pos])

        return self._with_mlp(layer, move)

    def _with_mlp(self, layer: int, change: Callable[[Tensor], Any]) -> Tensor:
        with self.changed_mlp(layer, change):
            return self.logits()

    @contextmanager
    def changed_mlp(self, layer: int, change: Callable[[Tensor], Any]) -> Iterator[None]:
        """Change the output [pos, d_model] of an MLP in every pass inside this block."""

        def leave(module: Any, inputs: Any, output: Any) -> Any:
            return first_changed(output, change)

        with removed(self.module(layer, 3).register_forward_hook(leave)):
            yield
