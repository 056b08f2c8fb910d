"""Convert the arguments of specs and public functions to their annotated types, or refuse them.

Importable without torch.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from functools import lru_cache, wraps
from numbers import Integral, Real
from os import PathLike
from pathlib import PurePath
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import psutil

from analysis.errors import NotEnoughMemoryError, SpecError

F = TypeVar("F", bound=Callable[..., Any])

#: No count, index or seed needs more than 63 bits.
_TOO_LARGE = 1 << 63
#: How a hint describes a type, by the type's name.
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "True or False",
    "str": "text",
    "PathLike": "a path",
    "Model": "the result of analysis.load_model",
    "Trace": "the result of analysis.trace",
}


def whole_number(name: str, value: Any) -> int:
    """``value`` as an int below 2^63. Numpy and torch integers pass, fractions and booleans don't.

    Raises:
        SpecError: If the value is not such a number. The error names the option and the value.
    """
    plain = _plain(value)
    if isinstance(plain, bool) or not isinstance(plain, Integral) or abs(int(plain)) >= _TOO_LARGE:
        raise _wrong(name, value, int)
    if name == "seed" and int(plain) < 0:  # numpy's generators take none
        raise SpecError(f"The seed can't be {plain}.", "Choose a seed of 0 or more.")
    return int(plain)


def number(name: str, value: Any) -> float:
    """``value`` as a float. NaN is refused.

    Raises:
        SpecError: If the value is not a number. The error names the option and the value.
    """
    plain = _plain(value)
    if isinstance(plain, bool) or not isinstance(plain, Real):
        raise _wrong(name, value, float)
    try:
        converted = float(plain)
    except OverflowError:
        converted = math.nan
    if math.isnan(converted):
        raise _wrong(name, value, float)
    return converted


def convert(name: str, value: Any, hint: Any) -> Any:
    """``value`` as the type of an annotation.

    Numbers, flags, text and sequences of them are converted; sequences become tuples.

    Args:
        name: The option's name, for the error.
        value: What the user gave.
        hint: The annotation, resolved.

    Raises:
        SpecError: If the value has another type.
    """
    kinds = _kinds(hint)
    if value is None and NoneType in kinds:
        return None
    for kind in kinds:
        if kind is not NoneType:
            try:
                return _convert(name, value, kind)
            except SpecError as error:
                if len(kinds) == 1:
                    raise
                last = error
    wanted = [_described(kind) for kind in kinds if kind is not NoneType]
    raise SpecError(f"{name} can't be {_shown(value)}.", f"Give {_joined(wanted)}.") from last


def unknown_option(name: str, allowed: Collection[str], what: str) -> SpecError:
    """The error for an option that does not exist, with the nearest one that does."""
    near = difflib.get_close_matches(name, allowed, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"Choose one of: {', '.join(sorted(allowed))}."
    return SpecError(f"{what} has no option {name!r}.", hint)


def convert_fields(instance: Any) -> None:
    """Convert each field of a frozen dataclass to its annotated type.

    Raises:
        SpecError: If a value has another type.
    """
    for name, hint in _hints_of(cast(Any, type(instance))).items():
        value = getattr(instance, name)
        converted = convert(name, value, hint)
        if converted is not value:
            object.__setattr__(instance, name, converted)


@lru_cache(maxsize=256)
def _hints_of(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {one.name: hints[one.name] for one in fields(kind)}


def out_of_memory(what: str, error: BaseException) -> NotEnoughMemoryError | None:
    """The typed error for an out-of-memory error of numpy or torch; None for another error.

    An estimate refuses work that does not fit before it starts; this catches what it missed.
    """
    text = str(error)
    known = isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__
    if not known and "can't allocate memory" not in text:
        return None
    free = psutil.virtual_memory().available / 1e9
    return NotEnoughMemoryError(
        f"{what} ran out of memory: {text[:200]}. {free:.1f} GB are free.",
        "Choose fewer tokens, rows or positions.",
    )


def checked(function: F) -> F:
    """A public function whose arguments are converted to their annotated types, or refused.

    Only numbers, flags, text and tuples of them are converted; the function itself checks the rest.

    Args:
        function: Its parameters ``model`` and ``trace`` must be a ``Model`` and a ``Trace``.

    Raises:
        SpecError: By the returned function: an argument does not exist, is missing, or has
            another type.
    """
    signature = inspect.signature(function)
    hints = get_type_hints(function)
    names = [name for name, one in signature.parameters.items() if one.kind != one.VAR_KEYWORD]
    takes_any = len(names) < len(signature.parameters)

    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        """Convert the arguments, call the function, and raise a typed error if memory runs out."""
        unknown = [name for name in options if name not in names]
        if unknown and not takes_any:
            raise unknown_option(unknown[0], names, function.__name__)
        try:
            given = signature.bind(*args, **options)
        except TypeError as error:
            raise SpecError(
                f"{function.__name__} can't be called with these arguments: {error}.",
                f"Its arguments are: {', '.join(names)}.",
            ) from error
        for name, value in given.arguments.items():
            if name in names:
                given.arguments[name] = convert(name, value, hints.get(name, Any))
        try:
            return function(*given.args, **given.kwargs)
        except (MemoryError, RuntimeError) as error:
            raise out_of_memory(function.__name__, error) or error from error

    return call  # type: ignore[return-value]


def _flag(name: str, value: Any) -> bool:
    plain = _plain(value)
    if not isinstance(plain, bool):
        raise _wrong(name, value, bool)
    return plain


def _text(name: str, value: Any) -> str:
    if not isinstance(value, (str, PurePath)):
        raise _wrong(name, value, str)
    return str(value)


_CONVERTERS: dict[Any, Callable[[str, Any], Any]] = {
    bool: _flag, int: whole_number, float: number, str: _text,
}  # fmt: skip


def _convert(name: str, value: Any, kind: Any) -> Any:
    if kind in _CONVERTERS:
        return _CONVERTERS[kind](name, value)
    if get_origin(kind) in (tuple, Sequence):
        return _convert_sequence(name, value, get_args(kind))
    kind = PathLike if get_origin(kind) is PathLike else kind
    if isinstance(kind, type) and kind is not Any and not isinstance(value, kind):
        raise _wrong(name, value, kind)
    return value


def _convert_sequence(name: str, value: Any, parts: tuple[Any, ...]) -> Any:
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise SpecError(f"{name} can't be {_shown(value)}.", "Give a list.")
    items = list(value)
    if len(parts) == 1 or parts[1] is Ellipsis:
        return tuple(convert(name, item, parts[0]) for item in items)
    if len(items) != len(parts):
        raise SpecError(f"{name} has {len(items)} values.", f"Give {len(parts)}.")
    return tuple(convert(name, item, part) for item, part in zip(items, parts, strict=True))


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a union; any other annotation alone."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _plain(value: Any) -> Any:
    """A numpy or torch scalar as Python's own number."""
    if hasattr(value, "tolist") and not getattr(value, "shape", ()):
        return value.tolist()
    return value


def _wrong(name: str, value: Any, kind: Any) -> SpecError:
    return SpecError(f"{name} can't be {_shown(value)}.", f"Give {_described(kind)}.")


def _described(kind: Any) -> str:
    """What to give for an annotation, in words."""
    if get_origin(kind) in (tuple, Sequence):
        return "a list"
    return _WORDS.get(getattr(kind, "__name__", ""), getattr(kind, "__name__", "another value"))


def _joined(words: list[str]) -> str:
    several = list(dict.fromkeys(words))
    return " or ".join(filter(None, [", ".join(several[:-1]), several[-1]]))


def _shown(value: Any) -> str:
    """A value as short text that can be displayed anywhere."""
    text = repr(value) if isinstance(value, (str, bytes, int, float)) else type(value).__name__
    return text[:40].encode("utf-8", "replace").decode()
