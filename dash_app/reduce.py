"""From what a person did to what is selected: pure functions, no Dash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from pydantic import ValidationError

from dash_app.shell import Event, PageId
from dash_app.state import (
    PARTS,
    RunRef,
    Selection,
    ask,
    from_query,
    out_of_range,
    parse,
    split,
    to_query,
)


@dataclass(frozen=True, slots=True)
class Happening:
    """What Dash says has happened.

    Attributes:
        component, property: What reported it.
        value: What it reported.
        search: The address's query string.
        states: Values of further properties, by (component, property).
    """

    component: str
    property: str
    value: Any
    search: str
    states: Mapping[tuple[str, str], Any]


@dataclass(frozen=True, slots=True)
class Reduced:
    """The selection after it; ``ignored`` names what in an address meant nothing."""

    selection: Selection
    ignored: tuple[str, ...] = ()
    from_address: bool = False


def read_run(data: Mapping[str, Any] | None) -> RunRef | None:
    """The run that the page shows, if its store holds one."""
    try:
        return RunRef.model_validate(data) if data else None
    except ValidationError:
        return None


def reduce(
    happening: Happening,
    current: Selection,
    run: RunRef | None,
    base: Selection,
    events: Sequence[Event],
) -> Reduced:
    """What is selected after ``happening``."""
    if current.attempt == 0 or happening.component == PageId.URL:
        return _opened(happening.search, current, base)
    if happening.component != PageId.GO:
        return Reduced(_from_event(happening, current, run, events))
    target = happening.value or {}
    if "url" in target:
        return _opened(str(target["url"]), current, base)
    return Reduced(_went(str(target.get("to", "")), current))


def address_note(reduced: Reduced, current: Selection, base: Selection) -> dict[str, Any] | None:
    """What the browser's address becomes, and what to say about it; None where nothing changes.

    A new request is a new entry in the browser's history; a move within a run replaces the last.
    """
    before, after = to_query(current, base), to_query(reduced.selection, base)
    if before == after and not reduced.from_address:
        return None
    asked = reduced.selection.attempt != current.attempt
    return {
        "query": after,
        "push": asked and not reduced.from_address,
        "ignored": list(reduced.ignored),
    }


def changed_parts(current: Selection, wanted: Selection) -> dict[str, dict[str, Any]]:
    """The stores whose content changes, with the new content."""
    before, after = split(current), split(wanted)
    fresh = current.attempt == 0
    return {part: after[part] for part in PARTS if fresh or before[part] != after[part]}


def notices(ignored: Sequence[str], selection: Selection, run: RunRef | None) -> tuple[str, ...]:
    """What a person is told about an address that asked for what does not exist."""
    lines = []
    if ignored:
        names = ", ".join(ignored)
        lines.append(f"In the address, this meant nothing and was left out: {names}.")
    moved = out_of_range(selection, run) if run else ()
    if moved:
        names = ", ".join(moved)
        lines.append(f"This run does not reach so far, so the nearest is shown: {names}.")
    return tuple(lines)


def _opened(query: str, current: Selection, base: Selection) -> Reduced:
    wanted, ignored = from_query(query, base)
    wanted = wanted.model_copy(update={"attempt": current.attempt})
    if current.attempt == 0 or _request(wanted) != _request(current):
        wanted = wanted.model_copy(update={"attempt": current.attempt + 1})
    return Reduced(wanted, ignored, from_address=True)


def _went(target: str, current: Selection) -> Selection:
    pairs = parse_qsl(target, keep_blank_values=True)
    wanted, _ = parse(pairs, current)
    if any(name in PARTS["request"] for name, _ in pairs):
        return ask(current, **_request(wanted))
    return wanted


def _request(selection: Selection) -> dict[str, Any]:
    return {name: getattr(selection, name) for name in ("model", "prompt", "new")}


def _from_event(
    happening: Happening, current: Selection, run: RunRef | None, events: Sequence[Event]
) -> Selection:
    for event in events:
        if (event.component, event.property) == (happening.component, happening.property):
            value = happening.value
            if value is None:
                return current
            if event.states:
                value = (value, *(happening.states[state] for state in event.states))
            return event.reduce(value, current, run)
    return current
