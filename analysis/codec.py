"""Specs and results as JSON, and results as bytes: arrays in safetensors, the rest in its header.

Nothing is ever pickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeAlias

import numpy as np
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from analysis.contract.specs import Result
from analysis.errors import StoreError

Array: TypeAlias = np.ndarray[Any, Any]


def encode(
    result: Any, origin: dict[str, str] | None = None, about: Mapping[str, Any] | None = None
) -> bytes:
    """Turn a result into bytes.

    Args:
        result: Any ``Result``.
        origin: The model that made it: source, revision and dtype.
        about: More to keep with it, as JSON values.
    """
    arrays: dict[str, Array] = {}
    parts = {"result": to_json(result, arrays), "origin": origin or {}}
    document = json.dumps({**parts, "about": about} if about else parts)
    # One entry only: safetensors writes several in an order that changes from call to call.
    return bytes(save_arrays(arrays, metadata={"document": document}))


def origin(data: bytes) -> dict[str, str]:
    """The model that made the result in bytes of ``encode``: source, revision, dtype.

    Raises:
        StoreError: If the bytes are not what ``encode`` made.
    """
    try:
        found: dict[str, str] = _document(data)["origin"]
    except Exception as error:
        raise _unreadable() from error
    return found


def about(data: bytes) -> dict[str, Any]:
    """What ``encode`` kept with a result.

    Raises:
        StoreError: If the bytes are not what ``encode`` made.
    """
    try:
        found: dict[str, Any] = _document(data).get("about", {})
    except Exception as error:
        raise _unreadable() from error
    return found


def decode(data: bytes, *, frozen: bool = False) -> Any:
    """Turn bytes of ``encode`` back into a result.

    Args:
        data: The bytes.
        frozen: Whether its arrays are read-only, so that several threads can share them.

    Raises:
        StoreError: If the bytes are not what ``encode`` made.
    """
    try:
        arrays = load_arrays(data)
        for array in arrays.values():
            array.flags.writeable = not frozen
        return from_json(_document(data)["result"], arrays, Result.types_by_name)
    except Exception as error:
        raise _unreadable() from error


def _document(data: bytes) -> dict[str, Any]:
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    found: dict[str, Any] = json.loads(header["__metadata__"]["document"])
    return found


def _unreadable() -> StoreError:
    return StoreError("A memoised result could not be read.", "It is computed again.")


def to_json(value: Any, arrays: dict[str, Array]) -> Any:
    """Return dataclasses, tuples and plain values as a JSON value; dataclasses keep their name.

    Args:
        value: What to convert.
        arrays: Gets the numpy arrays, by the names that stand for them.
    """
    if isinstance(value, np.ndarray):
        name = f"a{len(arrays)}"
        arrays[name] = np.ascontiguousarray(value)
        return {"$array": name}
    if is_dataclass(value):
        members = {
            field.name: to_json(getattr(value, field.name), arrays) for field in fields(value)
        }
        return {"$type": type(value).__name__, **members}
    if isinstance(value, (tuple, list)):
        return [to_json(item, arrays) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def from_json(value: Any, arrays: dict[str, Array], types: Mapping[str, type[Any]]) -> Any:
    """Return the value of ``to_json``.

    Args:
        value: A JSON value.
        arrays: The arrays by name.
        types: The dataclasses that may be created, by name.

    Raises:
        KeyError: If it names another type or a missing array.
        TypeError: If a type gets wrong members.
    """
    if isinstance(value, list):
        return tuple(from_json(item, arrays, types) for item in value)
    if isinstance(value, dict) and "$array" in value:
        return arrays[value["$array"]]
    if isinstance(value, dict):
        members = {
            name: from_json(item, arrays, types) for name, item in value.items() if name != "$type"
        }
        return types[value["$type"]](**members)
    return value
