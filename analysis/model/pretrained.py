"""From a model's name, or a model in memory, to its weights and tokenizer, ready to run."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from analysis.contract import jobs
from analysis.errors import AnalysisError, ModelLoadError, SpecError
from analysis.model import (
    adapters,
    catalog,
    default_model,
    hub,
    memory,
    transformers_io,
    untrusted,
)

#: The setting of the device, for models whose entry has none.
SETTING = "STRATASCOPE_DEVICE"
#: The device name for all CUDA devices together; accelerate distributes the blocks.
SPREAD = "spread"


@dataclass(frozen=True, slots=True)
class Placement:
    """Dtype, device and quantisation of a model's weights.

    Attributes:
        dtype: Dtype of weights that are not quantised.
        device: Device of the token ids.
        spread: Whether blocks may be on several devices.
        quantise: "8bit", "4bit" or "".
    """

    dtype: torch.dtype
    device: torch.device
    spread: bool = False
    quantise: str = ""

    @property
    def where(self) -> str:
        """The device for ``memory.free``."""
        return SPREAD if self.spread else str(self.device)

    def options(self) -> dict[str, Any]:
        """The options for ``from_pretrained``.

        Raises:
            ModelLoadError: If bitsandbytes is needed and missing.
        """
        options: dict[str, Any] = {"dtype": self.dtype}
        if self.spread:
            every = range(torch.cuda.device_count())
            options["device_map"] = "auto"
            options["max_memory"] = {at: torch.cuda.mem_get_info(at)[0] for at in every}
        elif self.quantise:
            options["device_map"] = {"": self.device}
        if self.quantise:
            options["quantization_config"] = quantisation(self.quantise, self.dtype)
        return options


def choose(entry: catalog.Entry, dtype: Any = None, device: Any = None) -> Placement:
    """The placement by the arguments, else the entry, else the settings, else the best device.

    Raises:
        SpecError: If dtype or device are not known, or this machine lacks the device.
    """
    plain = getattr(torch, catalog.dtype_of(entry, dtype))
    wanted = device or entry.device or os.environ.get(SETTING) or None
    if wanted != SPREAD:
        return Placement(plain, pick_device(wanted), quantise=entry.quantise)
    several = torch.cuda.device_count() > 1
    return Placement(plain, pick_device(None), spread=several, quantise=entry.quantise)


def pick_device(device: Any = None) -> torch.device:
    """The named device; without a name CUDA if available, else the CPU.

    Raises:
        SpecError: If there is no such device on this machine.
    """
    if device is None or device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if str(device).startswith("mps"):
        raise SpecError(
            "MPS has no 64-bit floats, which the identities and many measures need.",
            "Omit the device, or use cpu.",
        )
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise SpecError(
            f"This machine has no device {str(device)!r}.", "Omit the device, or use cpu."
        ) from error
    return place


def quantisation(kind: str, dtype: torch.dtype) -> Any:
    """The configuration that quantises linear layers on loading.

    8 bits: LLM.int8() (Dettmers 2022, arXiv 2208.07339); 4: NF4 (Dettmers 2023, 2305.14314).

    Raises:
        ModelLoadError: If bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise ModelLoadError(
            f"Quantising to {kind} needs the package bitsandbytes, which is not installed.",
            "Install the extra 'quantise' (.venv/bin/pip install -e '.[quantise]'), "
            "or load the model without quantise.",
        )
    from transformers import BitsAndBytesConfig

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of every cast
    factory: Any = BitsAndBytesConfig
    if kind == "8bit":
        return factory(load_in_8bit=True)
    return factory(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def settle(model: Any, placement: Placement) -> None:
    """Move a model to its device, unless it was loaded there.

    Raises:
        ModelLoadError: If parts of it stayed on disk or in RAM.
    """
    placed = getattr(model, "hf_device_map", None)
    left = {str(where) for where in (placed or {}).values()} & {"disk", "cpu", "meta"}
    if placement.spread and left:
        raise ModelLoadError(
            "The model does not fit on the devices together.",
            "Choose a smaller dtype, quantise 4bit, or a smaller model.",
        )
    if placed is None and not getattr(model, "is_quantized", False):
        model.to(placement.device)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model and its tokenizer, ready to run.

    Attributes:
        model: The ``PreTrainedModel``: evaluation mode, no gradients, eager attention.
        tokenizer: The Hugging Face tokenizer.
        entry: The catalogue's entry.
        source: Where the weights came from.
        revision: SHA-256, hub commit or hash of the files.
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
    plan = choose(entry, dtype, device)
    plain = catalog.dtype_of(entry, dtype)
    with _load_errors(entry.name):
        adapter = _adapter(entry)
        memory.require(entry, plain, plan.where)
        model, tokenizer = _read(entry, plan)
        if adapter is not None:
            model = adapters.apply(model, adapter)
        jobs.step(0, 1, f"Moving the model to {plan.device}")
        settle(model, plan)
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
        untrusted.guard(tokenizer, path)
        jobs.step(1, 2, f"Reading the weights of {path.name}")
        return transformers_io.gguf_model(path, plan.dtype), tokenizer
    if entry.kind == "wheel":
        folder = default_model.ensure(entry)
        hub.check_folder(folder)
    else:
        folder = _checked_folder(entry)
    jobs.step(0, 1, "Reading the tokenizer")
    tokenizer = transformers_io.read_tokenizer(folder)
    if entry.kind != "wheel":
        _guard(tokenizer, folder)
    jobs.step(0, 1, "Reading the weights")
    return transformers_io.read_weights(folder, plan.options()), tokenizer


def _checked_folder(entry: catalog.Entry) -> Path:
    """The folder of a model that others made; the confined process has read it."""
    from analysis.model import trial

    is_hub = entry.kind == "hub"
    folder = hub.snapshot(entry.source, check=trial.check_files) if is_hub else Path(entry.source)
    trial.check_files(folder)
    return folder


def _guard(tokenizer: Any, folder: Path) -> None:
    from analysis.model import trial

    if not trial.is_ours(folder):
        untrusted.guard(tokenizer, folder)


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
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of Rust code, such as a tokenizer
            raise
        raise _load_error(name, error) from error


def _load_error(name: str, error: BaseException) -> ModelLoadError:
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


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


#: Where other libraries keep the Hugging Face model: nnsight (0.8, and older versions), the bridge
#: of TransformerLens.
_INSIDE = ("_module", "_model", "original_model")
#: Kind of the entry of such a model: no catalogue has it.
MEMORY = "memory"


def hugging_face_model(given: Any) -> Any:
    """The Hugging Face model of an object: the object itself, or the one that it wraps; or None."""
    from transformers import PreTrainedModel

    for found in (given, *(getattr(given, name, None) for name in _INSIDE)):
        if isinstance(found, PreTrainedModel):
            return found
    return None


def loaded_in_memory(given: Any, tokenizer: Any) -> Loaded:
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
            "Give a transformers model, a model of nnsight, or a TransformerBridge. A "
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
            "Load them first; with nnsight: TransformersModel(..., dispatch=True).",
        )
    hf.eval().requires_grad_(False)
    name = str(getattr(hf.config, "name_or_path", "") or type(hf).__name__)
    digest = weights_hash(hf)
    entry = catalog.Entry(name=name, title=name, source=MEMORY, kind="folder")
    revision = str(getattr(hf.config, "_commit_hash", "") or digest)
    return Loaded(hf, tokenizer, entry, MEMORY, revision, digest[:32])


def weights_hash(hf: Any) -> str:
    """SHA-256 of all weights with their names, dtypes and shapes."""
    total = hashlib.sha256()
    for name, value in sorted(hf.state_dict().items()):
        plain = value.detach().cpu().contiguous()
        total.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
        total.update(plain.reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()
