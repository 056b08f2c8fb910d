"""Models that break an identity on purpose."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from tests.support import tiny, zoo


class ThirdWriter(LlamaDecoderLayer):
    """A block that adds a third term besides attention and MLP."""

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return super().forward(hidden_states, *args, **kwargs) + 0.01 * hidden_states.sin()


class HalfBeside(nn.Module):
    """An MLP that also computes half of its output in a module of its own."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.inner, self.halved = mlp, nn.Identity()

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.inner(hidden_states)
        self.halved(0.5 * output)
        return output


class Ambiguous(LlamaDecoderLayer):
    """Attention and MLP, and attention and twice another module, have the same sum."""

    def __init__(self, config: LlamaConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.mlp = HalfBeside(self.mlp)


class SecondPair(LlamaDecoderLayer):
    """Computes a second pair of outputs with the same sum, none of which is attention's."""

    def __init__(self, config: LlamaConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.more, self.less = nn.Identity(), nn.Identity()

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        output: torch.Tensor = super().forward(hidden_states, *args, **kwargs)
        half = 0.5 * (output - hidden_states)
        self.more(half + 0.25 * hidden_states)
        self.less(half - 0.25 * hidden_states)
        return output


class BentLogits(LlamaForCausalLM):
    """A model whose logits are neither a scale nor a cap of its unembedding's output."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.logits = output.logits + 0.1 * output.logits.sin()
        return output


def with_blocks(kind: type[LlamaDecoderLayer]) -> Any:
    """A small Llama whose blocks are of ``kind``."""
    hf = zoo.make("llama")
    blocks = nn.ModuleList(kind(hf.config, layer) for layer in range(hf.config.num_hidden_layers))
    hf.model.layers = blocks
    return tiny.randomise(hf, 0)


def bent() -> Any:
    """A small Llama with changed logits."""
    return tiny.randomise(BentLogits(zoo.make("llama").config), 0)
