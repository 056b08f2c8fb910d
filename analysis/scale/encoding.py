"""Requests as JSON values. Never pickle."""

from __future__ import annotations

from typing import Any

from analysis import codec, registry  # noqa: F401 - the registry defines every spec
from analysis.contract.specs import Spec
from analysis.errors import SpecError
from analysis.worker.messages import Request


def encode_request(request: Request) -> Any:
    """Return a request as a JSON value."""
    return codec.to_json(request, {})


def decode_request(value: Any) -> Request:
    """Return the request of ``encode_request``.

    Raises:
        SpecError: If the value is not a request, or names an unknown spec type.
    """
    try:
        found = codec.from_json(value, {}, {**Spec.types_by_name, "Request": Request})
        return Request(found.kind, found.model, found.fingerprint, found.specs)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        hint = "Run the same version on all machines."
        raise SpecError("A request could not be read.", hint) from error
