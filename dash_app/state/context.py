"""What all views share: the page's own ids, the selection as text, the context of callbacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Protocol, TypeVar
from urllib.parse import parse_qsl, urlencode

from dash import Output
from pydantic import TypeAdapter, ValidationError

from analysis.contract.specs import Spec
from analysis.tracing.edits import parse_all
from analysis.tracing.specs import RunResult, TraceSpec
from dash_app.errors import Problem
from dash_app.settings import Settings
from dash_app.state.edited_run import predicted
from dash_app.state.examples import defaults_for
from dash_app.state.exports import Export
from dash_app.state.selection import RunRef, Selection, run_spec

#: The stores that hold the selection; a view listens to the parts that it shows.
PARTS: dict[str, tuple[str, ...]] = {
    "request": (
        "model", "prompt", "new", "template", "sampling", "temperature", "nucleus", "seed",
        "branch", "attempt",
    ),
    "branches": ("branches",), "cell": ("row", "pos"),
    "focus": ("layer", "heads", "weights", "first_key", "reads"), "pins": ("pins",),
    "lens": ("component", "head", "source", "decoder", "norm", "similarity", "candidates"),
    "colour": ("colour", "asked", "part", "by"), "window": ("show", "fold"),
    "find": ("find",), "adds": ("adds", "adder"), "differ": ("readers", "differ"),
    "curve": ("curve",), "method": (
        "method", "rule", "sources", "mass", "least", "start", "sinks", "root", "direction",
        "split", "scale", "effects", "first", "last", "token", "foil",
    ),
    "link": ("link",), "suite": ("suite", "prompts", "digits"),
    "sweep": (
        "clean", "corrupted", "answer", "against", "axes", "way", "metric", "align", "pairs",
        "inside", "apart", "other", "circuit", "cut_by", "edge_score", "edge_places", "measured",
    ),
    "edits": ("edits", "version"), "theme": ("theme",),
    "arrangement": ("page", "wide", "folded", "panes", "order"),
}  # fmt: skip


def split(selection: Selection) -> dict[str, dict[str, Any]]:
    """The content of the stores for a selection."""
    values = selection.model_dump(mode="json")
    return {part: {name: values[name] for name in names} for part, names in PARTS.items()}


def join(*parts: Mapping[str, Any] | None) -> Selection:
    """The selection in the stores; missing or invalid values become defaults."""
    try:
        values = {name: value for part in parts for name, value in dict(part or {}).items()}
        return Selection.model_validate(values)
    except (TypeError, ValueError):  # also pydantic's own error
        return Selection()


def read_run(data: Mapping[str, Any] | None) -> RunRef | None:
    """The run in the page's store; None if there is none."""
    try:
        return RunRef.model_validate(data) if data else None
    except ValidationError:
        return None


def _with_limits(kind: Any, limits: list[Any]) -> Any:
    """A field's type with its limits, as pydantic checks it on its own."""
    return Annotated[kind, *limits] if limits else kind


_IN_URL = tuple(name for name in Selection.model_fields if name != "attempt")
_ADAPTERS: dict[str, TypeAdapter[Any]] = {
    name: TypeAdapter(_with_limits(field.annotation, field.metadata))
    for name, field in Selection.model_fields.items()
}


def parse(pairs: Iterable[tuple[str, str]], base: Selection) -> tuple[Selection, tuple[str, ...]]:
    """Change ``base`` by values given as text, which are never trusted.

    Returns:
        The new selection, and the names that were unknown or had an invalid value.
    """
    values: dict[str, Any] = {}
    ignored: list[str] = []
    for name, text in pairs:
        if name not in _IN_URL:
            ignored.append(name)
            continue
        try:
            values[name] = _ADAPTERS[name].validate_python(text)
        except ValidationError:
            ignored.append(name)
    return base.model_copy(update=values), tuple(dict.fromkeys(ignored))


def from_query(query: str, base: Selection) -> tuple[Selection, tuple[str, ...]]:
    """Read the query string of an address; ``base`` has the defaults."""
    try:
        text = query.removeprefix("?")
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=100, errors="replace")
    except ValueError:
        return base, ("the whole address",)
    return parse(pairs, defaults_for(dict(pairs).get("model", base.model), base))


def to_query(selection: Selection, base: Selection, always: Sequence[str] = ()) -> str:
    """The query that ``from_query`` reads back: what differs from ``base``, and ``always``."""
    base = defaults_for(selection.model, base)
    names = {n for n in _IN_URL if n in always or getattr(selection, n) != getattr(base, n)}
    names |= {"method"} if names else set()  # a link without it is an old one: update.from_link
    pairs = [(name, _text(getattr(selection, name))) for name in _IN_URL if name in names]
    return "?" + urlencode(pairs, safe=",") if pairs else ""


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return "" if value is None else str(value)


class PageId(StrEnum):
    """Stores, and the parts of the page outside any view.

    Each store has one writer. The callback in ``update.py`` writes the parts of the selection and
    QUERY. In the browser (``assets/js/page.js``), the click and key handlers write EVENTS, and the
    theme handler writes SCHEME. The run's job writes STATUS. The callback that adopts its result
    writes RUN.
    """

    URL = "url"
    EVENTS = "events"
    QUERY = "query"
    ASKED = "asked"
    DRAWN = "drawn"
    REQUEST = "request"
    BRANCHES = "branches"
    CELL = "cell"
    FOCUS = "focus"
    PINS = "pins"
    LENS = "lens"
    COLOUR = "colour"
    WINDOW = "window"
    FIND = "find"
    ADDS = "adds"
    DIFFER = "differ"
    CURVE = "curve"
    METHOD = "method"
    LINK = "link"
    SUITE = "suite"
    SWEEP = "sweep"
    EDITS = "edits"
    THEME = "theme"
    ARRANGEMENT = "arrangement"
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
    """The part of ``analysis.service.Service`` that the page uses."""

    @property
    def problem(self) -> str:
        """A problem of the service that users should know; empty if there is none."""

    def ask(self, subject: TraceSpec | str, spec: Spec[Answer], job: Any = None) -> Answer:
        """The result of a spec of ``analysis.registry`` on a forward pass or a model."""

    def peek(self, subject: TraceSpec | str, spec: Spec[Answer]) -> Answer | None:
        """The result if the memo has it, else None."""

    def version(self, model: str) -> str:
        """Names a model's files: while it stays, so do results."""

    def keep(self, content: str) -> str:
        """Store an uploaded text; returns its hash."""

    def kept(self, name: str) -> str | None:
        """A stored text, or None."""


#: Makes the request of one stage of a job, given the stage's part of the whole (0 to 1).
NewJob = Callable[[float, float], Any]


@dataclass(frozen=True, slots=True)
class Mirror:
    """A control that shows one field of the selection.

    Attributes:
        component: The control, whose ``value`` is set.
        sources: Components whose reports leave it as it is, because the user may have typed more.
    """

    component: str
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Context:
    """What callbacks work with; made once per app, never global.

    Attributes:
        service: Computes results.
        settings: The server's settings.
        models: (name, title) of the models on offer.
        mirrors: Controls, by the field of the selection that they show.
        manager: Dash's background callback manager.
        jobs: Makes requests, given ``set_progress`` of a background callback; patient or not.
        starts: Buttons that start a job: whether it needs a run. ``register_work`` fills it.
    """

    service: Any
    settings: Settings
    models: tuple[tuple[str, str], ...]
    mirrors: Mapping[str, Mirror] = field(default_factory=dict)
    manager: Any = None
    jobs: Callable[..., NewJob] = lambda _set_progress, **_: lambda _start, _end: None
    starts: dict[str, bool] = field(default_factory=dict)

    def base(self) -> Selection:
        """The selection of a page whose address has no query."""
        return defaults_for(model := self.settings.default_model, Selection(model=model))


#: (value that the component reports, the selection, the run if there is one) -> selection
Reducer = Callable[[Any, Selection, RunRef | None], Selection]


@dataclass(frozen=True, slots=True)
class EventHandler:
    """How an event in a view changes the selection.

    Attributes:
        component, property: What Dash reports; emptied once it was counted.
        reduce: Computes the new selection.
    """

    component: str
    property: str
    reduce: Reducer


@dataclass(frozen=True, slots=True)
class Shown:
    """What a drawing returns if there is more to say than its values.

    Attributes:
        values: The values of its outputs; one value if it has one output.
        complete: Whether nothing is missing; otherwise its job is started.
        note: Given to the next drawing, if the drawing asks for it (``Drawing.notes``).
    """

    values: Any
    complete: bool = True
    note: Any = None


class JobStart(StrEnum):
    """What computes the results that a drawing needs and the memo lacks.

    With a job (``jobs.job_and_draw.register_job``) the drawing gets its result as ``ready``.
    Without one, ``draw`` itself is called with the service that computes, and then once more.
    """

    NONE = "none"
    AUTOMATIC = "automatic"
    ON_REQUEST = "on request"


@dataclass(frozen=True, slots=True)
class Drawing:
    """One row of the table of what the page draws.

    Attributes:
        name: A name; its stores are ``{name}-wanted`` and ``{name}-ready``.
        outputs: What it sets.
        draw: A plain function of the service, the run and the selection. It gets the values of
            ``controls`` by name, and ``theme``, ``ready`` and ``note`` if it declares them. It
            returns the values, or ``Shown``. The service that it gets does not compute: a result
            that the memo lacks ends the drawing, and starts its job.
        parts: Parts of the selection that it depends on.
        controls: Controls of the view that it depends on, by the name of the argument.
        theme: Whether it depends on the colour scheme.
        job: What computes the results that the memo lacks.
        computed: Parts of the selection that the job depends on; None: all of ``parts``.
        notes: Whether it gets the ``note`` of its last drawing.
        without_run: Whether it is drawn before the first run, with None for the run.
        files: Names the files that it reads beside the memo; it is drawn again when they change.
    """

    name: str
    outputs: tuple[Output, ...]
    draw: Callable[..., Any]
    parts: tuple[PageId, ...] = ()
    controls: Mapping[str, str] = field(default_factory=dict)
    theme: bool = False
    job: JobStart = JobStart.NONE
    computed: tuple[PageId, ...] | None = None
    notes: bool = False
    without_run: bool = False
    files: Callable[[], Any] | None = None

    @property
    def wanted(self) -> str:
        """The store that holds the key of the job that is needed; None if none is."""
        return f"{self.name}-wanted"

    @property
    def ready(self) -> str:
        """The store that holds the result of the job."""
        return f"{self.name}-ready"


@dataclass(frozen=True, slots=True)
class Happened:
    """What the page has messages about.

    Attributes:
        ignored: Names in an address that have no meaning.
        full: Sets that are full, so that an item was not added.
        refused, requested: Why a run was not requested; whether one was.
        ended: How the last request ended, if it ended now: the content of the store STATUS.
        problems, shown: Defects of drawings; the run whose views the page shows, if any.
    """

    ignored: tuple[str, ...] = ()
    full: tuple[str, ...] = ()
    refused: str = ""
    requested: bool = False
    ended: Mapping[str, Any] | None = None
    problems: tuple[Problem, ...] = ()
    shown: RunRef | None = None


@dataclass(frozen=True, slots=True)
class Requests:
    """How requests for a run are answered; one view has this.

    Attributes:
        remembered: From the selection to how its request ended, as the store STATUS holds it, if
            the memo has all first results; else None.
        perform: Computes the first results of a request; the reference to the run.
        messages: The page's messages after what happened; None leaves them as they are.
    """

    remembered: Callable[[Context, Selection], dict[str, Any] | None]
    messages: Callable[[Context, Happened, Selection], list[Any] | None]
    perform: Callable[[Context, Selection, NewJob], RunRef]


@dataclass(frozen=True, slots=True)
class View:
    """One part of the page.

    Attributes:
        name: Its name.
        layout: Its panes (``page.panes.Pane``) and other parts, by name.
        register: Adds its jobs, and its callbacks that no gesture triggers.
        events: How what it reports changes the selection.
        mirrors: Its controls that show a field of the selection, by field.
        drawings: What it draws.
        requests: How it answers requests for a run.
        exports: What can be exported, by pane. A pane of several views has the numbers of all.
    """

    name: str
    layout: Callable[[Context], Mapping[str, Any]]
    register: Callable[[Any, Context], None] = lambda _app, _context: None
    events: tuple[EventHandler, ...] = ()
    mirrors: Mapping[str, Mirror] = field(default_factory=dict)
    drawings: tuple[Drawing, ...] = ()
    requests: Requests | None = None
    exports: Mapping[str, Export] = field(default_factory=dict)


def result_of(service: Service, run: RunRef) -> RunResult:
    """The run that a reference names (from the memo), with the predictions of its edits."""
    plain = service.ask(run.model, run_spec(run))
    return predicted(service, plain, trace_of(run)) if run.edits else plain


def trace_of(run: RunRef) -> TraceSpec:
    """The forward pass from which every other result of a run is computed."""
    return TraceSpec(run.model, run.token_ids, parse_all(run.edits) if run.edits else ())
