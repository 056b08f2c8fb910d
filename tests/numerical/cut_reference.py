"""Cuts made by hand in float64: masks, module hooks and a loop, and no code of ``analysis``.

A cut can be made in part: the component then moves only ``part`` of the way to its replacement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tests.support import zoo

#: Names of the blocks, and in a block of its attention, output projection and MLP writer.
NAMES = {
    "gpt2": ("transformer.h", "attn", "attn.c_proj", "mlp"),
    "gptj": ("transformer.h", "attn", "attn.out_proj", "mlp"),
    "llama": ("model.layers", "self_attn", "self_attn.o_proj", "mlp"),
    "qwen3": ("model.layers", "self_attn", "self_attn.o_proj", "mlp"),
    "phi": ("model.layers", "self_attn", "self_attn.dense", "mlp"),
    "gemma2": ("model.layers", "self_attn", "self_attn.o_proj", "post_feedforward_layernorm"),
}


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
        self.hf: Any = zoo.make(self.family).double()

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

    def mixed(self, layer: int, cut: tuple[int, int, Any] | None = None) -> Tensor:
        """[pos, width] the heads' mixed values; with ``cut`` = (head, query, keys) masked."""
        kept: list[Tensor] = []

        def read(module: Any, inputs: tuple[Tensor]) -> None:
            kept.append(inputs[0][0].clone())

        handles = [self.module(layer, 2).register_forward_pre_hook(read)]
        if cut is not None:
            handles.append(self._masked(layer, *cut))
        self.logits()
        for handle in handles:
            handle.remove()
        return kept[0]

    def _masked(self, layer: int, head: int, query: int, keys: Any) -> Any:
        def mask(module: Any, inputs: Any, named: dict[str, Any]) -> Any:
            size = len(self.ids)
            old = named["attention_mask"]
            new = old.expand(1, self.hf.config.num_attention_heads, size, size).clone()
            new[0, head, query, keys] = torch.finfo(new.dtype).min
            return inputs, {**named, "attention_mask": new}

        return self.module(layer, 1).register_forward_pre_hook(mask, with_kwargs=True)

    def edge(self, layer: int, head: int, query: int, key: int, part: float) -> Tensor:
        """[vocab] logits with a part of an attention edge's cut."""
        change = self.mixed(layer, (head, query, key)) - self.mixed(layer)
        return self.moved(layer, query, change[query], part)

    def moved(self, layer: int, query: int, change: Tensor, part: float) -> Tensor:
        """[vocab] logits with the mixed values at a position changed by part of ``change``."""

        def move(module: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
            state = inputs[0].clone()
            state[0, query] += part * change
            return (state,)

        handle = self.module(layer, 2).register_forward_pre_hook(move)
        logits = self.logits()
        handle.remove()
        return logits

    def value(self, layer: int, head: int, query: int, key: int) -> Tensor:
        """[width] what a head reads from a key, in the head's place, zero elsewhere.

        It is the head's mixed value with every other key masked.
        """
        others = [one for one in range(query + 1) if one != key]
        mixed = self.mixed(layer, (head, query, others))[query]
        size = len(mixed) // self.hf.config.num_attention_heads
        part = slice(head * size, (head + 1) * size)
        found = torch.zeros_like(mixed)
        found[part] = mixed[part]
        return found

    def added(self, layer: int, pos: int, change: Tensor, part: float) -> Tensor:
        """[vocab] logits with part of ``change`` added to an MLP's output."""

        def move(module: Any, inputs: Any, output: Any) -> Any:
            state = output.clone()
            state[0, pos] += part * change
            return state

        handle = self.module(layer, 3).register_forward_hook(move)
        logits = self.logits()
        handle.remove()
        return logits

    def mlp(self, layer: int, pos: int, value: str, part: float) -> Tensor:
        """[vocab] logits with an MLP's output moved to zero, or to its mean over positions."""

        def move(module: Any, inputs: Any, output: Any) -> Any:
            state = output.clone()
            goal = state[0].mean(0) if value == "mean" else torch.zeros_like(state[0, pos])
            state[0, pos] += part * (goal - state[0, pos])
            return state

        handle = self.module(layer, 3).register_forward_hook(move)
        logits = self.logits()
        handle.remove()
        return logits
