"""What a model will take, found before it is loaded, and what is free. No torch at import."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import psutil

from analysis.errors import AnalysisError, ModelLoadError
from analysis.model import adapters, catalog, hub, model_files

_BYTES = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0}
#: Bytes of a packed weight: one, or half a one with its share of a block's scale (64 a block).
_PACKED = {"8bit": 1.0, "4bit": 0.5 + 4 / 64}
_FLOATS = ("F64", "F32", "F16", "BF16")
#: What a forward pass, its copies and rounding need beside the weights: a share, and bytes that
#: even a small model takes (measured: benchmarks/loading.py).
_MARGIN, _FIXED = 1.1, 150e6
#: A GGUF file's weights are unpacked, then copied into an unquantised model of their own.
_GGUF_COPIES = 2.0
#: Of the built-in model, for the time before it is converted.
_DEFAULT_PARAMETERS = 134_515_008
_CGROUP = Path("/sys/fs/cgroup")


def needed(entry: catalog.Entry, dtype: str) -> int:
    """Bytes that loading an entry takes, from its files' headers, else from its configuration.

    A hub model that is not cached has its configuration fetched, and nothing else.

    Args:
        entry: From ``catalog.find``.
        dtype: From ``catalog.dtype_of``.

    Raises:
        ModelLoadError: If its configuration can't be had or read.
    """
    size = _base(entry, dtype)
    weights = Path(entry.adapter) / adapters.WEIGHTS
    if entry.adapter and weights.is_file():
        size += weights.stat().st_size
    return int(size * _MARGIN + _FIXED)


def _base(entry: catalog.Entry, dtype: str) -> float:
    if entry.kind == "gguf":
        return _gguf_elements(Path(entry.source)) * _BYTES[dtype] * _GGUF_COPIES
    if entry.kind == "wheel":
        return _default(entry, dtype)
    if entry.kind == "folder":
        model_files.check_folder(Path(entry.source))
        return _weights(Path(entry.source), dtype, entry.quantise)
    folder = hub.config_folder(entry.source)
    try:
        return _weights(folder, dtype, entry.quantise)
    except AnalysisError:  # still to be fetched
        return _by_configuration(folder, dtype, entry.quantise)


def _default(entry: catalog.Entry, dtype: str) -> float:
    from analysis.model import default_model

    folder = default_model.folder(entry)
    if default_model.is_whole(folder, entry.revision):
        return _weights(folder, dtype, entry.quantise)
    return _DEFAULT_PARAMETERS * _BYTES["float32"] * _GGUF_COPIES


def _weights(folder: Path, dtype: str, quantise: str) -> float:
    """Bytes by the headers of the weights' files, which are exact and quickly read."""
    names = model_files.weight_files(folder)
    packed = _is_packed(folder)
    headers = [model_files.safetensors_header(folder / name) for name in names]
    return sum(
        _tensor_bytes(name, facts, dtype, quantise, packed=packed)
        for header in headers
        for name, facts in header.items()
        if name != "__metadata__"
    )


def _is_packed(folder: Path) -> bool:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return bool(config.get("quantization_config"))


def _tensor_bytes(
    name: str, facts: dict[str, Any], dtype: str, quantise: str, *, packed: bool
) -> float:
    start, end = facts["data_offsets"]
    if packed or facts["dtype"] not in _FLOATS:
        return float(end - start)
    return float(math.prod(facts["shape"])) * _each(name, len(facts["shape"]), dtype, quantise)


def _each(name: str, dimensions: int, dtype: str, quantise: str) -> float:
    """Bytes of one number; bitsandbytes packs linear layers, not embeddings or the last layer."""
    ends = any(part in name for part in ("embed", "wte", "wpe", "lm_head"))
    return _PACKED[quantise] if quantise and dimensions == 2 and not ends else _BYTES[dtype]


def _by_configuration(folder: Path, dtype: str, quantise: str) -> float:
    """The model made on no device at all, from its configuration, and its parameters counted."""
    import torch
    from transformers import AutoConfig
    from transformers import AutoModelForCausalLM as _AutoModel

    factory: Any = _AutoModel
    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    with torch.device("meta"):
        model = factory.from_config(config, trust_remote_code=False)
    return sum(
        float(part.numel()) * _each(name, part.dim(), dtype, quantise)
        for name, part in model.named_parameters()
    )


def _gguf_elements(path: Path) -> int:
    from gguf import GGUFReader

    try:
        return sum(int(tensor.n_elements) for tensor in GGUFReader(path).tensors)
    except (ValueError, IndexError, OSError, struct.error, KeyError) as error:
        raise ModelLoadError(
            f"{path} can't be loaded: it is no whole GGUF file.", "Fetch or copy it again."
        ) from error


def free(device: str = "cpu") -> int:
    """Bytes that are free for weights: on a CUDA device, on all of them ("spread"), else in RAM."""
    if device.startswith("cuda") or device == "spread":
        return _free_cuda(device)
    return min(int(psutil.virtual_memory().available), _free_in_cgroup())


def _free_cuda(device: str) -> int:
    import torch

    every = range(torch.cuda.device_count())
    chosen = every if device == "spread" else [torch.device(device).index or 0]
    return sum(torch.cuda.mem_get_info(index)[0] for index in chosen)


def _free_in_cgroup() -> int:
    """What a container's own limit leaves; the page cache in it can be given back."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        facts = (_CGROUP / "memory.stat").read_text().split()
    except (OSError, ValueError):
        return 1 << 62
    if limit == "max":
        return 1 << 62
    cached = int(facts[facts.index("inactive_file") + 1]) if "inactive_file" in facts else 0
    return max(int(limit) - used + cached, 0)


def require(entry: catalog.Entry, dtype: str, device: str) -> None:
    """Refuse a model that would not fit, before anything of it is read.

    Raises:
        ModelLoadError: With both figures.
    """
    wanted, there = needed(entry, dtype), free(device)
    if wanted > there:
        raise ModelLoadError(
            f"{entry.name} needs about {gigabytes(wanted)} in {dtype}, "
            f"and {gigabytes(there)} are free.",
            "Choose a smaller model, dtype bfloat16, quantise 4bit, or another device.",
        )


def gigabytes(size: int) -> str:
    """A size as a person reads it: 14.2 GB."""
    return f"{size / 1e9:.1f} GB"
