"""The one writer of the selection: every click, key, control and address ends here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dash import Dash, Input, Output, State, ctx, no_update, set_props
from dash.exceptions import PreventUpdate

from dash_app.reduce import (
    Happening,
    Reduced,
    address_note,
    changed_parts,
    read_run,
    reduce_all,
    unseen,
)
from dash_app.shell import Context, Event, PageId
from dash_app.state import PARTS, RunRef, Selection, join


def register(app: Dash, context: Context, events: Sequence[Event]) -> None:
    """Add the callback that writes the selection's stores."""
    states = {state: State(*state) for event in events for state in event.states}

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
            "further": list(states.values()),
        },
    )
    def select(
        search: Any, go: Any, values: Any, stored: list[Any], note: Any, run: Any, further: Any
    ) -> list[Any]:
        current, reports = join(*stored), unseen(go, note)
        happenings = [
            *_opening(search, current),
            *(Happening(PageId.GO, "data", report) for report in reports),
            *_events(events, values, dict(zip(states, further, strict=True))),
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
    """Contents of the stores after all that has happened; controls that mirror them are set."""
    reduced = reduce_all(happenings, current, run, context.base(), events)
    mirror(frozenset(h.component for h in happenings), current, reduced.selection, context)
    return _stores(current, reduced, context.base(), seen)


def _stores(current: Selection, reduced: Reduced, base: Selection, seen: int) -> list[Any]:
    parts = changed_parts(current, reduced.selection)
    note = address_note(reduced, current, base, seen)
    return [*(parts.get(part, no_update) for part in PARTS), note]


def mirror(sources: frozenset[str], before: Selection, after: Selection, context: Context) -> None:
    """Set the controls that show a part of the selection, unless the change came from them."""
    for name, control in context.mirrors.items():
        value = getattr(after, name)
        changed = before.attempt == 0 or getattr(before, name) != value
        if changed and sources.isdisjoint((control.component, *control.sources)):
            set_props(control.component, {control.property: value})


def _opening(search: str | None, current: Selection) -> list[Happening]:
    """The address counts when the page opens, and when the browser says that it has changed."""
    changed = any(item["prop_id"] == f"{PageId.URL}.search" for item in ctx.triggered)
    return [Happening(PageId.URL, "search", search)] if changed or current.attempt == 0 else []


def _events(
    events: Sequence[Event], values: Sequence[Any], states: Mapping[tuple[str, str], Any]
) -> list[Happening]:
    """What views reported. A report is emptied once it counts: none is lost or counts twice."""
    return [
        Happening(
            event.component,
            event.property,
            (value, *(states[state] for state in event.states)) if event.states else value,
        )
        for event, value in zip(events, values, strict=True)
        if value is not None
    ]
