"""Read and write models and tokenizers with transformers: safetensors folders and GGUF files.

Code from a model's repository is never run, and pickles are never read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer
from transformers import AutoModelForCausalLM as _AutoModel
from transformers.utils import logging as _logging

from analysis.errors import ModelLoadError
from analysis.model.composite import class_for

AutoModelForCausalLM: Any = _AutoModel  # transformers types only some of it
logging: Any = _logging


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Hide transformers' progress bars and advice inside this block; errors still show.

    Progress is reported through ``analysis.contract.jobs`` instead.
    """
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder."""
    with without_progress_bars():
        return AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )


def read_weights(folder: Path, options: dict[str, Any]) -> Any:
    """The model in a folder, with eager attention. A composite model has all its parts.

    Args:
        folder: Checked by ``model_files.check_folder``.
        options: Dtype, devices and quantisation, from ``Placement.options``.

    Raises:
        ModelLoadError: If the model generates no text, or if weights are missing: transformers
            would replace them with random numbers.
    """
    with without_progress_bars():
        config = AutoConfig.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
        model, report = class_for(config).from_pretrained(
            str(folder),
            **options,
            attn_implementation="eager",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    absent = sorted(report["missing_keys"])
    if absent:
        raise ModelLoadError(
            f"The weights in {folder} lack {absent[0]} ({len(absent)} in all).",
            "Download the model again, or choose a model that generates text.",
        )
    return model


def gguf_tokenizer(path: Path) -> Any:
    """The tokenizer in a GGUF file."""
    with without_progress_bars():
        return AutoTokenizer.from_pretrained(
            str(path.parent), gguf_file=path.name, trust_remote_code=False
        )


def gguf_model(path: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The model in a GGUF file, its weights dequantised to ``dtype``.

    transformers refuses to save a model whose configuration names a quantisation. The weights are
    therefore copied into a new model whose configuration names none.
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


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a model, as safetensors, and its tokenizer into ``folder``."""
    with without_progress_bars():
        model.save_pretrained(folder, safe_serialization=True)
        tokenizer.save_pretrained(folder)
