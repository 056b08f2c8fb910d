"""The one callback of the page: it answers every gesture with all that the gesture moved.

It applies what the user did (``update.py``), adopts a run, and draws what changed
(``drawings.py``). All results come from the memo, so that one request answers at once.
Jobs compute what the memo lacks. Their results come back here, so that every part of the page has
one writer, and a late result can't replace a newer one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dash import Dash, Input, Output, State, no_update, set_props
from dash.exceptions import PreventUpdate

from dash_app.state.context import (
    PARTS,
    Context,
    Drawing,
    EventHandler,
    Happened,
    JobStart,
    PageId,
    Requests,
    View,
    join,
    read_run,
)
from dash_app.state.drawings import (
    PageState,
    Pictures,
    as_object,
    compute,
    digest,
    draw_changed,
)
from dash_app.state.selection import RunRef, Selection, edited
from dash_app.state.update import (
    Event,
    Reduced,
    address_note,
    changed_parts,
    mirrored,
    new_reports,
    reduce_all,
    whole,
)

#: The mark of the enabled buttons in the store DRAWN.
STARTS = "starts"
#: Values by component and property.
Values = dict[tuple[str, str], Any]


@dataclass(frozen=True, slots=True)
class Gesture:
    """What the callback reads from the page.

    Attributes:
        search: The address's query when the page opened.
        sent: Reports of buttons and keys.
        values: What views reported, in the order of their event handlers.
        stored: The selection's stores.
        note: The store QUERY.
        run: The store RUN.
        asked: The request that a job computes; None if there is none.
        status: How the last request ended.
        page: What drawings depend on, without the run and the selection.
    """

    search: Any
    sent: Any
    values: Sequence[Any]
    stored: Sequence[Any]
    note: Any
    run: Any
    asked: Any
    status: Any
    page: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Page:
    """What the callback knows of the app.

    Attributes:
        context: Settings, and the service.
        drawings: All that can be drawn.
        handlers: Events of views.
        requests: How requests for a run are answered.
        starts: Buttons that start a job and that no drawing enables; first those whose jobs need
            no run.
        pictures: What was drawn last, for all pages.
    """

    context: Context
    drawings: tuple[Drawing, ...]
    handlers: tuple[EventHandler, ...]
    requests: Requests
    starts: tuple[str, ...] = ()
    pictures: Pictures = field(default_factory=Pictures)


def answer(page: Page, gesture: Gesture) -> Values:
    """All that changes in the page after a gesture, or after a job's result."""
    current = join(*gesture.stored)
    reduced, values = _reduced(page, gesture, current)
    selection, requested = reduced.selection, reduced.selection.attempt != current.attempt
    status = gesture.status
    if requested:
        status = page.requests.remembered(page.context, selection)
        values |= _job(selection, status, gesture.asked)
    shown = read_run(gesture.run)
    run = edited(adopted(status, selection, shown), selection)
    if run is not shown and run is not None:
        values[PageId.RUN, "data"] = run.model_dump()
    drawn = as_object(gesture.page.get("drawn"))
    ended = (status or {}).get("attempt") == selection.attempt
    news = status if ended and digest(status) != drawn.get(PageId.STATUS) else None
    state = PageState(run, selection, **gesture.page)
    found = draw_changed(page.drawings, page.context.service, state, page.pictures)
    marks = {PageId.STATUS: digest(news)} if news else {}
    enabled, further = _enabled(page, run, drawn)
    values |= enabled | _drawn(page, found, marks | further, drawn)
    ignored = reduced.ignored or (news and (gesture.note or {}).get("ignored")) or ()
    happened = Happened(
        tuple(ignored),
        reduced.full,
        reduced.refused,
        requested,
        news,
        tuple(found.problems),
        run,
    )
    messages = page.requests.messages(page.context, happened, selection)
    if messages is not None:
        values[PageId.ALERT, "children"] = messages
    return values


def _reduced(page: Page, gesture: Gesture, current: Selection) -> tuple[Reduced, Values]:
    """The selection after what was reported, and the stores that hold it."""
    reports = new_reports(gesture.sent, gesture.note)
    events = [
        *([Event(PageId.URL, "search", gesture.search)] if current.attempt == 0 else []),
        *(Event(PageId.EVENTS, "data", report) for report in reports),
        *_reported(page.handlers, gesture.values),
    ]
    if not events:
        return Reduced(current), {}
    base, run = page.context.base(), read_run(gesture.run)
    reduced = reduce_all(events, current, run, base, page.handlers)
    seen = whole(reports[-1]["n"]) if reports else whole((gesture.note or {}).get("seen"))
    parts = changed_parts(current, reduced.selection)
    values: Values = {(part, "data"): content for part, content in parts.items()}
    values[PageId.QUERY, "data"] = {
        **address_note(reduced, current, base, seen),
        "set": mirrored(reduced, current, page.context),
    }
    for handler, value in zip(page.handlers, gesture.values, strict=True):
        if value is not None:
            values[handler.component, handler.property] = None
    return reduced, values


def _reported(handlers: Sequence[EventHandler], values: Sequence[Any]) -> list[Event]:
    """What views reported. The callback empties each report that it applied."""
    return [
        Event(handler.component, handler.property, value)
        for handler, value in zip(handlers, values, strict=True)
        if value is not None
    ]


def _job(selection: Selection, status: Any, asked: Any) -> Values:
    """Start the job of a new request unless the memo has its results; end the previous job."""
    wanted = None if status else selection.model_dump(include=set(PARTS["request"]))
    return {} if wanted is None and asked is None else {(PageId.ASKED, "data"): wanted}


def adopted(status: Any, selection: Selection, shown: RunRef | None) -> RunRef | None:
    """The run to show: the one that ended last, unless a newer one is requested."""
    if (status or {}).get("attempt") != selection.attempt or "run" not in status:
        return shown
    if shown is not None and shown.attempt == selection.attempt:
        return shown
    return read_run(status["run"])


def _enabled(page: Page, run: RunRef | None, drawn: Mapping[str, Any]) -> tuple[Values, Any]:
    """Enable the buttons whose press is heard from now on, each once: then its job sets it.

    Returns:
        The values, and how many buttons are enabled, as a mark for the store DRAWN.
    """
    starts, before = page.starts, whole(drawn.get(STARTS))
    heard = [name for name in starts if run is not None or not page.context.starts[name]]
    new = heard[before:] if len(heard) > before else []
    return {(name, "disabled"): False for name in new}, ({STARTS: len(heard)} if new else {})


def _drawn(page: Page, found: Any, marks: dict[str, Any], before: Mapping[str, Any]) -> Values:
    values: Values = {}
    for drawing in page.drawings:
        for output, value in zip(drawing.outputs, found.values.get(drawing.name, ()), strict=False):
            if value is not no_update:
                values[_name(output)] = value
        if drawing.name in found.wanted:
            values[drawing.wanted, "data"] = found.wanted[drawing.name]
    if found.drawn or marks:
        values[PageId.DRAWN, "data"] = {**before, **found.drawn, **marks}
    return values


def register(
    app: Dash,
    context: Context,
    views: Sequence[View],
    finish: Callable[[Any], Any] = lambda value: value,
) -> None:
    """Add the callback, and a computation for each drawing whose job is not automatic.

    The views have registered their jobs before.
    """
    page = Page(
        context,
        tuple(drawing for view in views for drawing in view.drawings),
        tuple(handler for view in views for handler in view.events),
        next(view.requests for view in views if view.requests is not None),
        _starts(context, views),
        Pictures(finish),
    )
    outputs = _outputs(page)

    @app.callback(*outputs.values(), inputs=_inputs(page))
    def gesture(page_values: dict[str, Any], **read: Any) -> tuple[Any, ...]:
        stores = {
            name: as_object(read[name]) or None for name in ("note", "asked", "status", "sent")
        }
        values = answer(page, Gesture(**{**read, **stores}, page=page_values))
        if not values:
            raise PreventUpdate
        return tuple(values.get(name, no_update) for name in outputs)

    for drawing in page.drawings:
        if drawing.job is not JobStart.AUTOMATIC:
            _register_computation(app, page, drawing)


def _starts(context: Context, views: Sequence[View]) -> tuple[str, ...]:
    outputs = {_name(output) for view in views for row in view.drawings for output in row.outputs}
    names = sorted(context.starts, key=lambda name: context.starts[name])
    return tuple(name for name in names if (name, "disabled") not in outputs)


def _name(output: Output) -> tuple[str, str]:
    return str(output.component_id), str(output.component_property)


def _outputs(page: Page) -> dict[tuple[str, str], Output]:
    stores = (*PARTS, PageId.QUERY, PageId.RUN, PageId.ASKED, PageId.DRAWN)
    outputs = [
        *(Output(store, "data") for store in stores),
        Output(PageId.ALERT, "children"),
        *(Output(handler.component, handler.property) for handler in page.handlers),
        *(output for drawing in page.drawings for output in drawing.outputs),
        *(Output(drawing.wanted, "data") for drawing in page.drawings),
        *(Output(button, "disabled") for button in page.starts),
    ]
    return {_name(output): output for output in outputs}


def _inputs(page: Page) -> dict[str, Any]:
    controls = {one for drawing in page.drawings for one in drawing.controls.values()}
    return {
        "search": State(PageId.URL, "search"),
        "sent": Input(PageId.EVENTS, "data"),
        "values": [Input(handler.component, handler.property) for handler in page.handlers],
        "stored": [State(part, "data") for part in PARTS],
        "note": State(PageId.QUERY, "data"),
        "run": State(PageId.RUN, "data"),
        "asked": State(PageId.ASKED, "data"),
        "status": Input(PageId.STATUS, "data"),
        "page_values": {
            "scheme": Input(PageId.SCHEME, "data"),
            "controls": {control: Input(control, "value") for control in sorted(controls)},
            "ready": {one.name: Input(one.ready, "data") for one in page.drawings},
            "wanted": {one.name: State(one.wanted, "data") for one in page.drawings},
            "drawn": State(PageId.DRAWN, "data"),
        },
    }


def _register_computation(app: Dash, page: Page, drawing: Drawing) -> None:
    """Compute what one drawing lacks, while the page answers other gestures."""

    @app.callback(
        inputs={
            "wanted": Input(drawing.wanted, "data"),
            "run": State(PageId.RUN, "data"),
            "stored": [State(part, "data") for part in PARTS],
            "controls": {one: State(one, "value") for one in drawing.controls.values()},
        },
        prevent_initial_call=True,
    )
    def work(wanted: Any, run: Any, stored: list[Any], controls: dict[str, Any]) -> None:
        state = PageState(read_run(run), join(*stored), controls=controls)
        if wanted is not None and (state.run is not None or drawing.without_run):
            set_props(drawing.ready, {"data": compute(drawing, page.context.service, state)})
