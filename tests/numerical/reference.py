"""Slow reference arithmetic: loops over heads and positions, with weights by name.

For Llama and GPT-2 only, written from their papers. It shares no code with ``analysis``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch


@dataclass
class Slow:
    """A forward pass by plain arithmetic."""

    rows: list[np.ndarray] = field(default_factory=list)
    #: [layer][head][query][key] -> vector in the stream
    vectors: list[np.ndarray] = field(default_factory=list)
    patterns: list[np.ndarray] = field(default_factory=list)
    biases: list[np.ndarray] = field(default_factory=list)
    attn: list[np.ndarray] = field(default_factory=list)
    mlp: list[np.ndarray] = field(default_factory=list)


def rms(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def layer_norm(x: torch.Tensor, norm: Any) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    spread = torch.sqrt((centred * centred).mean(-1, keepdim=True) + norm.eps)
    return centred / spread * norm.weight.double() + norm.bias.double()


def linear(module: Any, x: torch.Tensor) -> torch.Tensor:
    y = x @ module.weight.double().T
    return y if module.bias is None else y + module.bias.double()


def conv1d(module: Any, x: torch.Tensor) -> torch.Tensor:
    return x @ module.weight.double() + module.bias.double()


def rotate(x: torch.Tensor, theta: float) -> torch.Tensor:
    """Rotary embedding on [head, pos, d], half-split layout (Su et al. 2021)."""
    size, width = x.shape[1], x.shape[2]
    angles = torch.arange(size).double()[:, None] * theta ** (
        -torch.arange(0, width, 2).double() / width
    )
    cos, sin = angles.cos(), angles.sin()
    first, second = x[..., : width // 2], x[..., width // 2 :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def attend(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """[head, query, key] causal softmax, one row at a time."""
    heads, size, width = q.shape
    pattern = torch.zeros(heads, size, size, dtype=torch.float64)
    for head in range(heads):
        for query in range(size):
            scores = k[head, : query + 1] @ q[head, query] / width**0.5
            pattern[head, query, : query + 1] = torch.softmax(scores, -1)
    return pattern


def _vectors(pattern: torch.Tensor, value: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    heads, size, width = value.shape
    made = torch.zeros(heads, size, size, weight.shape[1], dtype=torch.float64)
    for head in range(heads):
        out = weight[head * width : (head + 1) * width]
        for query in range(size):
            for key in range(query + 1):
                made[head, query, key] = pattern[head, query, key] * (value[head, key] @ out)
    return made


def _split(x: torch.Tensor, heads: int) -> torch.Tensor:
    return x.view(x.shape[0], heads, -1).transpose(0, 1)


def _finish(
    slow: Slow, x: torch.Tensor, pattern: torch.Tensor, vectors: torch.Tensor, bias: Any
) -> torch.Tensor:
    offset = torch.zeros(x.shape[-1], dtype=torch.float64) if bias is None else bias.double()
    attn = vectors.sum((0, 2)) + offset
    slow.patterns.append(pattern.numpy())
    slow.vectors.append(vectors.numpy())
    slow.biases.append(offset.numpy())
    slow.attn.append(attn.numpy())
    return x + attn


@torch.no_grad()
def llama(hf: Any, tokens: tuple[int, ...]) -> Slow:
    slow, config = Slow(), hf.config
    x = hf.model.embed_tokens.weight.double()[list(tokens)]
    slow.rows.append(x.numpy())
    theta, eps = config.rope_parameters["rope_theta"], config.rms_norm_eps
    for block in hf.model.layers:
        normed = rms(x, block.input_layernorm.weight.double(), eps)
        attention = block.self_attn
        group = config.num_attention_heads // config.num_key_value_heads
        q = rotate(_split(linear(attention.q_proj, normed), config.num_attention_heads), theta)
        k = rotate(_split(linear(attention.k_proj, normed), config.num_key_value_heads), theta)
        v = _split(linear(attention.v_proj, normed), config.num_key_value_heads)
        k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
        pattern = attend(q, k)
        out = attention.o_proj
        mid = _finish(
            slow, x, pattern, _vectors(pattern, v, out.weight.double().T), out.bias
        )  # fmt: skip
        normed = rms(mid, block.post_attention_layernorm.weight.double(), eps)
        gate = torch.nn.functional.silu(linear(block.mlp.gate_proj, normed))
        mlp = linear(block.mlp.down_proj, gate * linear(block.mlp.up_proj, normed))
        slow.mlp.append(mlp.numpy())
        x = mid + mlp
        slow.rows.append(x.numpy())
    return slow


@torch.no_grad()
def gpt2(hf: Any, tokens: tuple[int, ...]) -> Slow:
    slow, body = Slow(), hf.transformer
    x = body.wte.weight.double()[list(tokens)] + body.wpe.weight.double()[: len(tokens)]
    slow.rows.append(x.numpy())
    for block in body.h:
        q, k, v = conv1d(block.attn.c_attn, layer_norm(x, block.ln_1)).chunk(3, -1)
        heads = hf.config.n_head
        pattern = attend(_split(q, heads), _split(k, heads))
        out = block.attn.c_proj
        vectors = _vectors(pattern, _split(v, heads), out.weight.double())
        mid = _finish(slow, x, pattern, vectors, out.bias)
        hidden = conv1d(block.mlp.c_fc, layer_norm(mid, block.ln_2))
        hidden = torch.nn.functional.gelu(hidden, approximate="tanh")
        mlp = conv1d(block.mlp.c_proj, hidden)
        slow.mlp.append(mlp.numpy())
        x = mid + mlp
        slow.rows.append(x.numpy())
    return slow


def forward(hf: Any, tokens: tuple[int, ...]) -> Slow:
    """By the model's own type."""
    return {"llama": llama, "gpt2": gpt2}[hf.config.model_type](hf, tokens)


def proximity(z: np.ndarray, y: np.ndarray) -> float:
    return max(float(np.abs(y).sum() - np.abs(z - y).sum()), 0.0)


def state_parts(slow: Slow, layer: int, at: int) -> dict[Any, np.ndarray]:
    """Parts of a block's output."""
    return {
        (("mid", layer, at), None): slow.rows[layer][at] + slow.attn[layer][at],
        (("mlp", layer, at), None): slow.mlp[layer][at],
    }


def mid_parts(slow: Slow, layer: int, at: int) -> dict[Any, np.ndarray]:
    """Parts of a mid residual: every head and source position, the bias, the residual."""
    parts = {(("block", layer, at), None): slow.rows[layer][at]}
    for head in range(len(slow.vectors[layer])):
        for key in range(at + 1):
            parts[("block", layer, key), head] = slow.vectors[layer][head, at, key]
    if np.any(slow.biases[layer]):
        parts[("bias", layer, at), None] = slow.biases[layer]
    return parts


def flow(slow: Slow, row: int, pos: int, score: Any = proximity) -> dict[Any, tuple[float, float]]:
    """(target, source, head) -> (share, flow) from every vector, without pruning."""
    mass = {("block", row, pos): 1.0}
    links: dict[Any, tuple[float, float]] = {}

    def spread(target: Any, parts: dict[Any, np.ndarray], whole: np.ndarray) -> None:
        scores = {key: score(vector, whole) for key, vector in parts.items()}
        total = sum(scores.values())
        for (source, head), value in scores.items():
            share = value / total
            links[target, source, head] = (share, mass[target] * share)
            mass[source] = mass.get(source, 0.0) + mass[target] * share

    for layer in range(row - 1, -1, -1):
        for at in range(len(slow.rows[0])):
            if mass.get(("block", layer + 1, at), 0.0) > 0:
                parts = state_parts(slow, layer, at)
                spread(("block", layer + 1, at), parts, slow.rows[layer + 1][at])
                mass["mid", layer, at] += mass["mlp", layer, at]
        for at in range(len(slow.rows[0])):
            if mass.get(("mid", layer, at), 0.0) > 0:
                whole = slow.rows[layer][at] + slow.attn[layer][at]
                spread(("mid", layer, at), mid_parts(slow, layer, at), whole)
    return links
