"""The web process's side: requests go to whichever worker is free, and answers come back."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from analysis.contract.jobs import Job, Priority, Progress
from analysis.errors import AnalysisError, CancelledError, DeadlineError, WorkerStoppedError
from analysis.scale.board import Board, Trouble
from analysis.scale.celery_app import make_app, tell
from analysis.scale.settings import ScaleSettings
from analysis.scale.watch import AWAY, Claim, Watcher
from analysis.scale.wire import pack_request, unpack_error
from analysis.worker.messages import Answer, Request

_log = logging.getLogger("stratascope.scale")

#: How often a request is put again that Redis forgot, or that was cancelled by mistake.
TRIES = 5


class Remote:
    """Has requests computed by workers elsewhere; what ``Supervisor`` does in one process.

    Args:
        settings: Where Redis is.
        on_answer: Called with a request's key and its answer, before whoever waits is told.
        max_queue: How many computations may wait, of all web processes together.
    """

    def __init__(
        self,
        settings: ScaleSettings,
        on_answer: Callable[[str, Request, Answer], None],
        *,
        max_queue: int = 200,
    ) -> None:
        self._on_answer = on_answer
        self._max_queue = max_queue
        self._board = Board(settings)
        self._app = make_app(settings)
        self._watcher = Watcher(self._board, self._tell)
        self._closing = False

    def start(self) -> None:
        """Nothing: the workers run already, or will."""

    def close(self) -> None:
        """Whoever still waits is told; what others also wait for goes on."""
        self._closing = True
        self._watcher.wake()
        self._watcher.close()
        self._app.close()
        self._board.close()

    @property
    def queued(self) -> int:
        """How many computations wait, of all web processes together."""
        try:
            return self._board.queued()
        except Trouble:
            return 0

    @property
    def pid(self) -> None:
        """There is no worker process of ours."""
        return None

    @property
    def workers(self) -> int:
        """How many workers are there."""
        try:
            return self._board.workers()
        except Trouble:
            return 0

    def find(self, key: str) -> bytes | None:
        """The bytes of an answer that any worker kept."""
        try:
            return self._board.result(key)
        except Trouble:
            return None

    def ask(self, key: str, request: Request, job: Job, deadline_s: float) -> Answer:
        """Have ``request`` computed, alone or together with others who asked the same.

        Args:
            key: What makes another request the same.
            request: What is asked.
            job: Who asks; hears of progress, in this thread.
            deadline_s: Seconds of computing (not of waiting in the queue) that are allowed.

        Raises:
            CancelledError: If the job is cancelled, or the server shuts down.
            DeadlineError: If it takes longer than allowed.
            WorkerStoppedError: If two workers died at it, or Redis can't be reached.
            BusyError: If the queue is full.
            AnalysisError: Whatever the computation itself raises.
        """
        for _ in range(TRIES):
            job.check()
            answer = self._try(key, request, job, deadline_s)
            if answer is not None:
                self._on_answer(key, request, answer)
                return answer
        raise WorkerStoppedError("The answer was lost on its way.", "Run it again.")

    def _try(self, key: str, request: Request, job: Job, deadline_s: float) -> Answer | None:
        claim = self._join(key, request, job)
        try:
            with job.waking(self._watcher.wake):
                self._wait(claim, job, deadline_s)
            return self._outcome(claim)
        finally:
            self._watcher.remove(claim)
            with suppress(*Trouble):  # else the claim runs out by itself
                self._board.leave(claim.key, claim.id, claim.waiter)

    def _join(self, key: str, request: Request, job: Job) -> Claim:
        waiter, kind = secrets.token_hex(8), "long" if job.priority >= Priority.LONG else "click"
        packed = pack_request(request)
        try:
            id, is_new = self._board.join(
                key, secrets.token_hex(8), packed, job.user, kind, waiter, self._max_queue
            )
            if is_new:
                self._tell()
        except Trouble as error:
            _log.warning("Redis can't be reached (%s)", type(error).__name__)
            raise type(AWAY)(AWAY.message, AWAY.hint) from error
        claim = Claim(key, id, waiter)
        self._watcher.add(claim)
        return claim

    def _tell(self) -> None:
        tell(self._app)

    def _wait(self, claim: Claim, job: Job, deadline_s: float) -> None:
        shown: Progress | None = None
        while True:
            with self._watcher.changed:
                self._watcher.changed.wait_for(
                    partial(self._is_news, claim, job, deadline_s, shown)
                )
                over, progress, spent = claim.over, claim.progress(), claim.view.seconds
            if over:
                return
            job.check()
            if self._closing:
                raise CancelledError("The server is shutting down.", "Run it again in a moment.")
            if spent >= deadline_s:
                raise DeadlineError(
                    f"This took longer than the {deadline_s:g} seconds that the server allows.",
                    "Try a shorter prompt or fewer new tokens, or raise STRATASCOPE_DEADLINE_S.",
                )
            shown = progress
            job.report(progress)

    def _is_news(self, claim: Claim, job: Job, deadline_s: float, shown: Progress | None) -> bool:
        over = claim.over or job.cancelled() or self._closing
        return over or claim.view.seconds >= deadline_s or claim.progress() != shown

    def _outcome(self, claim: Claim) -> Answer | None:
        """The answer; None if it was lost and is worth asking for again."""
        if claim.problem is not None:
            raise type(claim.problem)(claim.problem.message, claim.problem.hint)
        view = claim.view
        if view.state == "failed":
            raise unpack_error(view.error)
        try:
            data = self._board.fetch(claim.key, view.answer) if view.state == "done" else None
        except Trouble as error:
            raise AnalysisError(AWAY.message, AWAY.hint) from error
        return Answer(data, view.fingerprint, view.forwards) if data is not None else None
