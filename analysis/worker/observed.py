"""A backend that tells how every computation ended, and knows what its worker has loaded."""

from __future__ import annotations

import time
from collections.abc import Callable

from analysis.errors import AnalysisError
from analysis.job import Job
from analysis.worker.backend import Backend
from analysis.worker.messages import Answer, Request

#: (kind of request, "ok" or the error's type, seconds, whose request), in the thread that asked.
Told = Callable[[str, str, float, str], None]


class Observed:
    """What ``Backend`` does, watched.

    Args:
        inner: Who computes.

    Attributes:
        told: Who hears of it.
    """

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self._loaded: tuple[int | None, tuple[str, ...]] = (None, ())
        self.told: Told = lambda *_: None
        self.start, self.close, self.find = inner.start, inner.close, inner.find

    def ask(self, key: str, request: Request, job: Job, deadline_s: float) -> Answer:
        """As ``Backend`` has it."""
        began, outcome = time.monotonic(), "defect"
        try:
            answer = self._inner.ask(key, request, job, deadline_s)
            outcome = "ok"
            self._loaded = (self.pid, answer.resident)
        except AnalysisError as error:
            outcome = type(error).__name__
            raise
        finally:
            self.told(request.kind, outcome, time.monotonic() - began, job.user)
        return answer

    @property
    def queued(self) -> int:
        """How many computations wait."""
        return self._inner.queued

    @property
    def pid(self) -> int | None:
        """The worker's process; None while there is none, or it is elsewhere."""
        return self._inner.pid

    @property
    def workers(self) -> int:
        """How many workers there are."""
        return self._inner.workers

    @property
    def resident(self) -> tuple[str, ...]:
        """Models that the worker of this process has loaded; of workers elsewhere nothing."""
        pid, names = self._loaded
        return names if pid is not None and pid == self.pid else ()

    def ready(self, model: str) -> bool:
        """Whether a question about ``model`` would be worked on at once.

        Workers elsewhere load their model before they take anything.
        """
        return model in self.resident if self.pid is not None else self.workers > 0
