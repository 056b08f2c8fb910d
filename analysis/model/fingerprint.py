"""What tells one model's weights from another's, found without loading them.

Importable without torch: the web process keys its memo here.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from analysis.model import adapters, catalog, hub, model_files
from analysis.model.catalog import Entry

#: Raised when the converter changes what it writes: older conversions are then made anew.
CONVERSION_FORMAT = 1


def fingerprint(model: Entry | str, dtype: str | None = None) -> str:
    """What identifies a model's weights, their revision and dtype, found without loading them.

    Args:
        model: An entry, or what ``catalog.find`` takes.
        dtype: "float32", "float16" or "bfloat16"; a torch dtype will do. None: the entry's,
            else the setting's, else float32.

    Returns:
        32 hexadecimal digits.

    Raises:
        UnknownModelError: If there is no such model.
        ModelLoadError: If a hub model is neither cached nor to be reached.
        SpecError: If the dtype means nothing.
    """
    entry = catalog.find(model) if isinstance(model, str) else catalog.existing(model)
    parts = [_identity(entry), catalog.dtype_of(entry, dtype)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _identity(entry: Entry) -> list[Any]:
    """What makes an entry's weights these and no others, as JSON values."""
    found = _base_identity(entry)
    if entry.adapter:
        found += ["adapter", *adapters.identity(entry.adapter)]
    return [*found, "quantised", entry.quantise] if entry.quantise else found


def _base_identity(entry: Entry) -> list[Any]:
    if entry.kind == "wheel":
        return ["conversion", entry.revision, CONVERSION_FORMAT]
    if entry.kind == "hub":
        repository = hub.repository(entry.source)
        return ["hub", repository, hub.commit(entry.source)]
    return [entry.kind, *model_files.stamp(Path(entry.source))]


def revision(entry: Entry) -> str:
    """The revision shown to a person: a SHA-256, a hub commit, or a stamp of the files.

    An adapter's follows its base's, after a plus sign.
    """
    shown = _base_revision(entry)
    if not entry.adapter:
        return shown
    return f"{shown}+{_stamp(adapters.identity(entry.adapter))}"


def _base_revision(entry: Entry) -> str:
    if entry.kind == "wheel":
        return entry.revision
    if entry.kind == "hub":
        return hub.commit(entry.source)
    return _stamp(_base_identity(entry))


def _stamp(values: list[Any]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]
