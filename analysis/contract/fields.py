"""The fields of a spec as options with names and types, for the command line and the reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from analysis.contract.choices import Choices
from analysis.contract.specs import Spec


@dataclass(frozen=True, slots=True)
class OptionField:
    """One field of a spec, or of a spec inside it.

    Attributes:
        path: Its name; inside another spec "flow.method" and so on.
        kind: The type of one value: int, float, bool or str.
        many: Whether it takes several values.
        default: Its default; None if it has none.
        required: Whether a value must be given.
        help: What it means.
        choices: Its table, if it has one.
    """

    path: str
    kind: type[Any]
    many: bool
    default: Any
    required: bool
    help: str
    choices: Choices[Any] | None


def option_fields(spec: type[Spec[Any]], prefix: str = "") -> Iterator[OptionField]:
    """The fields of a spec. The fields of a spec inside it stand in its place."""
    hints = get_type_hints(spec)
    for one in fields(spec):  # type: ignore[arg-type]
        path, kinds = prefix + one.name, _kinds(hints[one.name])
        inner = next((kind for kind in kinds if issubclass(kind, Spec)), None)
        if inner is not None:
            yield from option_fields(inner, f"{path}.")
            continue
        default = one.default if one.default_factory is MISSING else one.default_factory()
        yield OptionField(
            path=path,
            kind=next(kind for kind in kinds if kind not in (tuple, NoneType)),
            many=tuple in kinds,
            default=None if default is MISSING else default,
            required=default is MISSING,
            help=one.metadata.get("help", ""),
            choices=one.metadata.get("choices"),
        )


def _kinds(hint: Any) -> list[type[Any]]:
    """The types that a hint is made of: ``tuple[int, ...] | None`` gives tuple, int, NoneType."""
    if get_origin(hint) is None:
        return [hint] if isinstance(hint, type) else []
    own = [tuple] if get_origin(hint) is tuple else []
    return own + [kind for part in get_args(hint) for kind in _kinds(part)]


def _value(value: Any, hint: Any) -> Any:
    """Several values as a tuple; a single one as it is if the field accepts that."""
    if not isinstance(value, list):
        return value
    alone = get_origin(hint) is not tuple and type(value[0]) in get_args(hint)
    return value[0] if len(value) == 1 and alone else tuple(value)


def build(spec: type[Spec[Any]], given: Mapping[str, Any], prefix: str = "") -> Any:
    """A spec from values by path; what is not given gets its default.

    Raises:
        SpecError: If a value is not valid.
    """
    hints, values = get_type_hints(spec), {}
    for one in fields(spec):  # type: ignore[arg-type]
        path = prefix + one.name
        inner = next((kind for kind in _kinds(hints[one.name]) if issubclass(kind, Spec)), None)
        if inner is not None:
            values[one.name] = build(inner, given, f"{path}.")
        elif path in given:
            values[one.name] = _value(given[path], hints[one.name])
    return spec.from_options(**values)
