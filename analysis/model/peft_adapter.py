"""A LoRA adapter put on a loaded base by peft (Hu 2021, arXiv 2106.09685).

The adapted layers stay in the model as they are, so what is seen is what runs. Only
the two ends, which are read as matrices, are made plain again.
"""

from __future__ import annotations

import copy
import json
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from analysis.errors import ModelLoadError
from analysis.model import adapters
from analysis.model.progress_bars import without_progress_bars


def require_peft() -> None:
    """Refuse early where peft is missing.

    Raises:
        ModelLoadError: Saying what to install.
    """
    if find_spec("peft") is None:
        raise ModelLoadError(
            "Adapters need the package peft, which is not installed.",
            "Install the extra 'lora' (.venv/bin/pip install -e '.[lora]'), "
            "or name the base model alone.",
        )


def apply(model: Any, folder: Path) -> Any:
    """The base with the adapter in its layers.

    Args:
        model: The base; changed in place.
        folder: From ``adapters.folder_of``.

    Raises:
        ModelLoadError: If the adapter is of another kind, or does not fit the base.
    """
    require_peft()
    from peft import PeftConfig, PeftModel

    _check_kind(folder)
    config = PeftConfig.from_pretrained(str(folder))
    config.inference_mode = True
    try:
        with without_progress_bars(), warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            adapted: Any = PeftModel.from_pretrained(model, str(folder), config=config)
    except (RuntimeError, ValueError, KeyError) as error:
        raise _misfit(folder, str(error)) from error
    for warning in told:  # a layer without its weights would stay as it was, unseen
        if "missing adapter keys" in str(warning.message):
            raise _misfit(folder, str(warning.message))
    whole = adapted.get_base_model()
    _plain_ends(whole)
    return whole


def _check_kind(folder: Path) -> None:
    try:
        kind = json.loads((folder / adapters.CONFIG).read_text(encoding="utf-8"))["peft_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelLoadError(
            f"{folder / adapters.CONFIG} can't be read.", "Save the adapter anew."
        ) from error
    if kind != "LORA":
        raise ModelLoadError(
            f"The adapter in {folder} is of the kind {str(kind)[:40]}, not LORA.",
            "Only adapters inside the model's own layers can be looked into.",
        )


def _misfit(folder: Path, why: str) -> ModelLoadError:
    return ModelLoadError(
        f"The adapter in {folder} does not fit its base: {why.splitlines()[0][:200]}",
        "Name the base that it was trained on, as base+adapter.",
    )


def _plain_ends(model: Any) -> None:
    """Embedding and unembedding as plain layers that hold the adapted weights."""
    before, after = model.get_input_embeddings(), model.get_output_embeddings()
    if not _is_plain(before):
        model.set_input_embeddings(_plain(before))
    if not _is_plain(after):
        model.set_output_embeddings(_plain(after))


def _is_plain(module: Any) -> bool:
    return module is None or not any(True for _ in module.children())


def _plain(layer: Any) -> nn.Module:
    if hasattr(layer, "modules_to_save"):  # a trained copy stands in for the layer
        copied: nn.Module = layer.modules_to_save[layer.active_adapters[0]]
        return copied
    own = copy.deepcopy(layer)  # a tied weight must not change on the other end
    own.merge()
    merged: nn.Module = own.get_base_layer()
    return merged
