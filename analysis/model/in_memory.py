"""A Hugging Face model that is already in memory, as ``load_pretrained`` would give it."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from transformers import PreTrainedModel

from analysis.errors import ModelLoadError
from analysis.model import catalog
from analysis.model.pretrained import Loaded

#: Where other libraries keep the Hugging Face model: nnsight's ``LanguageModel``, the bridge of
#: TransformerLens.
_INSIDE = ("_model", "original_model")
#: Kind of the entry of such a model: no catalogue has it.
MEMORY = "memory"


def hugging_face_model(given: Any) -> PreTrainedModel | None:
    """The Hugging Face model of an object: the object itself, or the one that it wraps."""
    for found in (given, *(getattr(given, name, None) for name in _INSIDE)):
        if isinstance(found, PreTrainedModel):
            return found
    return None


def loaded(given: Any, tokenizer: Any) -> Loaded:
    """A model in memory with its tokenizer, ready for ``build_model``.

    It stays the same object on the same device. It gets evaluation mode and no gradients.

    Args:
        given: A ``PreTrainedModel``, or an object of nnsight or TransformerLens that wraps one.
        tokenizer: Its Hugging Face tokenizer; that of ``given`` unless given.

    Raises:
        ModelLoadError: If there is no Hugging Face model in it, or no tokenizer.
    """
    hf = hugging_face_model(given)
    if hf is None:
        raise ModelLoadError(
            f"There is no Hugging Face model in {type(given).__name__}.",
            "Give a transformers model, an nnsight LanguageModel, or a TransformerBridge. A "
            "HookedTransformer has other modules: load the same model by its name.",
        )
    tokenizer = tokenizer or getattr(given, "tokenizer", None)
    if tokenizer is None or not callable(tokenizer):
        raise ModelLoadError(
            f"{type(hf).__name__} has no tokenizer.", "Give it: load_model(model, tokenizer)."
        )
    if any(part.is_meta for part in hf.parameters()):
        raise ModelLoadError(
            "The weights of the model are not in memory.",
            "Load them first; with nnsight: LanguageModel(..., dispatch=True).",
        )
    settled: Any = hf  # transformers has no types for eval
    settled.eval().requires_grad_(False)
    name = str(getattr(hf.config, "name_or_path", "") or type(hf).__name__)
    digest = weights_hash(hf)
    entry = catalog.Entry(name=name, title=name, source=MEMORY, kind="folder")
    revision = str(getattr(hf.config, "_commit_hash", "") or digest)
    return Loaded(hf, tokenizer, entry, MEMORY, revision, digest[:32])


def weights_hash(hf: PreTrainedModel) -> str:
    """SHA-256 of all weights with their names, dtypes and shapes."""
    total = hashlib.sha256()
    for name, value in sorted(hf.state_dict().items()):
        plain = value.detach().cpu().contiguous()
        total.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
        total.update(plain.reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()
