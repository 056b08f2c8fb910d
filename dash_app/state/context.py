"""What all views share: the ids of the page's own parts, and what callbacks are given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, TypeVar

from dash.development.base_component import Component

from analysis.contract.specs import Spec
from analysis.tracing.specs import RunResult, RunSpec, TraceSpec
from dash_app.settings import Settings
from dash_app.state.examples import DEFAULT
from dash_app.state.selection import RunRef, Selection


class PageId(StrEnum):
    """Stores, and the parts of the page outside any view.

    Each store has one writer: the parts of the selection, QUERY included, the callback in
    ``selection.py``; GO the browser's click and key handlers (``assets/js/page.js``); SCHEME the
    theme handler there; STATUS the background job; RUN the callback that adopts its result.
    """

    URL = "url"
    GO = "go"
    QUERY = "query"
    REQUEST = "request"
    CELL = "cell"
    FOCUS = "focus"
    PINS = "pins"
    LENS = "lens"
    COLOUR = "colour"
    WINDOW = "window"
    ADDS = "adds"
    DIFFER = "differ"
    CURVE = "curve"
    METHOD = "method"
    LINK = "link"
    THEME = "theme"
    SCHEME = "scheme"
    STATUS = "status"
    RUN = "run"
    ALERT = "alert"
    OFFLINE = "offline"
    DISMISS = "alert-dismiss"
    TOGGLE = "theme-toggle"
    BADGE = "ledger-badge"


Answer = TypeVar("Answer")


class Service(Protocol):
    """What the page asks of ``analysis.service.Service``."""

    @property
    def problem(self) -> str:
        """What a person should know about the service, or empty."""
        ...

    def ask(self, subject: TraceSpec | str, spec: Spec[Answer], job: Any = None) -> Answer:
        """Answer a spec of ``analysis.registry``, asked of a forward pass or of a model."""
        ...

    def peek(self, subject: TraceSpec | str, spec: Spec[Answer]) -> Answer | None:
        """The memo's answer, or None."""
        ...

    def keep(self, content: str) -> str:
        """Keep an uploaded text under the hash of what it says."""
        ...

    def kept(self, name: str) -> str | None:
        """A kept text, or None."""
        ...


#: Makes the job of one stage of a request, given the part of the whole that it is (0 to 1).
NewJob = Callable[[float, float], Any]


@dataclass(frozen=True, slots=True)
class Mirror:
    """A control that shows one field of the selection.

    Attributes:
        component: Its ``value`` is set.
        sources: Components after whose reports it is not set: it may hold a later draft.
    """

    component: str
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Context:
    """What callbacks work with; made once per app, never global.

    Attributes:
        service: Answers requests.
        settings: The server's settings.
        models: (name, title) of what can be picked.
        mirrors: Controls, by the field of the selection that they show.
        manager: Dash's background callback manager.
        jobs: From a background callback's ``set_progress`` to a maker of its jobs; ``patient=True``
            for long work, which lets clicks go first.
    """

    service: Any
    settings: Settings
    models: tuple[tuple[str, str], ...]
    mirrors: Mapping[str, Mirror] = field(default_factory=dict)
    manager: Any = None
    jobs: Callable[..., NewJob] = lambda _set_progress, **_: lambda _start, _end: None

    def base(self) -> Selection:
        """The selection of a page whose URL says nothing."""
        return Selection(model=self.settings.default_model, prompt=DEFAULT.prompt, new=DEFAULT.new)


#: (what the component reports, the selection, the run if there is one) -> selection
Reducer = Callable[[Any, Selection, RunRef | None], Selection]


@dataclass(frozen=True, slots=True)
class Event:
    """Something a person does in a view that changes the selection.

    Attributes:
        component, property: What Dash reports; emptied once it has counted.
        reduce: The new selection.
    """

    component: str
    property: str
    reduce: Reducer


@dataclass(frozen=True, slots=True)
class View:
    """One part of the page: its layout, its callbacks, and what it does to the selection."""

    name: str
    layout: Callable[[Context], Component]
    register: Callable[[Any, Context], None]
    events: tuple[Event, ...] = ()
    mirrors: Mapping[str, Mirror] = field(default_factory=dict)


def result_of(service: Service, run: RunRef) -> RunResult:
    """The run that a reference stands for (from the memo)."""
    chat = run.template == "on"
    return service.ask(run.model, RunSpec(run.model, run.prompt, new_tokens=run.new, template=chat))


def trace_of(run: RunRef) -> TraceSpec:
    """The forward pass that every other result of a run hangs on."""
    return TraceSpec(run.model, run.token_ids)
