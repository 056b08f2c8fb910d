"""Draws what a change moved, from the memo only.

A view declares its drawings as rows of a table (``context.Drawing``). A drawing whose inputs are as
they were is skipped, and a value that is as it was is not sent. So one callback can answer every
gesture with small data, and never waits for the model worker: a drawing that lacks a result names
the job that computes it.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from dash import no_update
from plotly.io.json import to_json_plotly

from analysis.errors import AnalysisError
from analysis.store.memo import LruCache
from dash_app.errors import Problem, explain, explained
from dash_app.state.context import PARTS, Drawing, JobStart, PageId, Service, Shown
from dash_app.state.selection import RunRef, Selection


class NotInMemoError(BaseException):
    """A drawing needs a result that is not computed yet.

    It is not an ``Exception``, because a view shows every ``Exception`` in place of its picture.
    """


class MemoOnly:
    """A service that never computes.

    Args:
        service: Has the memo.
        miss: Raised by ``ask`` if the memo does not have the result.
    """

    def __init__(self, service: Service, miss: BaseException) -> None:
        self._service, self._miss = service, miss
        self.lacked: list[tuple[Any, Any]] = []  # what it was asked for in vain
        self.only_memo = True  # whether nothing else was read

    def __getattr__(self, name: str) -> Any:
        self.only_memo = False
        return getattr(self._service, name)

    def peek(self, subject: Any, spec: Any) -> Any:
        """The memo's result; None if there is none yet."""
        found = self._service.peek(subject, spec)
        if found is None:
            self.lacked.append((subject, spec))
        return found

    def ask(self, subject: Any, spec: Any, _job: Any = None) -> Any:
        """The memo's result.

        Raises:
            BaseException: ``miss``, if there is none.
        """
        found = self.peek(subject, spec)
        if found is None:
            raise self._miss
        return found


class Watched:
    """A service that keeps the error of a request, which a view would only show."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.problem: Problem | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._service, name)

    def ask(self, subject: Any, spec: Any, job: Any = None) -> Any:
        """The service's result."""
        try:
            return self._service.ask(subject, spec, job)
        except Exception as error:
            self.problem = explain(error)
            raise


@dataclass(frozen=True, slots=True)
class PageState:
    """Everything that a drawing may depend on.

    Attributes:
        run: The run that is shown; None before the first.
        selection: What is selected.
        scheme: Light or dark.
        controls: Values of the views' own controls, by component.
        ready: Results of jobs, by the name of their drawing.
        wanted: Jobs that were requested, by the name of their drawing.
        drawn: What was drawn, by the name of the drawing: see ``Record``.
    """

    run: RunRef | None
    selection: Selection
    scheme: Any = None
    controls: Mapping[str, Any] = field(default_factory=dict)
    ready: Mapping[str, Any] = field(default_factory=dict)
    wanted: Mapping[str, Any] = field(default_factory=dict)
    drawn: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Answer:
    """What changes in the page.

    Attributes:
        values: Values of outputs, by drawing; ``no_update`` for those that stay.
        wanted: Jobs to start, by drawing; None ends a job that is not needed any more.
        drawn: The page's record of what is drawn, if it changes.
        problems: Defects of drawings, which left their part of the page as it was.
    """

    values: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    wanted: dict[str, str | None] = field(default_factory=dict)
    drawn: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def digest(value: Any) -> str:
    """A short name of a JSON value: equal values, equal names."""
    return _name(json.dumps(value).encode())


def _name(text: bytes) -> str:
    return hashlib.blake2b(text, digest_size=8).hexdigest()


def as_object(value: Any) -> dict[str, Any]:
    """The content of a store, which a client may have forged; empty if it is no object."""
    return value if isinstance(value, dict) else {}


class _Names:
    """Names what drawings depend on; a run and a selection are turned into JSON once for all."""

    def __init__(self, run: RunRef | None, selection: Selection) -> None:
        self._run = digest(run.model_dump() if run else None)
        self._values = selection.model_dump(mode="json")

    def chosen(self, parts: Iterable[PageId], *, but: str = "") -> list[Any]:
        """The parts of the selection."""
        return [self._values[name] for part in parts for name in PARTS[part] if name != but]

    def job(self, drawing: Drawing) -> str:
        """The results that a drawing's job computes."""
        parts = drawing.parts if drawing.computed is None else drawing.computed
        return digest([self._run, self.chosen(parts)])


def job_key(drawing: Drawing, run: RunRef | None, selection: Selection) -> str:
    """Names the results that a drawing's job computes."""
    return _Names(run, selection).job(drawing)


def call(
    drawing: Drawing, service: Any, page: PageState, ready: Any = None, note: Any = None
) -> Any:
    """What a drawing's function returns for the state of a page."""
    further = {name: page.controls.get(control) for name, control in drawing.controls.items()}
    if drawing.theme:
        further["theme"] = page.scheme
    if drawing.job is not JobStart.NONE:
        further["ready"] = ready
    if drawing.notes:
        further["note"] = note
    return drawing.draw(service, page.run, page.selection, **further)


def compute(drawing: Drawing, service: Service, page: PageState) -> dict[str, Any]:
    """Compute what a drawing without a job of its own needs.

    Returns:
        The content of its ``ready`` store: the key, and the problem if there was one.
    """
    watched = Watched(service)
    try:
        call(drawing, watched, page)
        found = watched.problem
    except Exception as error:  # noqa: BLE001 - a view shows most errors itself
        found = explain(error)
    problem = {"problem": [found.message, found.hint, found.request]} if found else {}
    return {"of": job_key(drawing, page.run, page.selection), **problem}


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a drawing drew.

    Attributes:
        texts, digests: Its values as JSON, compressed once the picture is kept, and their names;
            None for values that stay.
        note: The drawing's note.
        lacked: What the memo did not have, and the picture does without.
        complete: Whether nothing is missing.
    """

    texts: tuple[bytes | None, ...]
    digests: tuple[str | None, ...]
    note: Any = None
    lacked: tuple[tuple[Any, Any], ...] = ()
    complete: bool = True

    @property
    def size(self) -> int:
        """About as many bytes as it takes."""
        tokens = sum(len(getattr(subject, "token_ids", ())) for subject, _ in self.lacked)
        return 500 + 500 * len(self.lacked) + 40 * tokens + sum(map(len, filter(None, self.texts)))


#: Bytes of pictures that stay in memory: one has 80 KB, compressed a fifth of that.
PICTURES_BYTES = 8 << 20


class Pictures:
    """What was drawn last, for all pages that ask for the same.

    A picture is kept if all that it shows is in the memo under a name that says what it is: then it
    depends only on the run, the selection, the controls of its view and files that have names.
    Pictures of edited runs are not kept, because an edit may read other files.

    Args:
        finish: Applied to each value that is drawn: what Dash need not know becomes plain JSON.
        limit: Most bytes.
    """

    def __init__(
        self, finish: Callable[[Any], Any] = lambda value: value, limit: int = PICTURES_BYTES
    ) -> None:
        self.finish = finish
        self._kept: LruCache[Drawn] = LruCache(limit, lambda drawn: drawn.size, strict=True)

    def find(self, key: str, note: Any, service: Service) -> Drawn | None:
        """The picture with a name, for a page whose last picture has a note."""
        found = self._kept.get((key, digest(note)))
        if found is None:
            found = self._kept.get(key)
            # A drawing that gets the note that it returns may leave out values.
            if found is None or (note is not None and found.note == note):
                return None
        return None if any(service.peek(*one) is not None for one in found.lacked) else found

    def keep(self, key: str, note: Any, drawn: Drawn) -> None:
        """Keep a picture; one that leaves out values, for pages with the same note."""
        packed = tuple(text and zlib.compress(text, 1) for text in drawn.texts)
        name = (key, digest(note)) if None in packed else key
        self._kept.put(name, replace(drawn, texts=packed))


#: A picture, its values unless it was found, and whether nothing is missing.
Found: TypeAlias = tuple[Drawn, list[Any] | None, bool]


class _Drawer:
    """Draws one page: has its names, and the pictures that it shares with other pages."""

    def __init__(self, service: Service, page: PageState, pictures: Pictures) -> None:
        self.service, self.page, self.pictures = service, page, pictures
        self.names = _Names(page.run, page.selection)
        self._shared = ""  # names the run for all pages
        if page.run is not None and not page.run.edits:
            models = page.run.model, page.selection.other or page.run.model
            with suppress(AnalysisError):  # the drawings report it
                versions = [service.version(model) for model in dict.fromkeys(models)]
                self._shared = digest([versions, page.run.model_dump(exclude={"attempt"})])

    def _state(self, drawing: Drawing) -> list[Any]:
        """What a drawing depends on beside the run and the selection."""
        controls = [self.page.controls.get(one) for one in drawing.controls.values()]
        theme = self.page.scheme if drawing.theme else None
        return [controls, theme, drawing.files() if drawing.files is not None else None]

    def key(self, drawing: Drawing, job: str, ready: Any) -> str:
        """Names what a drawing depends on."""
        return digest([job, self.names.chosen(drawing.parts), *self._state(drawing), ready])

    def _shared_key(self, drawing: Drawing) -> str:
        """The same for all pages; empty if the picture is not for others.

        No drawing shows the number of the request.
        """
        if not self._shared:
            return ""
        chosen = self.names.chosen((*drawing.parts, *(drawing.computed or ())), but="attempt")
        return digest([drawing.name, self._shared, chosen, *self._state(drawing)])

    def draw(self, drawing: Drawing, ready: Mapping[str, Any] | None, note: Any) -> Found:
        """Find a picture, or make it."""
        note = note if drawing.notes else None
        if ready is None:
            return self._from_memo(drawing, note)
        if drawing.job is not JobStart.ON_REQUEST and not {"part", "problem"} & ready.keys():
            with suppress(NotInMemoError):  # what the job computed is there, for all pages
                found = self._from_memo(drawing, note)
                if found[2]:
                    return found
        return self._make(drawing, _reader(self.service, ready), ready, note)

    def _from_memo(self, drawing: Drawing, note: Any) -> Found:
        shared = self._shared_key(drawing)
        if shared and (drawn := self.pictures.find(shared, note, self.service)):
            return drawn, None, drawn.complete
        reader, errors = MemoOnly(self.service, NotInMemoError()), explained.get()
        drawn, values, complete = self._make(drawing, reader, None, note)
        lacked, plain = tuple(reader.lacked), reader.only_memo and errors == explained.get()
        if shared and plain and (complete or lacked):  # else it may look different next time
            self.pictures.keep(shared, note, replace(drawn, lacked=lacked, complete=complete))
        return drawn, values, complete

    def _make(self, drawing: Drawing, reader: Any, ready: Any, note: Any) -> Found:
        found = call(drawing, reader, self.page, ready, note)
        shown = found if isinstance(found, Shown) else Shown(found)
        several = len(drawing.outputs) > 1
        values = list(map(self.pictures.finish, shown.values if several else [shown.values]))
        return _as_text(values, shown.note), values, shown.complete


def draw_changed(
    table: Iterable[Drawing], service: Service, page: PageState, pictures: Pictures | None = None
) -> Answer:
    """Draw every row of a table whose inputs changed; ``pictures`` has those of other pages."""
    answer, now = Answer(), _Drawer(service, page, pictures or Pictures())
    for drawing in table:
        if page.run is not None or drawing.without_run:
            _draw(drawing, now, answer)
    return answer


def _draw(drawing: Drawing, now: _Drawer, answer: Answer) -> None:
    page, name = now.page, drawing.name
    before = as_object(as_object(page.drawn).get(name))
    job = now.names.job(drawing)
    arrived = as_object(page.ready.get(name)) or None
    # Any arrival is part of the key. A late result of an older job may have replaced this job's
    # own before it was drawn; the memo has it then.
    key = now.key(drawing, job, arrived)
    if before.get("key") == key:
        return
    ready = arrived if (arrived or {}).get("of") == job else None
    try:
        drawn, values, complete = now.draw(drawing, ready, before.get("note"))
    except NotInMemoError:
        answer.drawn[name] = {**before, "key": key}
        _want(job, page, name, answer)
        return
    except Exception as error:  # noqa: BLE001 - one view's defect must not stop the others
        answer.problems.append(explain(error))
        return
    answer.values[name], digests = _changed(drawn, values, before.get("values"))
    answer.drawn[name] = {"key": key, "values": digests, "note": drawn.note}
    _want(None if complete else job, page, name, answer)


def _as_text(values: Iterable[Any], note: Any) -> Drawn:
    texts = tuple(None if one is no_update else str(to_json_plotly(one)).encode() for one in values)
    return Drawn(texts, tuple(None if text is None else _name(text) for text in texts), note)


def _changed(drawn: Drawn, values: Any, known: Any) -> tuple[tuple[Any, ...], list[Any]]:
    """The values that the page lacks, ``no_update`` for the others; and all their digests."""
    count = len(drawn.texts)
    digests = list(known) if isinstance(known, list) and len(known) == count else [None] * count
    changed: list[Any] = [no_update] * count
    for place, (text, name) in enumerate(zip(drawn.texts, drawn.digests, strict=True)):
        if text is not None and digests[place] != name:
            digests[place] = name
            changed[place] = json.loads(zlib.decompress(text)) if values is None else values[place]
    return tuple(changed), digests


def _reader(service: Service, ready: Mapping[str, Any]) -> Any:
    """The service that a drawing reads from when its job has passed on a result.

    After its job has ended it is the service itself: the memo may have been unable to store a
    result. After its job has failed, requests fail with the job's problem.
    """
    if "part" in ready:
        return MemoOnly(service, NotInMemoError())
    if "problem" in ready:
        return MemoOnly(service, AnalysisError(*ready["problem"][:2]))
    return service


def _want(job: str | None, page: PageState, name: str, answer: Answer) -> None:
    """Start the job that is needed, or end one that runs and is not needed any more."""
    before, ready = page.wanted.get(name), as_object(page.ready.get(name))
    ended = ready.get("of") == before and "part" not in ready
    if job != before and not (job is None and ended):
        answer.wanted[name] = job
