"""Results as bytes: arrays in safetensors, the rest as JSON in its header. Never pickle."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from analysis.contract.results import Result
from analysis.errors import StoreError


def encode(result: Any, origin: dict[str, str] | None = None) -> bytes:
    """Turn a result of ``analysis.contract.results`` into bytes.

    Args:
        result: Any of them.
        origin: Which model made it, at which revision.
    """
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    document = json.dumps({"result": _pack(result, arrays), "origin": origin or {}})
    # One entry only: safetensors writes several in an order that changes from call to call.
    return bytes(save_arrays(arrays, metadata={"document": document}))


def origin(data: bytes) -> dict[str, str]:
    """Which model made the result in bytes of ``encode``: source, revision, dtype.

    Raises:
        StoreError: If the bytes are not what ``encode`` made.
    """
    try:
        found: dict[str, str] = _document(data)["origin"]
    except Exception as error:
        raise StoreError("A memoised result could not be read.", "It is computed anew.") from error
    return found


def decode(data: bytes) -> Any:
    """Turn bytes of ``encode`` back into a result.

    Raises:
        StoreError: If the bytes are not what ``encode`` made.
    """
    try:
        return _unpack(_document(data)["result"], load_arrays(data))
    except Exception as error:
        raise StoreError("A memoised result could not be read.", "It is computed anew.") from error


def _document(data: bytes) -> dict[str, Any]:
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    found: dict[str, Any] = json.loads(header["__metadata__"]["document"])
    return found


def _pack(value: Any, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
    if isinstance(value, np.ndarray):
        name = f"a{len(arrays)}"
        arrays[name] = np.ascontiguousarray(value)
        return {"$array": name}
    if is_dataclass(value):
        packed = {field.name: _pack(getattr(value, field.name), arrays) for field in fields(value)}
        return {"$type": type(value).__name__, **packed}
    if isinstance(value, (tuple, list)):
        return [_pack(item, arrays) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _unpack(value: Any, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
    if isinstance(value, list):
        return tuple(_unpack(item, arrays) for item in value)
    if isinstance(value, dict) and "$array" in value:
        return arrays[value["$array"]]
    if isinstance(value, dict):
        kind = Result.types_by_name[value["$type"]]
        return kind(
            **{name: _unpack(item, arrays) for name, item in value.items() if name != "$type"}
        )
    return value
