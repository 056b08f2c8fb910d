"""Requests and errors as JSON, on their way through Redis. Never pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from analysis import errors, registry  # noqa: F401 - the registry defines every spec
from analysis.contract.specs import Spec
from analysis.errors import AnalysisError, SpecError
from analysis.worker.messages import Request


def pack_request(request: Request) -> str:
    """A request as JSON text."""
    packed = [_pack(spec) for spec in request.specs]
    return json.dumps([request.kind, request.model, request.fingerprint, packed])


def unpack_request(text: str) -> Request:
    """A request out of ``pack_request``.

    Raises:
        SpecError: If it is none, or names a kind of spec that does not exist: only the dataclasses
            of the modules above are ever made from it.
    """
    known = Spec.types_by_name
    try:
        kind, model, fingerprint, packed = json.loads(text)
        found = tuple(_unpack(spec, known) for spec in packed)
    except (ValueError, KeyError, TypeError) as error:
        raise SpecError("A request could not be read.", "Run the same version everywhere.") from (
            error
        )
    return Request(str(kind), str(model), str(fingerprint), found)


def _pack(value: Any) -> Any:
    if is_dataclass(value):
        said = {field.name: _pack(getattr(value, field.name)) for field in fields(value)}
        return {"$spec": type(value).__name__, **said}
    if isinstance(value, (tuple, list)):
        return [_pack(item) for item in value]
    return value


def _unpack(value: Any, known: Mapping[str, type[Any]]) -> Any:
    if isinstance(value, list):
        return tuple(_unpack(item, known) for item in value)
    if isinstance(value, dict):
        said = {name: _unpack(item, known) for name, item in value.items() if name != "$spec"}
        return known[value["$spec"]](**said)
    return value


def pack_error(error: AnalysisError) -> str:
    """An error as JSON text: class, message, hint."""
    return json.dumps([type(error).__name__, error.message, error.hint])


def unpack_error(text: str) -> AnalysisError:
    """The error of ``pack_error``; a plain one if the class is none of ours."""
    try:
        name, message, hint = json.loads(text)
    except (ValueError, TypeError):
        return AnalysisError("The worker failed and could not say why.", "Run it again.")
    return errors.rebuild(str(name), str(message), str(hint))
