"""Draws what a change moved, from the memo only.

A view declares its drawings as rows of a table (``context.Drawing``). A drawing whose inputs are as
they were is skipped, and a value that is as it was is not sent. So one callback can answer every
gesture with small data, and never waits for the model worker: a drawing that lacks a result names
the job that computes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dash import no_update
from plotly.io.json import to_json_plotly

from analysis.errors import AnalysisError
from dash_app.errors import Problem, explain
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

    def __getattr__(self, name: str) -> Any:
        return getattr(self._service, name)

    def ask(self, subject: Any, spec: Any, _job: Any = None) -> Any:
        """The memo's result.

        Raises:
            BaseException: ``miss``, if there is none.
        """
        found = self._service.peek(subject, spec)
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
    """A short name of a value: equal values, equal names."""
    text = to_json_plotly(value)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def as_object(value: Any) -> dict[str, Any]:
    """The content of a store, which a client may have forged; empty if it is no object."""
    return value if isinstance(value, dict) else {}


def _chosen(selection: Selection, parts: Iterable[PageId]) -> dict[str, Any]:
    names = {name for part in parts for name in PARTS[part]}
    return selection.model_dump(mode="json", include=names)


def job_key(drawing: Drawing, run: RunRef | None, selection: Selection) -> str:
    """Names the results that a drawing's job computes."""
    parts = drawing.parts if drawing.computed is None else drawing.computed
    return digest([run.model_dump() if run else None, _chosen(selection, parts)])


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


def draw_changed(table: Iterable[Drawing], service: Service, page: PageState) -> Answer:
    """Draw every row of a table whose inputs changed since it was drawn."""
    answer = Answer()
    for drawing in table:
        if page.run is not None or drawing.without_run:
            _draw(drawing, service, page, answer)
    return answer


def _draw(drawing: Drawing, service: Service, page: PageState, answer: Answer) -> None:
    name, before = drawing.name, as_object(as_object(page.drawn).get(drawing.name))
    job = job_key(drawing, page.run, page.selection)
    arrived = as_object(page.ready.get(name)) or None
    # Any arrival is part of the key. A late result of an older job may have replaced this job's
    # own before it was drawn; the memo has it then.
    key = _key(drawing, page, job, arrived)
    ready = arrived if (arrived or {}).get("of") == job else None
    if before.get("key") == key:
        return
    try:
        found = call(drawing, _reader(service, ready), page, ready, before.get("note"))
    except NotInMemoError:
        answer.drawn[name] = {**before, "key": key}
        _want(job, page, name, answer)
        return
    except Exception as error:  # noqa: BLE001 - one view's defect must not stop the others
        answer.problems.append(explain(error))
        return
    shown = found if isinstance(found, Shown) else Shown(found)
    values = shown.values if len(drawing.outputs) > 1 else (shown.values,)
    known = before.get("values")
    digests: list[Any] = list(known) if isinstance(known, list) else []
    if len(digests) != len(values):
        digests = [None] * len(values)
    answer.values[name] = tuple(
        _unless_same(value, digests, place) for place, value in enumerate(values)
    )
    answer.drawn[name] = {"key": key, "values": digests, "note": shown.note}
    _want(None if shown.complete else job, page, name, answer)


def _key(drawing: Drawing, page: PageState, job: str, ready: Any) -> str:
    controls = [page.controls.get(control) for control in drawing.controls.values()]
    theme = page.scheme if drawing.theme else None
    files = drawing.files() if drawing.files is not None else None
    return digest([job, _chosen(page.selection, drawing.parts), controls, theme, files, ready])


def _reader(service: Service, ready: Mapping[str, Any] | None) -> Any:
    """The service that a drawing reads from.

    After its job has ended it is the service itself: the memo may have been unable to store a
    result. After its job has failed, requests fail with the job's problem.
    """
    if ready is None or "part" in ready:
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


def _unless_same(value: Any, digests: list[Any], place: int) -> Any:
    """A value, or ``no_update`` if it is as it was; notes its digest."""
    if value is no_update:
        return no_update
    now = digest(value)
    same, digests[place] = digests[place] == now, now
    return no_update if same else value
