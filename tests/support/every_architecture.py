"""A small random model of every causal class that the installed transformers can build.

The sizes come from the names of configuration keys, so a class of a later release is built without
a new entry. Sliding windows, attention chunks and sparse indices are 8, far shorter than a prompt.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.support.tiny import randomise

VOCAB = 96
POSITIONS = 256
LAYERS = 4
#: A model with more parameters than this takes too long.
MOST_PARAMETERS = 100e6


def _each(value: int | None, *names: str) -> dict[str, int | None]:
    return dict.fromkeys(names, value)


#: Configuration key -> its small value.
SIZES: dict[str, int | None] = {
    **_each(VOCAB, "vocab_size", "vocab_size_per_layer_input"),
    **_each(32, "hidden_size", "d_model", "n_embd", "dim", "word_embed_proj_dim"),
    **_each(32, "embedding_size", "lru_width", "attention_hidden_size"),
    **_each(48, "intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim"),
    **_each(48, "n_inner", "ffn_hidden_size", "d_inner"),
    **_each(LAYERS, "num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    **_each(LAYERS, "decoder_layers", "layers"),
    **_each(2, "encoder_layers"),
    **_each(4, "num_attention_heads", "n_head", "n_heads", "num_heads"),
    **_each(4, "decoder_attention_heads", "encoder_attention_heads", "attention_heads"),
    **_each(2, "num_key_value_heads"),
    **_each(8, "head_dim", "attention_head_dim", "query_pre_attn_scalar"),
    **_each(4, "rotary_dim"),
    **_each(POSITIONS, "max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"),
    **_each(POSITIONS, "model_max_length", "seq_length"),
    # windows, chunks and sparse indices
    **_each(8, "sliding_window", "attention_window_size", "window_size", "attention_chunk_size"),
    **_each(8, "index_topk", "index_head_dim", "chunk_size", "mamba_chunk_size"),
    **_each(2, "index_n_heads"),
    # mixtures of experts
    **_each(4, "num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"),
    **_each(2, "num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k"),
    **_each(24, "moe_intermediate_size", "shared_expert_intermediate_size"),
    **_each(24, "shared_intermediate_size", "moe_shared_expert_intermediate_size"),
    **_each(24, "expert_ffn_hidden_size"),
    **_each(1, "n_group", "topk_group", "num_expert_group", "n_shared_experts"),
    **_each(1, "num_shared_experts", "moe_num_shared_experts", "first_k_dense_replace"),
    # latent attention
    "q_lora_rank": 12,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "qk_head_dim": 12,
    # state space models and linear attention
    **_each(4, "mamba_d_state", "mamba_d_conv", "state_size", "ssm_state_size"),
    **_each(4, "time_step_rank", "mamba_dt_rank"),
    **_each(2, "mamba_expand", "expand"),
    **_each(8, "mamba_n_heads", "mamba_d_head", "mamba_num_heads", "mamba_head_dim"),
    **_each(1, "mamba_n_groups", "n_groups"),
    "mamba_d_ssm": 64,
    **_each(2, "linear_num_key_heads"),
    **_each(4, "linear_num_value_heads", "linear_num_heads"),
    **_each(8, "linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"),
    # Gemma 3n and Gemma 4
    "hidden_size_per_layer_input": 8,
    "laurel_rank": 4,
    "num_kv_shared_layers": 0,
    # token ids
    **_each(0, "bos_token_id", "pad_token_id", "decoder_start_token_id"),
    **_each(1, "eos_token_id", "sep_token_id"),
    **_each(None, "forced_eos_token_id", "forced_bos_token_id"),
    **_each(5, "image_token_id", "image_token_index"),
    "video_token_id": 6,
    "audio_token_id": 7,
}
#: Keys that are set even if a configuration has no value for them.
_ALWAYS_SET = {"num_key_value_heads", "head_dim", "sliding_window", "pad_token_id"}
#: The configuration of the text decoder inside that of a composite model.
_TEXT = ("text_config", "decoder", "llm_config", "thinker_config")
_LISTS = ("layer_types", "layers_block_type", "mlp_layer_types", "attention_types")
_LATENT = {"num_key_value_heads": 4, "head_dim": 4}
#: Composite models whose other parts are too large by default.
_SHRINK_ALL = {"blt", "gemma3", "got_ocr2", "phi4_multimodal", "moss_transcribe_diarize"}
LATENT_ATTENTION = (
    "axk1", "axk2", "bailing_hybrid", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa",
    "kimi_linear", "longcat_flash", "minicpm3", "youtu",
)  # fmt: skip
_ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
_QWEN4: dict[str, Any] = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 8,
    "indexer_compress_ratio": 2,
    "ngram_vocab_size_base": 50,
    "hc_lowrank": 8,
}
#: Model type -> what the table of sizes can't say.
OPTIONS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        LATENT_ATTENTION,
        _LATENT,
    ),
    "bamba": {"attn_layer_indices": [1, 3]},
    "blt": {"encoder_hash_byte_group_vocab": 100},
    "cohere_compass_text": {"rope_parameters": {"full_attention": _ROPE}},
    "dbrx": {
        "attn_config": {"rope_theta": 10_000.0, "kv_n_heads": 2, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": {**_LATENT, "num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "dots3_note": {
        "text_config": {"num_key_value_heads": 4},
        "vision_config": {"adapter_out_dim": 32},
        "audio_config": {"adapter_out_dim": 32},
    },
    "dots3_note_text": {"num_key_value_heads": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "qwen4_exp": {"text_config": _QWEN4},
    "qwen4_exp_text": _QWEN4,
    "reformer": {
        "is_decoder": True,
        "axial_pos_shape": (16, 16),
        "axial_pos_embds_dim": (16, 16),
        "attn_layers": ["local", "lsh"] * 2,
    },
    "xlm": {"emb_dim": 32, "n_words": VOCAB},
    "xmod": {"default_language": "en_XX", "is_decoder": True},
    "zamba": {
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "num_key_value_heads": 4,
    },
    "zamba2": {
        "n_mamba_heads": 8,
        "mamba_headdim": 8,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "num_key_value_heads": 4,
    },
    "zaya": {"num_experts_per_tok": 1},
}


def kinds() -> list[str]:
    """Every model type for which transformers has a causal class."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def _small(values: dict[str, Any]) -> dict[str, Any]:
    """The small values of the keys that a configuration has, without dropout."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        plain = not isinstance(value, (dict, list))
        if name in SIZES and plain and (value is not None or name in _ALWAYS_SET):
            found[name] = SIZES[name]
        elif name == "is_decoder":
            found[name] = True
        elif (name.endswith(("dropout", "_pdrop", "layerdrop", "dropout_prob"))) and value:
            found[name] = 0.0
    return found


def _every_kind(types: list[Any]) -> list[Any]:
    """The first types of layers, with each type that occurs later in place of the last ones."""
    chosen = types[:LAYERS]
    later = [kind for kind in dict.fromkeys(map(str, types)) if kind not in chosen]
    for place, kind in enumerate(later[:LAYERS]):
        chosen[LAYERS - 1 - place] = kind
    return chosen


def _options(kind: str, values: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the small configuration of a type, from its default values."""
    found = _small(values)
    for name, part in values.items():
        if isinstance(part, dict) and (
            name in _TEXT or (kind in _SHRINK_ALL and name.endswith("config"))
        ):
            found[name] = _small(part)
    for name in _LISTS:
        types = values.get(name)
        if isinstance(types, list) and len(types) > LAYERS:
            found[name] = _every_kind(types)
    for name, value in OPTIONS.get(kind, {}).items():
        found[name] = {**found.get(name, {}), **value} if isinstance(value, dict) else value
    return found


def make(kind: str) -> Any:
    """A small random model of a type, with eager attention.

    Raises:
        Exception: Any that transformers raises, if the type can't be built.
    """
    config_class = CONFIG_MAPPING[kind]
    config = config_class(**_options(kind, config_class().to_dict()))
    config._attn_implementation = "eager"
    with torch.device("meta"):
        size = sum(
            part.numel()
            for part in AutoModelForCausalLM.from_config(
                config, attn_implementation="eager"
            ).parameters()
        )
    if size > MOST_PARAMETERS:
        raise ValueError(f"too large: {size / 1e6:.0f} million parameters")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    saved = {name: value.clone() for name, value in model.state_dict().items()}
    model = randomise(model, 0)
    if not math.isfinite(float(logits(model, prompt(40)).abs().max())):
        model.load_state_dict(saved)  # a state space model may diverge with random decays
    return model


def prompt(size: int) -> tuple[int, ...]:
    """Seeded random token ids that are neither special nor pictures."""
    generator = torch.Generator().manual_seed(size)
    return tuple(torch.randint(8, 90, (size,), generator=generator).tolist())


@torch.no_grad()
def logits(model: Any, token_ids: tuple[int, ...]) -> torch.Tensor:
    """The logits [pos, vocab] of an untouched model."""
    found: torch.Tensor = model(input_ids=torch.tensor([token_ids]), use_cache=False).logits[0]
    return found.float()
