"""From a name to a model in memory. Code from a hub is never run, pickles are never read."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM as _AutoModel
from transformers import AutoTokenizer
from transformers.utils import logging as _logging

from analysis.contract import progress
from analysis.errors import AnalysisError, ModelLoadError
from analysis.model import (
    adapters,
    catalog,
    default_model,
    files,
    hub,
    memory,
    peft_adapter,
    placement,
)
from analysis.model import fingerprint as fingerprint_module
from analysis.model.placement import Placement
from analysis.model.progress_bars import without_progress_bars

logging: Any = _logging  # transformers types only some of it


AutoModelForCausalLM: Any = _AutoModel  # transformers types only some of it


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model and its tokenizer, ready to run.

    Attributes:
        model: The ``PreTrainedModel``: evaluation mode, no gradients, eager attention.
        tokenizer: The Hugging Face tokenizer.
        entry: The catalogue's entry.
        source: Where the weights came from.
        revision: SHA-256, hub commit or stamp of the weights.
        fingerprint: ``identity.fingerprint`` of entry and dtype.
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
        device: Where it shall run; "spread" for all CUDA devices together. None: the entry's,
            else ``STRATASCOPE_DEVICE``, else CUDA or the CPU, the first there is.

    Raises:
        UnknownModelError: If there is no such model.
        ModelLoadError: If it can't be had, is cut off, pickled, or does not fit in memory.
        SpecError: If dtype or device mean nothing.
    """
    entry = catalog.find(name)
    plan = placement.choose(entry, dtype, device)
    plain = catalog.dtype_of(entry, dtype)
    with _explained(entry.name):
        adapter = _adapter(entry)
        memory.require(entry, plain, plan.where)
        model, tokenizer = _read(entry, plan)
        if adapter is not None:
            model = peft_adapter.apply(model, adapter)
        progress.step(0, 1, f"Moving the model to {plan.device}")
        placement.settle(model, plan)
    model.eval().requires_grad_(False)
    return Loaded(
        model=model,
        tokenizer=tokenizer,
        entry=entry,
        source=f"{entry.source}+{entry.adapter}" if entry.adapter else entry.source,
        revision=fingerprint_module.revision(entry),
        fingerprint=fingerprint_module.fingerprint(entry, plain),
    )


def _read(entry: catalog.Entry, plan: Placement) -> tuple[Any, Any]:
    if entry.kind == "gguf":
        model, tokenizer = _read_gguf(Path(entry.source), plan.dtype)
    else:
        folder = _folder(entry)
        files.check_folder(folder)
        progress.step(0, 1, "Reading the tokenizer")
        tokenizer = _read_tokenizer(folder)
        progress.step(0, 1, "Reading the weights")
        model = _read_weights(folder, plan)
    return model, tokenizer


def _adapter(entry: catalog.Entry) -> Path | None:
    """The adapter's folder, looked at before the much larger base is read."""
    if not entry.adapter:
        return None
    peft_adapter.require_peft()
    return adapters.folder_of(entry.adapter)


def _folder(entry: catalog.Entry) -> Path:
    if entry.kind == "wheel":
        return default_model.ensure(entry)
    return hub.snapshot(entry.source) if entry.kind == "hub" else Path(entry.source)


def _read_gguf(path: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    from analysis.model import gguf as gguf_module

    progress.step(0, 2, f"Reading the tokenizer of {path.name}")
    tokenizer = gguf_module.tokenizer(path)
    progress.step(1, 2, f"Reading the weights of {path.name}")
    return gguf_module.model(path, dtype), tokenizer


def _read_tokenizer(folder: Path) -> Any:
    with without_progress_bars():
        return AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )


def _read_weights(folder: Path, plan: Placement) -> Any:
    options = plan.options()
    with without_progress_bars():
        model, report = AutoModelForCausalLM.from_pretrained(
            str(folder),
            **options,
            attn_implementation="eager",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    absent = sorted(report["missing_keys"])
    if absent:  # transformers would fill them with random numbers
        raise ModelLoadError(
            f"The weights in {folder} lack {absent[0]} ({len(absent)} in all).",
            "Fetch the model again, or choose one made for generating text.",
        )
    return model


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn what a load can raise into a sentence; the cause stays attached for the log."""
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
        "Check that it is a whole causal language model of a kind that transformers knows.",
    )


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
