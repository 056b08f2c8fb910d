"""The one writer of the selection: every click, key, control and address ends here.

Pure functions turn what a person did into a new selection; one callback stores it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl

from analysis.errors import SpecError
from analysis.flow_graph.options import SHARES
from analysis.tracing.interventions import MAX_EDITS
from dash_app.state.branches import MAX_BRANCHES
from dash_app.state.context import (
    PARTS,
    Context,
    EventHandler,
    PageId,
    from_query,
    parse,
    split,
    to_query,
)
from dash_app.state.selection import (
    MAX_PINS,
    MAX_PROMPT_CHARACTERS,
    RunRef,
    Selection,
    out_of_range,
    request_run,
)
from dash_app.state.sets import expand_sets

#: Fields whose change can't be undone by the browser's Back button.
LOOK = frozenset({"theme", "wide", "folded", "panes", "order", "suite", "prompts", "digits"})
#: Shown when a prompt is too long to be sent.
TOO_LONG = (
    "The prompt has {length:,} characters. This page accepts at most"
    f" {MAX_PROMPT_CHARACTERS:,}. Shorten it."
)
#: Shown when an item is added to a full set.
FULL = {
    "pins": f"{MAX_PINS} tokens are pinned, the most that the curves can show. Unpin one first.",
    "branches": f"{MAX_BRANCHES} branches are kept, the most that are possible. Remove one first.",
    "edits": f"The run has {MAX_EDITS} edits, the most that are possible. Remove one first.",
}


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a person did.

    Attributes:
        component, property: What reported it.
        value: What it reported; for a button or a key, ``{"to": ...}`` or ``{"url": ...}``, for
            Run ``{"form": ...}``; with ``"from"`` if a control reported it.
    """

    component: str
    property: str
    value: Any


@dataclass(frozen=True, slots=True)
class Reduced:
    """The selection after an event.

    Attributes:
        selection: The new selection.
        ignored: Names in an address that have no meaning.
        full: Sets that are full, so that an item was not added.
        refused: Why a run was not requested; empty if it was, or none was asked for.
        from_address: Whether an address was opened.
        writers: By field, the component that changed it last; a request counts for all its fields.
    """

    selection: Selection
    ignored: tuple[str, ...] = ()
    full: tuple[str, ...] = ()
    refused: str = ""
    from_address: bool = False
    writers: Mapping[str, str] = field(default_factory=dict)


def new_reports(
    sent: Mapping[str, Any] | None, note: Mapping[str, Any] | None
) -> list[Mapping[str, Any]]:
    """Reports of buttons and keys that the selection does not contain yet.

    Dash drops an answer when the same callback is called again meanwhile, and with it the change
    that the answer would have made. So the browser repeats its reports until the store QUERY has
    their number.
    """
    seen = whole((note or {}).get("seen"))
    reports = (sent or {}).get("reports")
    found = [one for one in reports if isinstance(one, dict)] if isinstance(reports, list) else []
    return [report for report in found if whole(report.get("n")) > seen]


def whole(value: Any) -> int:
    """A number that the browser counts; 0 if it was forged as something else."""
    return value if isinstance(value, int) else 0


def reduce_all(
    events: Sequence[Event],
    current: Selection,
    run: RunRef | None,
    base: Selection,
    handlers: Sequence[EventHandler],
) -> Reduced:
    """The selection after all of ``events``, one after the other."""
    reduced = Reduced(current)
    for event in events:
        after = reduce(event, reduced.selection, run, base, handlers)
        reduced = Reduced(
            after.selection,
            (*reduced.ignored, *after.ignored),
            (*reduced.full, *after.full),
            after.refused or reduced.refused,
            reduced.from_address or after.from_address,
            {**reduced.writers, **_writers(event, reduced.selection, after.selection)},
        )
    return reduced


def _writers(event: Event, before: Selection, after: Selection) -> dict[str, str]:
    names = [
        name for name in Selection.model_fields if getattr(before, name) != getattr(after, name)
    ]
    if before.attempt != after.attempt:
        names += PARTS["request"]
    return dict.fromkeys(names, _source(event))


def _source(event: Event) -> str:
    """The component that caused an event: the control itself if the browser reported for it."""
    reported = event.value or {}
    control = reported.get("from") if event.component == PageId.EVENTS else None
    return str(control or event.component)


def reduce(
    event: Event,
    current: Selection,
    run: RunRef | None,
    base: Selection,
    handlers: Sequence[EventHandler],
) -> Reduced:
    """The selection after ``event``."""
    if event.component == PageId.URL:
        return _open(str(event.value or ""), current, base)
    if event.component != PageId.EVENTS:
        return Reduced(_handle(event, current, run, handlers))
    target = event.value or {}
    if "url" in target:
        opened = _open(str(target["url"]), current, base)
        look = {name: getattr(current, name) for name in LOOK} if target.get("undo") else {}
        return replace(opened, selection=opened.selection.model_copy(update=look))
    if "form" in target:
        return _submit(target["form"], current)
    return _select(str(target.get("to", "")), current)


def address_note(
    reduced: Reduced, current: Selection, base: Selection, seen: int
) -> dict[str, Any]:
    """What the store QUERY holds: the new address, messages about it, and the last report seen.

    A change adds an entry to the browser's history, unless only the look of the page changed
    (``LOOK``). ``kind`` names what changed: changes of one kind in quick succession are one entry.
    ``link`` is an address that opens the same page on a server with other defaults.
    """
    changed = [
        name
        for name in Selection.model_fields
        if getattr(reduced.selection, name) != getattr(current, name)
    ]
    kept = not reduced.from_address and not set(changed) <= LOOK
    return {
        "query": to_query(reduced.selection, base),
        "link": to_query(reduced.selection, base, always=("model", "prompt", "new")),
        "push": kept,
        "kind": _kind(set(changed)),
        "ignored": list(reduced.ignored),
        "full": list(reduced.full),
        "seen": seen,
    }


def _kind(changed: set[str]) -> str:
    if "attempt" in changed:
        return "run"
    return "cell" if changed <= {"row", "pos", "layer"} else ",".join(sorted(changed))


def changed_parts(current: Selection, wanted: Selection) -> dict[str, dict[str, Any]]:
    """The stores whose content changes, with the new content."""
    before, after = split(current), split(wanted)
    fresh = current.attempt == 0
    return {part: after[part] for part in PARTS if fresh or before[part] != after[part]}


def notices(
    ignored: Sequence[str], selection: Selection, run: RunRef | None, full: Sequence[str] = ()
) -> tuple[str, ...]:
    """Messages about what an address or a click could not do."""
    lines = [FULL[name] for name in dict.fromkeys(full)]
    if ignored:
        names = ", ".join(ignored)
        lines.append(f"Ignored unknown or invalid parts of the address: {names}.")
    moved = out_of_range(selection, run) if run else ()
    if moved:
        names = ", ".join(moved)
        lines.append(f"Out of range for this run, so the nearest value is shown: {names}.")
    return tuple(lines)


def from_link(query: str, base: Selection) -> tuple[Selection, tuple[str, ...]]:
    """Read a link: as ``from_query``, but an old link draws the flow that it drew.

    A link names the flow method since the default is a method in logits. One without it, such as
    ``?prompt=Hello``, draws the earlier default. A link to a page alone has today's default.
    """
    names = {part.partition("=")[0] for part in query.removeprefix("?").split("&") if part}
    is_old = "method" not in names and bool(names - {"page"})
    return from_query(query, base.model_copy(update={"method": SHARES}) if is_old else base)


def _open(query: str, current: Selection, base: Selection) -> Reduced:
    wanted, ignored = from_link(query, base)
    wanted = wanted.model_copy(update={"attempt": current.attempt})
    if current.attempt == 0 or _request(wanted) != _request(current):
        wanted = wanted.model_copy(update={"attempt": current.attempt + 1})
    return Reduced(wanted, ignored, from_address=True)


def _select(target: str, current: Selection) -> Reduced:
    pairs, full = expand_sets(parse_qsl(target, keep_blank_values=True), current)
    wanted, _ = parse(pairs, current)
    if not any(name in PARTS["request"] for name, _ in pairs):
        return Reduced(wanted, full=full)
    if "prompt" in dict(pairs) and "branch" not in dict(pairs):
        wanted = wanted.model_copy(update={"branch": ""})
    also = {name for name, _ in pairs} - {*PARTS["request"], "attempt"}
    chosen = {name: getattr(wanted, name) for name in also if name in Selection.model_fields}
    return Reduced(request_run(current, **_request(wanted), **chosen), full=full)


def _submit(form: Any, current: Selection) -> Reduced:
    """Request a run with the form's values; an invalid value leaves its field unchanged.

    A prompt that is too long is refused: to run an earlier prompt in its place, or its beginning,
    would mislead.
    """
    given = form if isinstance(form, dict) else {}
    length = len(str(given.get("prompt", "")))
    if length > MAX_PROMPT_CHARACTERS:
        return Reduced(current, refused=TOO_LONG.format(length=length))
    names = [name for name in PARTS["request"] if name in given and name != "attempt"]
    wanted, _ = parse([(name, str(given[name])) for name in names], current)
    return Reduced(request_run(current, **_request(wanted)))


def _request(selection: Selection) -> dict[str, Any]:
    return {name: getattr(selection, name) for name in PARTS["request"] if name != "attempt"}


def clicked_point(click: Any, *names: str) -> tuple[int, ...]:
    """Whole numbers of the point that a click on a chart chose, such as "x" and "y".

    Raises:
        SpecError: If the value is no click, or the point lacks a number.
    """
    try:
        point = {"curveNumber": 0, **click["points"][0]}
        return tuple(round(point[name]) for name in names)
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise SpecError("This click names no point of the chart.", "Reload the page.") from error


def _handle(
    event: Event, current: Selection, run: RunRef | None, handlers: Sequence[EventHandler]
) -> Selection:
    for handler in handlers:
        if (handler.component, handler.property) == (event.component, event.property):
            return handler.reduce(event.value, current, run)
    return current


def mirrored(reduced: Reduced, before: Selection, context: Context) -> dict[str, Any]:
    """New values of the controls that mirror the selection and did not cause the change.

    They travel with the answer and not by ``set_props``, which takes effect even if Dash drops the
    answer.
    """
    return {
        str(control.component): getattr(reduced.selection, name)
        for name, control in context.mirrors.items()
        if before.attempt == 0
        or reduced.writers.get(name) not in (None, control.component, *control.sources)
    }
