"""From what a person did to what is selected: pure functions, no Dash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from pydantic import ValidationError

from dash_app.state.address import from_query, parse, to_query
from dash_app.state.context import Event, PageId
from dash_app.state.run import RunRef, out_of_range
from dash_app.state.selection import MAX_PINS, Selection, ask, spelt_out
from dash_app.state.stores import PARTS, split

#: Pins are the one set that a person can fill.
FULL = f"{MAX_PINS} tokens are pinned, as many as the curves can tell apart. Unpin one first."


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that happened.

    Attributes:
        component, property: What reported it.
        value: What it reported; for a button or a key, ``{"to": ...}`` or ``{"url": ...}``, for
            Run ``{"form": ...}``; with ``"from"`` where a control did.
    """

    component: str
    property: str
    value: Any


@dataclass(frozen=True, slots=True)
class Reduced:
    """The selection after it.

    Attributes:
        ignored: What in an address meant nothing.
        full: Sets that took no more, so that what was to be added was left out.
        from_address: Whether an address was opened.
        writers: By field, who changed it last; a request counts for all of its fields.
    """

    selection: Selection
    ignored: tuple[str, ...] = ()
    full: tuple[str, ...] = ()
    from_address: bool = False
    writers: Mapping[str, str] = field(default_factory=dict)


def read_run(data: Mapping[str, Any] | None) -> RunRef | None:
    """The run that the page shows, if its store holds one."""
    try:
        return RunRef.model_validate(data) if data else None
    except ValidationError:
        return None


def unseen(go: Mapping[str, Any] | None, note: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """What buttons and keys reported and the selection does not hold yet.

    Dash drops an answer when the same callback is asked again meanwhile, and with it what the
    answer was to. So the browser repeats its reports until the store QUERY has their number.
    """
    seen = int((note or {}).get("seen", 0))
    reports = (go or {}).get("reports", ())
    return [report for report in reports if int(report.get("n", 0)) > seen]


def reduce_all(
    happenings: Sequence[Happening],
    current: Selection,
    run: RunRef | None,
    base: Selection,
    events: Sequence[Event],
) -> Reduced:
    """What is selected after all of ``happenings``, one after the other."""
    reduced = Reduced(current)
    for happening in happenings:
        after = reduce(happening, reduced.selection, run, base, events)
        reduced = Reduced(
            after.selection,
            (*reduced.ignored, *after.ignored),
            (*reduced.full, *after.full),
            reduced.from_address or after.from_address,
            {**reduced.writers, **_written(happening, reduced.selection, after.selection)},
        )
    return reduced


def _written(happening: Happening, before: Selection, after: Selection) -> dict[str, str]:
    names = [
        name for name in Selection.model_fields if getattr(before, name) != getattr(after, name)
    ]
    if before.attempt != after.attempt:
        names += PARTS["request"]
    return dict.fromkeys(names, _source(happening))


def _source(happening: Happening) -> str:
    """Who did it: the control itself, where the browser reported for it."""
    reported = happening.value or {}
    control = reported.get("from") if happening.component == PageId.GO else None
    return str(control or happening.component)


def reduce(
    happening: Happening,
    current: Selection,
    run: RunRef | None,
    base: Selection,
    events: Sequence[Event],
) -> Reduced:
    """What is selected after ``happening``."""
    if happening.component == PageId.URL:
        return _opened(str(happening.value or ""), current, base)
    if happening.component != PageId.GO:
        return Reduced(_from_event(happening, current, run, events))
    target = happening.value or {}
    if "url" in target:
        return _opened(str(target["url"]), current, base)
    if "form" in target:
        return Reduced(_asked(target["form"], current))
    return _went(str(target.get("to", "")), current)


def address_note(
    reduced: Reduced, current: Selection, base: Selection, seen: int
) -> dict[str, Any]:
    """What the browser's address becomes, what to say about it, and the last report seen.

    A new request is a new entry in the browser's history; a move within a run replaces the last.
    """
    asked = reduced.selection.attempt != current.attempt
    return {
        "query": to_query(reduced.selection, base),
        "push": asked and not reduced.from_address,
        "ignored": list(reduced.ignored),
        "full": list(reduced.full),
        "seen": seen,
    }


def changed_parts(current: Selection, wanted: Selection) -> dict[str, dict[str, Any]]:
    """The stores whose content changes, with the new content."""
    before, after = split(current), split(wanted)
    fresh = current.attempt == 0
    return {part: after[part] for part in PARTS if fresh or before[part] != after[part]}


def notices(
    ignored: Sequence[str], selection: Selection, run: RunRef | None, full: Sequence[str] = ()
) -> tuple[str, ...]:
    """What a person is told about what was asked for and does not exist, or has no room."""
    lines = [FULL] if full else []
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


def _went(target: str, current: Selection) -> Reduced:
    pairs, full = spelt_out(parse_qsl(target, keep_blank_values=True), current)
    return Reduced(_named(pairs, current), full=full)


def _asked(form: Any, current: Selection) -> Selection:
    """Ask for what the form holds; what is nonsense there stays as it was."""
    given = form if isinstance(form, dict) else {}
    names = [name for name in PARTS["request"] if name in given and name != "attempt"]
    wanted, _ = parse([(name, str(given[name])) for name in names], current)
    return ask(current, **_request(wanted))


def _named(pairs: list[tuple[str, str]], current: Selection) -> Selection:
    wanted, _ = parse(pairs, current)
    if any(name in PARTS["request"] for name, _ in pairs):
        also = {name for name, _ in pairs} - {*PARTS["request"], "attempt"}
        chosen = {name: getattr(wanted, name) for name in also if name in Selection.model_fields}
        return ask(current, **_request(wanted), **chosen)
    return wanted


def _request(selection: Selection) -> dict[str, Any]:
    return {name: getattr(selection, name) for name in ("model", "prompt", "new", "template")}


def _from_event(
    happening: Happening, current: Selection, run: RunRef | None, events: Sequence[Event]
) -> Selection:
    for event in events:
        if (event.component, event.property) == (happening.component, happening.property):
            return event.reduce(happening.value, current, run)
    return current
