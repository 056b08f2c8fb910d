"""Small random models and a tokenizer, built here: no network, equal on every machine."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from analysis.model.transformers_io import without_progress_bars

END = "<|end|>"
_WORDS = ("the", "capital", "of", "France", "is", "Paris", "one", "two")


def pieces() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Every byte, and the merges that make a few words with a leading space."""
    vocab = {
        END: 0,
        **{c: i + 1 for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))},
    }
    merges: list[tuple[str, str]] = []
    for word in _WORDS:
        left = "Ġ"
        for letter in word:
            if (left, letter) not in merges:
                merges.append((left, letter))
                vocab.setdefault(left + letter, len(vocab))
            left += letter
    return vocab, merges


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with about 290 pieces that reads any text."""
    vocab, merges = pieces()
    inner = Tokenizer(BPE(vocab=vocab, merges=merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=END, eos_token=END)


def vocab_size() -> int:
    """How many pieces ``tiny_tokenizer`` has."""
    return len(pieces()[0])


def randomise(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    """Set norm scales, biases and embeddings to values that reveal a wrong formula.

    Fresh models have scales of 1 and biases of 0, which hide a forgotten bias or scale.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=generator)

    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1 and name.endswith("weight"):
                weight.copy_(1 + 0.3 * noise(weight))
            elif weight.ndim == 1:
                weight.copy_(0.2 * noise(weight))
            else:
                weight.copy_(noise(weight) * (0.7 / weight.shape[-1] ** 0.5))
    return model.eval().requires_grad_(False)


def tiny_gpt2(seed: int = 0) -> PreTrainedModel:
    """GPT-2 type: LayerNorm, biases everywhere, learned positions, tied embeddings."""
    config = GPT2Config(
        vocab_size=vocab_size(),
        n_positions=128,
        n_embd=32,
        n_layer=3,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
    )
    return randomise(GPT2LMHeadModel(config), seed)


def tiny_llama(seed: int = 0) -> PreTrainedModel:
    """Llama type: RMSNorm, grouped-query attention (4 heads, 2 of keys), biases, untied."""
    config = LlamaConfig(
        vocab_size=vocab_size(),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    return randomise(LlamaForCausalLM(config), seed)


def save(model: PreTrainedModel, folder: Path) -> Path:
    """Save a model and the tiny tokenizer for ``load_model``."""
    with without_progress_bars():
        model.save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
    return folder
