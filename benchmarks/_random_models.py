"""Folders of models with random weights, of any size, for measurements."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig

from tests.support import tiny

#: Width of an MLP over the width of the states, in the Llama of 7 B.
_MLP = 11008 / 4096


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a Llama.

    Attributes:
        layers: Blocks.
        width: Numbers of a state.
        vocabulary: Tokens.
        mlp: Neurons of a layer; 0 for the ratio of the Llama of 7 B.
        heads: Of a layer; 0 for heads of 64 numbers.
        kv_heads: Heads of keys and values; 0 for as many as heads.
    """

    layers: int
    width: int
    vocabulary: int
    mlp: int = 0
    heads: int = 0
    kv_heads: int = 0

    @property
    def neurons(self) -> int:
        """Neurons of a layer."""
        return self.mlp or round(self.width * _MLP / 64) * 64

    @property
    def all_heads(self) -> int:
        """Heads of a layer."""
        return self.heads or self.width // 64

    @property
    def block(self) -> int:
        """Weights of the matrices of a block."""
        keys = self.width * (self.kv_heads or self.all_heads) // self.all_heads
        return self.width * (2 * self.width + 2 * keys + 3 * self.neurons)

    @property
    def parameters(self) -> int:
        """All weights: blocks, norms and both vocabulary matrices."""
        norms = (2 * self.layers + 1) * self.width
        return self.layers * self.block + norms + 2 * self.vocabulary * self.width

    def config(self) -> LlamaConfig:
        """Return the configuration for transformers."""
        return LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.width,
            intermediate_size=self.neurons,
            num_hidden_layers=self.layers,
            num_attention_heads=self.all_heads,
            num_key_value_heads=self.kv_heads or self.all_heads,
            max_position_embeddings=8192,
            tie_word_embeddings=False,
            bos_token_id=0,
            eos_token_id=0,
            architectures=["LlamaForCausalLM"],
        )


#: The sizes of well-known models.
KNOWN: dict[str, Shape] = {
    "1.1B": Shape(22, 2048, 32000, 5632, 32, 4),
    "7B": Shape(32, 4096, 32000, 11008, 32),
    "70B": Shape(80, 8192, 32000, 28672, 64, 8),
}


def write(shape: Shape, dtype: torch.dtype, folder: Path, seed: int = 3) -> Path:
    """Write a model and the tiny tokenizer into a folder, one file a block.

    The weights of one block are drawn, and every block has them: no measurement depends on their
    values, and 7 B are drawn in seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = shape.config()
    config.dtype = dtype
    config.save_pretrained(folder)
    tiny.tiny_tokenizer().save_pretrained(folder)
    generator = torch.Generator().manual_seed(seed)
    where: dict[str, str] = {}
    ends, block = _ends(shape, dtype, generator), _block(shape, dtype, generator)
    for number in range(-1, shape.layers):
        begin, part = ("", ends) if number < 0 else (f"model.layers.{number}.", block)
        file = f"model-{number + 1:05}.safetensors"
        named = {f"{begin}{name}.weight": weight for name, weight in part.items()}
        save_file(named, folder / file, {"format": "pt"})
        where |= dict.fromkeys(named, file)
    index = {"metadata": {"total_size": 0}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def _drawn(
    sizes: dict[str, tuple[int, ...]], dtype: torch.dtype, generator: torch.Generator
) -> Iterator[tuple[str, Tensor]]:
    for name, size in sizes.items():
        noise = torch.randn(size, generator=generator)
        weight = 1 + 0.3 * noise if len(size) == 1 else noise * (0.7 / size[-1] ** 0.5)
        yield name, weight.to(dtype)


def _ends(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> dict[str, Tensor]:
    matrix = (shape.vocabulary, shape.width)
    sizes = {"model.embed_tokens": matrix, "model.norm": matrix[1:], "lm_head": matrix}
    return dict(_drawn(sizes, dtype, generator))


def _block(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> dict[str, Tensor]:
    width, neurons = shape.width, shape.neurons
    keys = width * (shape.kv_heads or shape.all_heads) // shape.all_heads
    sizes: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj": (width, width),
        "self_attn.k_proj": (keys, width),
        "self_attn.v_proj": (keys, width),
        "self_attn.o_proj": (width, width),
        "mlp.gate_proj": (neurons, width),
        "mlp.up_proj": (neurons, width),
        "mlp.down_proj": (width, neurons),
        "input_layernorm": (width,),
        "post_attention_layernorm": (width,),
    }
    return dict(_drawn(sizes, dtype, generator))
