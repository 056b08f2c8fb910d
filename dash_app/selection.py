"""The one writer of the selection: every click, key, control and address ends here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dash import Dash, Input, Output, State, ctx, no_update, set_props

from dash_app.reduce import Happening, address_note, changed_parts, read_run, reduce
from dash_app.shell import Context, Event, PageId
from dash_app.state import PARTS, Selection, join


def register(app: Dash, context: Context, events: Sequence[Event]) -> None:
    """Add the callback that writes the selection's stores."""
    states = {state: State(*state) for event in events for state in event.states}

    @app.callback(
        [
            *(Output(part, "data") for part in PARTS),
            Output(PageId.QUERY, "data"),
            *(Output(event.component, event.property) for event in events if event.reset),
        ],
        inputs={
            "search": Input(PageId.URL, "search"),
            "go": Input(PageId.GO, "data"),
            "values": [Input(event.component, event.property) for event in events],
            "stored": [State(part, "data") for part in PARTS],
            "run": State(PageId.RUN, "data"),
            "further": list(states.values()),
        },
    )
    def select(
        search: str | None,
        go: dict[str, Any] | None,
        values: list[Any],
        stored: list[dict[str, Any] | None],
        run: dict[str, Any] | None,
        further: list[Any],
    ) -> list[Any]:
        happening = _happening(search, go, further, states)
        current, base = join(*stored), context.base()
        reduced = reduce(happening, current, read_run(run), base, events)
        mirror(happening.component, current, reduced.selection, context)
        parts = changed_parts(current, reduced.selection)
        note = address_note(reduced, current, base)
        return [
            *(parts.get(part, no_update) for part in PARTS),
            no_update if note is None else note,
            *_resets(happening, events),
        ]


def mirror(source: str, before: Selection, after: Selection, context: Context) -> None:
    """Set the controls that show a part of the selection, unless the change came from them."""
    for name, control in context.mirrors.items():
        value = getattr(after, name)
        changed = before.attempt == 0 or getattr(before, name) != value
        if changed and control.component != source and source not in control.sources:
            set_props(control.component, {control.property: value})


def _happening(
    search: str | None,
    go: dict[str, Any] | None,
    further: list[Any],
    states: Mapping[tuple[str, str], State],
) -> Happening:
    trigger = next(iter(ctx.triggered or []), {"prop_id": ".", "value": None})
    component, _, prop = str(trigger["prop_id"]).rpartition(".")
    value = go if component == PageId.GO else trigger["value"]
    return Happening(component, prop, value, search or "", dict(zip(states, further, strict=True)))


def _resets(happening: Happening, events: Sequence[Event]) -> list[Any]:
    hit = (happening.component, happening.property)
    clears = happening.value is not None
    return [
        None if clears and (event.component, event.property) == hit else no_update
        for event in events
        if event.reset
    ]
