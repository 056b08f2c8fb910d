"""Saved directions: vectors of the residual stream with a name, to steer by.

A direction is one safetensors file with a JSON document in its header, in ``directions`` of the
data folder, beside the learned lenses. No other folder is read, so a request can't name a path. The
header has the fingerprint of the model's weights; another model is refused. Importable without
torch.
"""

from __future__ import annotations

import hashlib
import json
import logging
import struct
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path

import numpy as np

from analysis import paths
from analysis.contract.specs import Floats, ModelInfo
from analysis.errors import SpecError, StoreError
from analysis.tracing.interventions import check_direction_name

#: Version of the file layout; the name of the tensor, and of the document in the header.
FORMAT, _VECTOR, _KEY = 1, "vector", "direction"
#: Largest file to read, bytes: a vector of 65,536 float32 numbers and its header.
_LARGEST = 1 << 19
_log = logging.getLogger("stratascope.directions")


@dataclass(frozen=True, slots=True)
class Direction:
    """A saved direction, as described by its file's header.

    Attributes:
        name: Its name.
        model: The name of its model.
        fingerprint: The fingerprint of that model's weights and dtype.
        row: The residual row whose states it was found in; None if it belongs to none.
        norm: Its L2 norm.
        source: Where it comes from, in a sentence.
    """

    name: str
    model: str
    fingerprint: str
    row: int | None
    norm: float
    source: str


def folder() -> Path:
    """The folder of all directions."""
    return paths.data_dir() / "directions"


def save(found: Direction, vector: Floats, *, replace: bool = False) -> None:
    """Write a direction.

    Args:
        found: Its description.
        vector: [d_model] float32.
        replace: Whether a direction of that name may be replaced.

    Raises:
        SpecError: If the name is taken or not valid.
        StoreError: If the file can't be written.
    """
    check_direction_name(found.name)
    path = _path(found.name)
    if path.exists() and not replace:
        raise SpecError(
            f"There is already a direction {found.name!r}.", "Choose another name, or replace it."
        )
    _write(path, vector, found)


def _write(path: Path, vector: Floats, found: Direction) -> None:
    from safetensors.numpy import save as as_bytes

    document = json.dumps({"format": FORMAT, **asdict(found)})
    half = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        half.write_bytes(as_bytes({_VECTOR: vector}, metadata={_KEY: document}))
        half.replace(path)
    except OSError as error:
        half.unlink(missing_ok=True)
        raise StoreError(f"{path} can't be written ({error}).", "Free some space there.") from error


def names() -> tuple[str, ...]:
    """The names of all files of directions."""
    return tuple(sorted(path.name for path in folder().glob("*.safetensors")))


def of_fingerprint(fingerprint: str) -> tuple[Direction, ...]:
    """The saved directions that fit weights of a fingerprint, by name."""
    return tuple(one for one in every() if one.fingerprint == fingerprint)


def every() -> tuple[Direction, ...]:
    """Every readable direction, by name."""
    found = []
    for path in sorted(folder().glob("*.safetensors")):
        try:
            facts = path.stat()
            found.append(_described(path, facts.st_size, facts.st_mtime_ns))
        except (StoreError, OSError) as error:
            _log.warning("the direction %s is skipped: %s", path.name, error)
    return tuple(found)


@lru_cache(maxsize=256)
def _described(path: Path, _size: int, _modified: int) -> Direction:
    return _read(path)[0]


def load(info: ModelInfo, name: str) -> Floats:
    """[d_model] the saved direction of a name, float32.

    Args:
        info: The model that is steered.
        name: The direction's name.

    Raises:
        SpecError: If there is none of that name, or it belongs to another model.
        StoreError: If its file is damaged.
    """
    check_direction_name(name)
    path = _path(name)
    if not path.is_file():
        raise SpecError(
            f"There is no saved direction {name!r}.",
            "List them with 'stratascope direction list'.",
        )
    found, vector = _read(path)
    if found.fingerprint != info.fingerprint:
        raise SpecError(
            f"The direction {name!r} belongs to other weights or another dtype: {found.model}.",
            f"Find one in the states of {info.name}.",
        )
    if vector.shape != (info.d_model,):
        raise StoreError(f"{path.name} does not match its header.", "Save the direction again.")
    return vector


def digest(name: str) -> str:
    """The SHA-256 of a direction's file; "none" if it can't be read."""
    try:
        return hashlib.sha256(_bytes(_path(name))).hexdigest()
    except (OSError, StoreError):
        return "none"


def _path(name: str) -> Path:
    return folder() / f"{name}.safetensors"


def _bytes(path: Path) -> bytes:
    with path.open("rb") as opened:
        content = opened.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise StoreError(f"{path.name} is too large for a direction.", "Remove the file.")
    return content


def _read(path: Path) -> tuple[Direction, Floats]:
    from safetensors import SafetensorError
    from safetensors.numpy import load as tensors

    try:
        content = _bytes(path)
        (length,) = struct.unpack("<Q", content[:8])
        document = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][_KEY])
        if document.pop("format") != FORMAT:
            raise StoreError(f"{path.name} has another version.", "Save the direction again.")
        found = Direction(**{one.name: document[one.name] for one in fields(Direction)})
        vector = np.asarray(tensors(content)[_VECTOR], np.float32)
    except (SafetensorError, ValueError, KeyError, TypeError, OSError, struct.error) as error:
        raise StoreError(f"{path.name} is not a direction.", "Remove the file.") from error
    if found.name != path.stem or not np.isfinite(vector).all():
        raise StoreError(f"{path.name} does not match its header.", "Save the direction again.")
    return found, vector
