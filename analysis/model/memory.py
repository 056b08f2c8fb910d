"""The memory that a model needs, estimated before loading it, and the memory that is free.

Importable without torch.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import psutil

from analysis.errors import AnalysisError, ModelLoadError
from analysis.model import adapters, catalog, hub

_BYTES = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0}
#: Bytes of a quantised weight: one, or half a byte plus its share of a block's scale (of 64).
_PACKED = {"8bit": 1.0, "4bit": 0.5 + 4 / 64}
_FLOATS = ("F64", "F32", "F16", "BF16")
#: Memory beside the weights for a forward pass and its copies: a factor, and bytes that even a
#: small model needs (measured with benchmarks/loading.py).
_MARGIN, _FIXED = 1.1, 150e6
#: A GGUF file's weights are dequantised, then copied into an unquantised model.
_GGUF_COPIES = 2.0
#: Parameters of the built-in model, used before its conversion.
_DEFAULT_PARAMETERS = 134_515_008
_CGROUP = Path("/sys/fs/cgroup")


def needed(entry: catalog.Entry, dtype: str) -> int:
    """Bytes to load an entry, from its files' headers, else from its configuration.

    Of a hub model that is not cached, only the configuration is downloaded.

    Args:
        entry: From ``catalog.find``.
        dtype: From ``catalog.dtype_of``.

    Raises:
        ModelLoadError: If its configuration can't be downloaded or read.
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
        from analysis.model import trial

        trial.check_files(Path(entry.source))
        return _weights(Path(entry.source), dtype, entry.quantise)
    folder = hub.config_folder(entry.source)
    try:
        return _weights(folder, dtype, entry.quantise)
    except AnalysisError:  # not downloaded yet
        return _by_configuration(folder, dtype, entry.quantise)


def _default(entry: catalog.Entry, dtype: str) -> float:
    from analysis.model import default_model

    folder = default_model.folder(entry)
    if default_model.is_complete(folder, entry.revision):
        return _weights(folder, dtype, entry.quantise)
    return _DEFAULT_PARAMETERS * _BYTES["float32"] * _GGUF_COPIES


def _weights(folder: Path, dtype: str, quantise: str) -> float:
    """Bytes by the headers of the weight files: exact, and quick to read."""
    names = hub.weight_files(folder)
    packed = _is_packed(folder)
    headers = [hub.safetensors_header(folder / name) for name in names]
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
    """Bytes of one parameter; bitsandbytes quantises only the linear layers of the blocks."""
    ends = any(part in name for part in ("embed", "wte", "wpe", "lm_head"))
    return _PACKED[quantise] if quantise and dimensions == 2 and not ends else _BYTES[dtype]


def _by_configuration(folder: Path, dtype: str, quantise: str) -> float:
    """Bytes of the parameters of a model built from its configuration on the meta device."""
    import torch
    from transformers import AutoConfig
    from transformers import AutoModelForCausalLM as _AutoModel

    from analysis.model import trial

    trial.check_configuration(folder)
    factory: Any = _AutoModel
    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    with torch.device("meta"):
        model = factory.from_config(config, trust_remote_code=False, attn_implementation="eager")
    return sum(
        float(part.numel()) * _each(name, part.dim(), dtype, quantise)
        for name, part in model.named_parameters()
    )


def _gguf_elements(path: Path) -> int:
    from gguf import GGUFReader

    from analysis.model import trial

    trial.check_files(path)
    try:
        return sum(int(tensor.n_elements) for tensor in GGUFReader(path).tensors)
    except (ValueError, IndexError, OSError, struct.error, KeyError) as error:
        raise ModelLoadError(
            f"{path} can't be loaded: it is not a complete GGUF file.",
            "Download or copy it again.",
        ) from error


def free(device: str = "cpu") -> int:
    """Free bytes on a CUDA device, on all of them ("spread"), or in RAM."""
    if device.startswith("cuda") or device == "spread":
        return _free_cuda(device)
    return min(int(psutil.virtual_memory().available), _free_in_cgroup())


def _free_cuda(device: str) -> int:
    import torch

    every = range(torch.cuda.device_count())
    chosen = every if device == "spread" else [torch.device(device).index or 0]
    return sum(torch.cuda.mem_get_info(index)[0] for index in chosen)


def _free_in_cgroup() -> int:
    """Free bytes under the container's limit; its page cache counts as free."""
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
    """Refuse a model that does not fit in memory, before reading its weights.

    Raises:
        ModelLoadError: With the needed and the free size.
    """
    wanted, there = needed(entry, dtype), free(device)
    if wanted > there:
        raise ModelLoadError(
            f"{entry.name} needs about {gigabytes(wanted)} in {dtype}, "
            f"and {gigabytes(there)} are free.",
            "Choose a smaller model, dtype bfloat16, quantise 4bit, or another device.",
        )


def gigabytes(size: int) -> str:
    """A size as text: 14.2 GB."""
    return f"{size / 1e9:.1f} GB"
