"""The one writer of the selection: every click, key, control and address ends here.

Pure functions turn what a person did into a new selection; one callback stores it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from dash import Dash, Input, Output, State, ctx, no_update
from dash.exceptions import PreventUpdate

from dash_app.state.context import Context, Event, PageId
from dash_app.state.selection import MAX_PINS, RunRef, Selection, ask, out_of_range, spelt_out
from dash_app.state.stores import PARTS, from_query, join, parse, read_run, split, to_query

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


def register(app: Dash, context: Context, events: Sequence[Event]) -> None:
    """Add the callback that writes the selection's stores."""

    @app.callback(
        [
            *(Output(part, "data") for part in PARTS),
            Output(PageId.QUERY, "data"),
            *(Output(event.component, event.property) for event in events),
        ],
        inputs={
            "search": Input(PageId.URL, "search"),
            "go": Input(PageId.GO, "data"),
            "values": [Input(event.component, event.property) for event in events],
            "stored": [State(part, "data") for part in PARTS],
            "note": State(PageId.QUERY, "data"),
            "run": State(PageId.RUN, "data"),
        },
    )
    def select(
        search: Any, go: Any, values: Any, stored: list[Any], note: Any, run: Any
    ) -> list[Any]:
        current, reports = join(*stored), unseen(go, note)
        happenings = [
            *_opening(search, current),
            *(Happening(PageId.GO, "data", report) for report in reports),
            *_events(events, values),
        ]
        if not happenings:
            raise PreventUpdate
        seen = int(reports[-1]["n"]) if reports else int((note or {}).get("seen", 0))
        return [
            *_answer(happenings, current, read_run(run), context, events, seen),
            *(no_update if value is None else None for value in values),
        ]


def _answer(
    happenings: Sequence[Happening],
    current: Selection,
    run: RunRef | None,
    context: Context,
    events: Sequence[Event],
    seen: int,
) -> list[Any]:
    """Contents of the stores after all that has happened."""
    reduced = reduce_all(happenings, current, run, context.base(), events)
    parts = changed_parts(current, reduced.selection)
    note = {
        **address_note(reduced, current, context.base(), seen),
        "set": mirrored(reduced, current, context),
    }
    return [*(parts.get(part, no_update) for part in PARTS), note]


def mirrored(reduced: Reduced, before: Selection, context: Context) -> dict[str, Any]:
    """What controls that show a part of the selection are set to, unless they set it themselves.

    It goes with the answer and not by ``set_props``, which counts where Dash drops the answer too.
    """
    return {
        str(control.component): getattr(reduced.selection, name)
        for name, control in context.mirrors.items()
        if before.attempt == 0
        or reduced.writers.get(name) not in (None, control.component, *control.sources)
    }


def _opening(search: str | None, current: Selection) -> list[Happening]:
    """The address counts when the page opens, and when the browser says that it has changed."""
    changed = any(item["prop_id"] == f"{PageId.URL}.search" for item in ctx.triggered)
    return [Happening(PageId.URL, "search", search)] if changed or current.attempt == 0 else []


def _events(events: Sequence[Event], values: Sequence[Any]) -> list[Happening]:
    """What views reported. A report is emptied once it counts: none is lost or counts twice."""
    return [
        Happening(event.component, event.property, value)
        for event, value in zip(events, values, strict=True)
        if value is not None
    ]
