"""Check the files of a model's folder before loading them. Importable without torch."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from analysis.errors import ModelLoadError
from analysis.model import untrusted

INDEX = "model.safetensors.index.json"

#: Formats that unpickle on loading, which can run code.
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_READ = (".json", ".safetensors", ".model", ".txt", ".jinja", ".gguf")


def stamp(path: Path) -> list[Any]:
    """Names, sizes and times of the files that loading reads, and the configuration's SHA-256.

    Args:
        path: A model folder, or a single weights file.

    Returns:
        JSON values that change whenever the model is replaced or edited.
    """
    if path.is_file():
        return [[_facts(path)], ""]
    read = sorted(item for item in path.iterdir() if item.suffix in _READ)
    config = path / "config.json"
    digest = hashlib.sha256(config.read_bytes()).hexdigest() if config.is_file() else ""
    return [[_facts(item) for item in read], digest]


def _facts(path: Path) -> list[Any]:
    found = path.stat()
    return [path.name, found.st_size, found.st_mtime_ns]


def check_folder(folder: Path) -> None:
    """Refuse a folder whose model is incomplete or unsafe to load.

    Raises:
        ModelLoadError: If files are missing, truncated, or pickled, or go beyond the limits of
            ``untrusted``.
    """
    if not (folder / "config.json").is_file():
        raise ModelLoadError(
            f"{folder} has no config.json, so it is not a Hugging Face model.",
            "Name the folder that save_pretrained wrote.",
        )
    untrusted.check_folder(folder)
    for name in weight_files(folder):
        check_safetensors(folder / name)


def weight_files(folder: Path) -> list[str]:
    """Names of the safetensors files that make up a model.

    Raises:
        ModelLoadError: If there are none, or some of them are missing.
    """
    index = folder / INDEX
    sharded = index.is_file()
    names = sorted(set(_read_index(index).values())) if sharded else ["model.safetensors"]
    missing = [name for name in names if not (folder / name).is_file()]
    if not missing:
        return names
    pickles = sorted(item.name for item in folder.iterdir() if item.suffix in _PICKLES)
    if pickles and not sharded:
        raise ModelLoadError(
            f"{folder} stores its weights as pickle ({pickles[0]}), which can run code when "
            "loaded.",
            "Save the model again with save_pretrained, which writes safetensors.",
        )
    raise ModelLoadError(
        f"{folder} has a configuration but not the weights {missing[0]}.",
        "Download or copy the complete model again.",
    )


def _read_index(index: Path) -> dict[str, str]:
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if all(Path(name).name == name for name in names.values()):
            return dict(names)
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise ModelLoadError(f"{index} can't be read.", "Download or copy the complete model again.")


def check_safetensors(path: Path) -> None:
    """Refuse a safetensors file whose size does not match its header.

    Raises:
        ModelLoadError: If it is truncated, or not a safetensors file.
    """
    safetensors_header(path)


def safetensors_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: dtype, shape and offsets of each tensor, by name.

    Raises:
        ModelLoadError: If the file is truncated, or not a safetensors file.
    """
    size = path.stat().st_size
    again = "Download or copy the file again."
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size:
                raise ModelLoadError(f"{path} is truncated within its header.", again)
            if length > untrusted.MOST_HEADER:
                raise ModelLoadError(
                    f"{path} claims a header of {length:,} bytes; at most"
                    f" {untrusted.MOST_HEADER:,} are read.",
                    again,
                )
            header: dict[str, Any] = json.loads(file.read(length))
        ends = [int(value["data_offsets"][1]) for name, value in header.items() if name[:2] != "__"]
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelLoadError(f"{path} is not a safetensors file.", again) from error
    whole = 8 + length + max(ends, default=0)
    if size < whole:
        raise ModelLoadError(f"{path} is truncated: it has {size:,} of {whole:,} bytes.", again)
    return header
