"""The service of the page on a model that is already loaded in this process, as in a notebook.

Requests are computed by the threads that ask, one at a time: clicks first, and long work lets
clicks go between its chunks. Results are kept in memory only, because a notebook can change the
weights of its model.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Condition
from typing import Any

from analysis.contract.jobs import Job, Progress, listening
from analysis.errors import AnalysisError, CancelledError, DeadlineError, SpecError
from analysis.model.handle import Model
from analysis.service import Service
from analysis.tracing.capture import Trace
from analysis.worker.backend import Keep, Recent
from analysis.worker.engine import Engine
from analysis.worker.messages import Answer, Limits, Request, ServiceSettings

#: Seconds between two reports of progress.
_REPORT_EVERY_S = 0.05


@dataclass(eq=False, slots=True)
class _Turn:
    """One request that waits or computes.

    Attributes:
        job: The user's job.
        deadline_s: Seconds of computing before it fails.
        started: When it began to compute, on the monotonic clock, later by the time of its pauses.
        reported: When its progress was last reported.
        label: The label of that report.
    """

    job: Job
    deadline_s: float
    started: float = 0.0
    reported: float = 0.0
    label: str = ""


@dataclass(eq=False, slots=True)
class InProcess:
    """A backend that computes in the threads that ask, one request at a time.

    Args:
        perform: Computes an answer.
        keep: Stores an answer in the memo.
        recent: Gives the stored answer to a key, or None.
    """

    perform: Callable[[Request], Answer]
    keep: Keep
    recent: Recent
    pid: int | None = None
    workers: int = 1
    _changed: Condition = field(default_factory=Condition)
    _waiting: list[_Turn] = field(default_factory=list)
    _turns: list[_Turn] = field(default_factory=list)  # the last one computes, the others pause
    _pausing: bool = False  # whether the last one pauses, too
    _closed: bool = False

    def start(self) -> None:
        """Do nothing: there is no worker to start."""

    def close(self) -> None:
        """Cancel everything, and wait until nothing computes any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._turns and not self._waiting)

    def find(self, key: str) -> bytes | None:
        """None: the memo is the only store."""
        return None

    @property
    def queued(self) -> int:
        """Number of waiting requests."""
        return len(self._waiting)

    def ask(self, key: str, request: Request, job: Job, deadline_s: float) -> Answer:
        """See ``analysis.worker.backend.compute``."""
        job.check()
        turn = _Turn(job, deadline_s)
        with job.waking(self._wake):
            self._begin(turn)
            try:
                stored = self.recent(key)  # an equal request may have ended meanwhile
                if stored is not None:
                    return Answer(stored, request.fingerprint)
                answer = self._compute(request, turn)
            finally:
                self._end(turn)
        self.keep(key, request, answer)
        return answer

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _begin(self, turn: _Turn) -> None:
        """Wait for the turn of a request, and report its place in the queue."""
        with self._changed:
            self._waiting.append(turn)
            self._waiting.sort(key=lambda one: one.job.priority)
            try:
                while not self._may_begin(turn):
                    self._check(turn)
                    ahead = self._waiting.index(turn) + len(self._turns)
                    turn.job.report(Progress(0, 0, "Waiting", ahead))
                    self._changed.wait()
                self._check(turn)
                self._turns.append(turn)
                self._pausing = False
                turn.started = time.monotonic()
            finally:
                self._waiting.remove(turn)
                self._changed.notify_all()

    def _may_begin(self, turn: _Turn) -> bool:
        """Whether it is first in the queue, and nothing computes or what does lets it go first."""
        if self._closed or turn.job.cancelled():
            return True  # to end
        if self._waiting[0] is not turn:
            return False
        return not self._turns or (self._pausing and self._is_more_urgent(turn))

    def _is_more_urgent(self, turn: _Turn) -> bool:
        return turn.job.priority < self._turns[-1].job.priority

    def _end(self, turn: _Turn) -> None:
        with self._changed:
            self._turns.remove(turn)
            self._pausing = bool(self._turns)
            self._changed.notify_all()

    def _compute(self, request: Request, turn: _Turn) -> Answer:
        def step(done: int, total: int, label: str) -> None:
            """Check for a cancel, and report at a readable rate."""
            self._check(turn)
            now = time.monotonic()
            if label != turn.label or now - turn.reported > _REPORT_EVERY_S:
                turn.reported, turn.label = now, label
                turn.job.report(Progress(done, total, label))

        with listening(step, lambda: self._pause(turn), lambda: self._check(turn)):
            return self.perform(request)

    def _check(self, turn: _Turn) -> None:
        """Stop a request that was cancelled, or takes too long."""
        if self._closed:
            raise CancelledError("The page of this notebook is closed.", "Show it again.")
        turn.job.check()
        if turn.started and time.monotonic() - turn.started > turn.deadline_s:
            raise DeadlineError(
                f"This took longer than the {turn.deadline_s:g} seconds that are allowed.",
                "Try a shorter prompt or fewer new tokens, or raise STRATASCOPE_DEADLINE_S.",
            )

    def _pause(self, turn: _Turn) -> None:
        """Let more urgent requests compute now, then continue."""
        self._check(turn)
        began = time.monotonic()
        with self._changed:
            self._pausing = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._turns[-1] is turn and not self._is_urged())
            self._pausing = False
        turn.started += time.monotonic() - began
        self._check(turn)

    def _is_urged(self) -> bool:
        """Whether a more urgent request waits."""
        return bool(self._waiting) and self._is_more_urgent(self._waiting[0])


class LoadedModel:
    """A service on one loaded model; it never loads another.

    Args:
        model: From ``load_model``. It stays the same object.
        limits: Bounds on prompts and memory.

    Attributes:
        model: The model.
        service: Its service, with the methods that the page uses.
    """

    def __init__(self, model: Model, limits: Limits) -> None:
        self.model = model
        self._engine = Engine(limits)
        self._counter = self._engine.adopt(model)
        self._versions = _versions(model)
        settings = ServiceSettings(memo=False, limits=limits)
        self.service = Service(settings, self._fingerprint, self._backend)

    def use(self, trace: Trace, edits: Any = ()) -> None:
        """Use a trace of the model instead of running its prompt again.

        Args:
            trace: From ``trace``; one without all of its patterns is made again.
            edits: Its interventions as the page names them.
        """
        self._engine.adopt_trace(self.model, trace, tuple(edits))

    def close(self) -> None:
        """Cancel what is computed, and leave the model as it was."""
        self.service.close()
        self._counter.remove()

    def require_unchanged(self) -> None:
        """Refuse weights that were written to since the model was shown.

        Raises:
            AnalysisError: If they were: kept results would be those of other weights.
        """
        if _versions(self.model) != self._versions:
            raise AnalysisError(
                f"The weights of {self.model.info.name} have changed since it was shown.",
                "Close the page. Give the changed model to load_model, and show that.",
            )

    def _backend(self, keep: Keep, recent: Recent) -> InProcess:
        return InProcess(self._engine.perform, keep, recent)

    def _fingerprint(self, name: str, _dtype: str | None) -> str:
        """The fingerprint of the model, as the page's requests need it.

        Raises:
            SpecError: If another model is named.
            AnalysisError: If the weights are not those that were loaded.
        """
        info = self.model.info
        if name != info.name:
            raise SpecError(
                f"This page shows {info.name}, which is loaded; it can't load {name}.",
                "Load the other model in the notebook, and show it.",
            )
        self.require_unchanged()
        return info.fingerprint


def _versions(model: Model) -> tuple[tuple[int, int], ...]:
    """Of each parameter its place in memory, and how often it was written to."""
    return tuple((one.data_ptr(), one._version) for one in model.hf.parameters())
