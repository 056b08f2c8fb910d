"""Weights of heads by their names in the state dict, with the scales of the norms multiplied in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from analysis.model.handle import Model
from tests.support import built, tiny, zoo

KINDS = ("gpt2", "llama", "gpt_neox", "gemma2", "mixtral", "deepseek_v3")


def model_of(kind: str) -> Model:
    """A small model of a kind."""
    made = {"gpt2": tiny.tiny_gpt2, "llama": tiny.tiny_llama}.get(kind)
    return built.understood(made() if made else zoo.make(kind), kind)


def tokens_of(model: Model, size: int = 9) -> tuple[int, ...]:
    """Seeded token ids that the model has."""
    generator = torch.Generator().manual_seed(5)
    return tuple(torch.randint(1, min(model.info.vocab, 90), (size,), generator=generator).tolist())


def prefix(kind: str, layer: int) -> str:
    """The block's name."""
    start = {"gpt2": "transformer.h", "gpt_neox": "gpt_neox.layers"}.get(kind, "model.layers")
    return f"{start}.{layer}"


def input_norm(kind: str, state: dict[str, Tensor], layer: int) -> tuple[Tensor, Tensor | None]:
    """The scale and the bias of the norm before attention."""
    name = f"{prefix(kind, layer)}.{'ln_1' if kind == 'gpt2' else 'input_layernorm'}"
    scale = state[f"{name}.weight"].double()
    bias = state.get(f"{name}.bias")
    return (1 + scale if kind == "gemma2" else scale), None if bias is None else bias.double()


def projections(kind: str, hf: Any, layer: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """W_Q [head, d_model, d], W_K, W_V [kv_head, ...] and W_O [head, d, d_model], float64."""
    state = {name: weight.double() for name, weight in hf.state_dict().items()}
    at, config = prefix(kind, layer), hf.config
    heads = config.num_attention_heads

    def split(rows: Tensor, count: int) -> Tensor:
        return torch.stack([part.T for part in rows.chunk(count)])

    if kind == "gpt2":
        query, key, value = state[f"{at}.attn.c_attn.weight"].chunk(3, 1)
        out = state[f"{at}.attn.c_proj.weight"].T
        return (*(split(one.T, heads) for one in (query, key, value)), into(out, heads))
    if kind == "gpt_neox":
        rows = state[f"{at}.attention.query_key_value.weight"]
        three = [torch.cat([head.chunk(3)[n] for head in rows.chunk(heads)]) for n in range(3)]
        out = state[f"{at}.attention.dense.weight"]
        return (*(split(one, heads) for one in three), into(out, heads))
    out = state[f"{at}.self_attn.o_proj.weight"]
    if kind == "deepseek_v3":
        return (*latent(state, f"{at}.self_attn", config, split), into(out, heads))
    kv = config.num_key_value_heads
    query, key, value = (state[f"{at}.self_attn.{one}_proj.weight"] for one in "qkv")
    return split(query, heads), split(key, kv), split(value, kv), into(out, heads)


def into(out: Tensor, heads: int) -> Tensor:
    """[head, d, d_model] from W_O [d_model, head * d]."""
    return torch.stack([part.T for part in out.chunk(heads, 1)])


def latent(state: dict[str, Tensor], at: str, config: Any, split: Any) -> tuple[Tensor, ...]:
    """Queries, keys and values of latent attention, without the roots of its norms."""
    query = state[f"{at}.q_b_proj.weight"] @ torch.diag(state[f"{at}.q_a_layernorm.weight"])
    query = query @ state[f"{at}.q_a_proj.weight"]
    low = state[f"{at}.kv_a_proj_with_mqa.weight"]
    inner, rotated = low[: config.kv_lora_rank], low[config.kv_lora_rank :]
    both = state[f"{at}.kv_b_proj.weight"] @ torch.diag(state[f"{at}.kv_a_layernorm.weight"])
    both = both @ inner
    keys, values = [], []
    for part in both.chunk(config.num_attention_heads):
        plain = part[: config.qk_nope_head_dim]
        keys.append(torch.cat([plain, rotated]).T)
        values.append(part[config.qk_nope_head_dim :].T)
    return split(query, config.num_attention_heads), torch.stack(keys), torch.stack(values)


def head_products(kind: str, model: Model, layer: int, head: int) -> tuple[Tensor, Tensor]:
    """W_QK and W_OV [d_model, d_model] of one head, with the scales of the norms around them."""
    query, key, value, out = projections(kind, model.hf, layer)
    state = model.hf.state_dict()
    scale, bias = input_norm(kind, state, layer)
    kv_head = head * len(key) // len(query)
    width = len(scale)
    read = torch.diag(scale)
    if bias is not None:  # LayerNorm subtracts the mean first
        read = (torch.eye(width) - 1 / width).double() @ read
    qk = read @ query[head] @ key[kv_head].T @ read.T
    ov = read @ value[kv_head] @ out[head]
    if kind == "gemma2":
        name = f"{prefix(kind, layer)}.post_attention_layernorm.weight"
        ov = ov @ torch.diag(1 + state[name].double())
    return qk, ov
