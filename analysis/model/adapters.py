"""LoRA adapters by name: what their files say, without torch or peft."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from analysis.errors import ModelLoadError
from analysis.model import files, hub

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_AGAIN = "Save the adapter anew with peft's save_pretrained."


def split(source: str) -> tuple[str, str]:
    """``base+adapter`` in two; a path that exists is never split."""
    base, plus, adapter = source.rpartition("+")
    try:
        whole = not plus or Path(source).expanduser().exists()
    except (OSError, RuntimeError, ValueError):
        whole = True
    if whole or not base or not adapter:
        return source, ""
    path = Path(adapter).expanduser()
    return base.strip(), str(path.absolute()) if path.is_dir() else adapter.strip()


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def base_of(folder: Path) -> str:
    """What the adapter's own configuration names as its base, at the revision it names.

    Raises:
        ModelLoadError: If it names none.
    """
    try:
        values = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        base, revision = values["base_model_name_or_path"], values.get("revision")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelLoadError(f"{folder / CONFIG} can't be read.", _AGAIN) from error
    if not isinstance(base, str) or not base:
        raise ModelLoadError(
            f"{folder / CONFIG} names no base model.", "Name both, as base+adapter."
        )
    pinned = isinstance(revision, str) and revision and not Path(base).expanduser().exists()
    return f"{base}@{revision}" if pinned else base


def identity(adapter: str) -> list[Any]:
    """What makes an adapter's weights these and no others, as JSON values."""
    path = Path(adapter)
    if path.is_dir():
        return files.stamp(path)
    _require_hub_id(adapter)
    return [hub.repository(adapter), hub.commit(adapter, CONFIG)]


def _require_hub_id(adapter: str) -> None:
    if Path(adapter).is_absolute() or adapter.startswith(".") or "/" not in adapter:
        raise ModelLoadError(f"There is no adapter {adapter}.", "Name its folder or hub id.")


def folder_of(adapter: str) -> Path:
    """The adapter's folder, fetched if it is a hub's, its files checked.

    Raises:
        ModelLoadError: If it is no whole adapter saved as safetensors.
    """
    path = Path(adapter)
    if not path.is_dir():
        _require_hub_id(adapter)
    folder = path if path.is_dir() else hub.snapshot(adapter, CONFIG)
    if not (folder / CONFIG).is_file():
        raise ModelLoadError(f"{folder} holds no {CONFIG}, so it is no adapter.", _AGAIN)
    if not (folder / WEIGHTS).is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        why = "holds its weights as pickle, which can run code when read" if pickled else (
            f"holds a configuration but not the weights {WEIGHTS}"
        )  # fmt: skip
        raise ModelLoadError(f"{folder} {why}.", _AGAIN)
    files.check_safetensors(folder / WEIGHTS)
    return folder
