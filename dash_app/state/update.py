"""The one writer of the selection: every click, key, control and address ends here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dash import Dash, Input, Output, State, ctx, no_update
from dash.exceptions import PreventUpdate

from dash_app.state.context import Context, Event, PageId
from dash_app.state.reduce import (
    Happening,
    Reduced,
    address_note,
    changed_parts,
    read_run,
    reduce_all,
    unseen,
)
from dash_app.state.run import RunRef
from dash_app.state.selection import Selection
from dash_app.state.stores import PARTS, join


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
