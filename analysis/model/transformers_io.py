"""Read and write models and tokenizers with transformers: safetensors folders and GGUF files.

Of a model of several parts, the text decoder alone is kept. Code from a model's repository is never
run, and pickles are never read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer
from transformers import AutoModelForCausalLM as _AutoModel
from transformers.utils import logging as _logging

from analysis.errors import ModelLoadError
from analysis.model.probe import Record

#: Classes that generate text, in the order in which they are tried.
_CLASSES = ("AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForMultimodalLM")


def class_for(config: Any) -> Any:
    """The automatic class that loads the text decoder of a configuration.

    Qwen2-VL, LLaVA, PaliGemma and others have no causal class of their own: their text decoder is
    part of a model that also reads pictures.

    Raises:
        ModelLoadError: If the model does not generate text from text.
    """
    for name in _CLASSES:
        found: Any = getattr(transformers, name)
        if type(config) in found._model_mapping:
            return found
    raise ModelLoadError(
        f"A model of the type {config.model_type} does not continue a text token by token.",
        "Choose a causal language model.",
    )


@torch.no_grad()
def drop_unused(model: Any, probe: Tensor, record: Record) -> None:
    """Remove the parts of a composite model that no text uses, such as its vision tower.

    The model must give the same logits without them; else nothing is removed.

    Args:
        model: A loaded model.
        probe: Token ids [1, pos].
        record: A recorded pass of the probe.
    """
    if model.config.get_text_config() is model.config:
        return
    ran = {id(event.module) for event in record.events}
    removed: list[tuple[nn.Module, str, nn.Module]] = []
    for parent in (model, *model.children()):
        for name, part in list(parent.named_children()):
            if not any(id(inner) in ran for inner in part.modules()):
                removed.append((parent, name, part))
                setattr(parent, name, None)
    if removed and not _same_logits(model, probe, record):
        for parent, name, part in removed:
            setattr(parent, name, part)


def _same_logits(model: Any, probe: Tensor, record: Record) -> bool:
    try:
        logits = model(input_ids=probe, use_cache=False).logits.float().cpu()
    except (AttributeError, TypeError):  # a part is read although it does not run
        return False
    return record.logits is not None and torch.equal(logits, record.logits)


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
