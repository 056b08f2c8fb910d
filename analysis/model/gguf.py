"""GGUF files, read by transformers, as ordinary unquantised models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM as _AutoModel
from transformers import AutoTokenizer

from analysis.model.progress_bars import without_progress_bars

AutoModelForCausalLM: Any = _AutoModel  # transformers types only some of it


def tokenizer(path: Path) -> Any:
    """The tokenizer that a GGUF file describes."""
    with without_progress_bars():
        return AutoTokenizer.from_pretrained(
            str(path.parent), gguf_file=path.name, trust_remote_code=False
        )


def model(path: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The model in a GGUF file, its weights dequantised to ``dtype``.

    The returned model keeps no mark of its origin: transformers refuses to save a model
    whose configuration names a quantisation, so the state goes into a fresh one without.
    """
    with without_progress_bars():
        read = AutoModelForCausalLM.from_pretrained(
            str(path.parent),
            gguf_file=path.name,
            dtype=dtype,
            trust_remote_code=False,
            attn_implementation="eager",
        )
        values = read.config.to_dict()
        values.pop("quantization_config", None)
        config = type(read.config).from_dict(values)
        fresh = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager")
    fresh.load_state_dict(read.state_dict())
    fresh.generation_config = read.generation_config
    return fresh.eval()


def save(read: Any, spoken: Any, folder: Path) -> None:
    """Write a model and its tokenizer into ``folder``, weights as safetensors."""
    with without_progress_bars():
        read.save_pretrained(folder, safe_serialization=True)
        spoken.save_pretrained(folder)
