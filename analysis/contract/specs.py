"""The base class of specs, validation of options and indices, and the memo's key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from numbers import Integral
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

from analysis.errors import SpecError

#: Version of the meaning and layout of results. Memo entries of another version are not read.
SCHEMA = 7

Answer_co = TypeVar("Answer_co", covariant=True)


class Spec(Generic[Answer_co]):
    """Base of all specs: frozen, hashable inputs. The answer to a ``Spec[Grid]`` is a ``Grid``.

    A spec contains only what changes the answer, so that users with equal requests share one
    computation.
    """

    __slots__ = ()
    types_by_name: ClassVar[dict[str, type[Any]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Spec.types_by_name[cls.__name__] = cls

    @classmethod
    def from_options(cls, **options: Any) -> Self:
        """A spec from the options that a user named. A default may depend on other options."""
        return cls(**options)


def resolve_index(name: str, value: int, size: int) -> int:
    """Turn an index, possibly counted from the end, into one from the start.

    Raises:
        SpecError: If it is out of range.
    """
    if not -size <= value < size:
        raise SpecError(
            f"{name} {value} does not exist.", f"Use {0} to {size - 1}, or {-size} to -1."
        )
    return value % size


def cache_key(fingerprint: str, *specs: Spec[Any]) -> str:
    """The memo's key of an answer.

    Args:
        fingerprint: Identifies the model's weights, revision and dtype.
        *specs: The request. A spec's ``model`` field is left out: the fingerprint replaces it.

    Returns:
        64 hexadecimal digits: SHA-256 of canonical JSON. It never contains prompt text.
    """
    parts: list[Any] = [SCHEMA, fingerprint]
    for spec in specs:
        values = asdict(cast(Any, spec))
        values.pop("model", None)
        parts.append([type(spec).__name__, values])
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def as_tuple(values: int | Sequence[int] | None) -> tuple[int, ...]:
    """One id, several, or none, as a tuple."""
    if values is None:
        return ()
    if isinstance(values, Integral):
        return (int(values),)
    return tuple(int(value) for value in values)  # type: ignore[union-attr]
