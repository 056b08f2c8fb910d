"""The fingerprint of a model's weights, found without loading them.

Importable without torch: the web process needs it for the memo's keys.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from analysis.model import adapters, catalog, hub, model_files
from analysis.model.catalog import Entry

#: Version of the converter's output; conversions of an older version are made again.
CONVERSION_FORMAT = 1


def fingerprint(model: Entry | str, dtype: str | None = None) -> str:
    """The identity of a model's weights, their revision and dtype.

    Args:
        model: An entry, or an argument of ``catalog.find``.
        dtype: "float32", "float16", "bfloat16", or torch's own. None: the entry's, else the
            setting's, else float32.

    Returns:
        32 hexadecimal digits.

    Raises:
        UnknownModelError: If there is no such model.
        ModelLoadError: If a hub model is not cached and the hub can't be reached.
        SpecError: If the dtype is not known.
    """
    entry = catalog.find(model) if isinstance(model, str) else catalog.existing(model)
    parts = [_identity(entry), catalog.dtype_of(entry, dtype)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _identity(entry: Entry) -> list[Any]:
    """What identifies an entry's weights, as JSON values."""
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
    """The revision to display: a SHA-256, a hub commit, or a stamp of the files.

    With an adapter: ``base+adapter``.
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
