"""Small random models of every architecture that Stratascope claims, weights randomised.

Scales, biases and multipliers are given values that are neither 0 nor 1, so that a
forgotten one shows.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from tests.support.tiny import randomise

_LLAMA: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "head_dim": 8,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
_GPT: dict[str, Any] = {
    "vocab_size": 96,
    "n_positions": 64,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
_MOE: dict[str, Any] = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
}
_GEMMA: dict[str, Any] = {
    **_LLAMA,
    "tie_word_embeddings": True,
    "sliding_window": 5,
    "query_pre_attn_scalar": 8,
}
_FALCON: dict[str, Any] = {
    **{name: value for name, value in _LLAMA.items() if name != "head_dim"},
    "new_decoder_architecture": False,
    "multi_query": True,
    "bias": True,
}
_LATENT: dict[str, Any] = {
    "q_lora_rank": 12,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "head_dim": 4,
}


#: Model type -> configuration; None keeps a type's own default.
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": _GPT,
    "gpt_neox": {**_LLAMA, "rotary_pct": 0.5},
    "gptj": {**_GPT, "rotary_dim": 4, "tie_word_embeddings": False},
    "gpt_neo": {
        **_LLAMA,
        "num_layers": 3,
        "num_heads": 4,
        "attention_types": [[["global", "local", "global"], 1]],
        "window_size": 4,
    },
    "gpt_bigcode": _GPT,
    "opt": {**_LLAMA, "ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.0},
    "bloom": {"vocab_size": 96, "hidden_size": 32, "n_layer": 3, "n_head": 4},
    "falcon": _FALCON,
    "mpt": {"vocab_size": 96, "d_model": 32, "n_heads": 4, "n_layers": 3, "max_seq_len": 64},
    "phi": {**_LLAMA, "num_key_value_heads": 4, "partial_rotary_factor": 0.5},
    "phi3": _LLAMA,
    "llama": {**_LLAMA, "attention_bias": True, "mlp_bias": True},
    "mistral": {**_LLAMA, "sliding_window": 5},
    "mixtral": {**_LLAMA, **_MOE},
    "qwen2": _LLAMA,
    "qwen2_moe": {**_LLAMA, **_MOE, "shared_expert_intermediate_size": 24},
    "qwen3": _LLAMA,
    "qwen3_moe": {**_LLAMA, **_MOE},
    "gemma": {**_LLAMA, "tie_word_embeddings": True},
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "olmo": _LLAMA,
    "olmo2": _LLAMA,
    "olmoe": {**_LLAMA, **_MOE},
    "cohere": {**_LLAMA, "logit_scale": 0.3, "tie_word_embeddings": True},
    "cohere2": {**_LLAMA, "logit_scale": 0.3, "sliding_window": 5, "tie_word_embeddings": True},
    "stablelm": {**_LLAMA, "use_qkv_bias": True},
    "starcoder2": _LLAMA,
    "granite": {
        **_LLAMA,
        "residual_multiplier": 0.6,
        "embedding_multiplier": 3.0,
        "logits_scaling": 2.0,
        "attention_multiplier": 0.3,
    },
    "granite_swa": {**_LLAMA, "sliding_window": 5, "residual_multiplier": 0.6},
    "granitemoe_swa": {**_LLAMA, **_MOE, "sliding_window": 5, "residual_multiplier": 0.6},
    "gpt_oss": {**_LLAMA, **_MOE, "sliding_window": 5, "layer_types": None},
    "smollm3": _LLAMA,
    "deepseek_v2": {**_LLAMA, **_LATENT},
    "deepseek_v3": {**_LLAMA, **_LATENT},
    "glm": {**_LLAMA, "partial_rotary_factor": 0.5},
    "glm4": {**_LLAMA, "partial_rotary_factor": 0.5},
    "helium": _LLAMA,
    "nemotron": _LLAMA,
    "persimmon": {**_LLAMA, "num_key_value_heads": 4},
    "exaone4": {**_LLAMA, "sliding_window": 5},
    "ernie4_5": _LLAMA,
    "seed_oss": _LLAMA,
    "codegen": {**_GPT, "rotary_dim": 4},
    "biogpt": {**_LLAMA, "num_key_value_heads": 4},
    "xglm": {
        "vocab_size": 96,
        "d_model": 32,
        "ffn_dim": 48,
        "num_layers": 3,
        "attention_heads": 4,
        "max_position_embeddings": 64,
    },
    "arcee": _LLAMA,
    "granitemoe": {**_LLAMA, **_MOE, "residual_multiplier": 0.6, "logits_scaling": 2.0},
    "phimoe": {**_LLAMA, **_MOE},
    "jamba": {**_LLAMA, **_MOE, "attn_layer_period": 2, "attn_layer_offset": 1},
    "mamba": {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 4},
    "recurrent_gemma": {**_LLAMA, "num_hidden_layers": 3, "lru_width": 32},
}


def make(kind: str, seed: int = 0) -> Any:
    """A small random model of a type."""
    config_class = CONFIG_MAPPING[kind]
    options = {name: value for name, value in CONFIGS[kind].items() if value is not None}
    torch.manual_seed(seed)
    config = config_class(**options)
    config._attn_implementation = "eager"
    return randomise(AutoModelForCausalLM.from_config(config, attn_implementation="eager"), seed)
