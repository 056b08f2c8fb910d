"""A GGUF file small enough to convert in a second."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from tests.support import tiny

LAYERS, WIDTH, HEADS, KV_HEADS, INNER = 2, 32, 4, 2, 48


def write(path: Path, seed: int = 0) -> Path:
    """Write a random Llama with the tiny tokenizer's vocabulary."""
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("tiny")
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(tiny.vocab_size())
    _add_tokenizer(writer)
    for name, shape in _shapes().items():
        values = np.random.default_rng([seed, len(name)]).standard_normal(shape) * 0.1
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    vocab, merges = tiny.pieces()
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(vocab, key=vocab.__getitem__))
    kinds = [gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (len(vocab) - 1)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)


def _shapes() -> dict[str, tuple[int, ...]]:
    kv = WIDTH * KV_HEADS // HEADS
    block = {
        "attn_norm": (WIDTH,),
        "attn_q": (WIDTH, WIDTH),
        "attn_k": (kv, WIDTH),
        "attn_v": (kv, WIDTH),
        "attn_output": (WIDTH, WIDTH),
        "ffn_norm": (WIDTH,),
        "ffn_gate": (INNER, WIDTH),
        "ffn_up": (INNER, WIDTH),
        "ffn_down": (WIDTH, INNER),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (tiny.vocab_size(), WIDTH),
        "output_norm.weight": (WIDTH,),
        "output.weight": (tiny.vocab_size(), WIDTH),
    }
    for layer in range(LAYERS):
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in block.items()}
    return shapes
