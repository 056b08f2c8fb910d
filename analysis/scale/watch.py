"""One thread of a web process that watches everything its users wait for."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from analysis.contract.jobs import Progress
from analysis.errors import AnalysisError, WorkerStoppedError
from analysis.scale.board import Board, Trouble, View

_log = logging.getLogger("stratascope.scale")

#: Seconds between two looks when nobody calls; word of a change comes at once.
LOOK_S = 0.5
#: Seconds in the queue after which workers are told once more that there is something to do.
REMIND_S = 5.0

AWAY = WorkerStoppedError(
    "The job queue (Redis) can't be reached.",
    "Nothing you typed is lost: run it again in a minute, or tell whoever runs the server.",
)


@dataclass(eq=False, slots=True)
class Claim:
    """One person's wish for one computation; the watcher alone changes ``view`` and ``problem``.

    Attributes:
        key, id: Of the computation.
        waiter: Of this wish.
        view: How it does.
        problem: Why nobody can tell.
        beat_at: When the worker last gave a new sign of life, on the monotonic clock.
        told_at: When workers were last told of it.
    """

    key: str
    id: str
    waiter: str
    view: View = field(default_factory=lambda: View("queued", ahead=1))
    problem: AnalysisError | None = None
    beat_at: float = field(default_factory=time.monotonic)
    told_at: float = field(default_factory=time.monotonic)

    @property
    def over(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self.problem is not None or self.view.state not in ("queued", "running")

    def progress(self) -> Progress:
        """What to show."""
        if self.view.state == "queued":
            return Progress(0, 0, "Waiting", max(self.view.ahead, 1))
        if not self.view.progress:
            return Progress(0, 0, "Starting")
        return Progress(*json.loads(self.view.progress))


class Watcher:
    """Looks at all claims together: at once when Redis says that something changed.

    Args:
        board: To Redis.
        tell: Tells workers that there is something to do.
        now: The clock; only its differences count, so the time of day may be set back.
    """

    def __init__(
        self, board: Board, tell: Callable[[], None], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._board = board
        self._tell = tell
        self._now = now
        self.changed = threading.Condition()  # guards all below, and tells of every change
        self._claims: list[Claim] = []
        self._closing = False
        self._heard_at = now()
        self._thread = threading.Thread(target=self._watch, name="redis-watch", daemon=True)

    def close(self) -> None:
        """Stop; nobody may wait any more."""
        with self.changed:
            self._closing = True
            started = self._thread.ident is not None
            self.changed.notify_all()
        if started:
            self._thread.join()

    def add(self, claim: Claim) -> None:
        """Watch a claim."""
        with self.changed:
            if not self._claims:
                self._heard_at = self._now()
            if self._thread.ident is None:
                self._thread.start()
            self._claims.append(claim)
            self.changed.notify_all()

    def remove(self, claim: Claim) -> None:
        """Watch it no longer."""
        with self.changed:
            self._claims = [other for other in self._claims if other is not claim]

    def wake(self) -> None:
        """Have everybody who waits look again."""
        with self.changed:
            self.changed.notify_all()

    def _watch(self) -> None:
        calls: Any = None
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self._claims or self._closing)
                if self._closing:
                    break
            try:
                if calls is None:
                    calls = self._board.calls()
                self._look()
                calls.get_message(timeout=LOOK_S)
            except Trouble as error:
                calls = self._let_go(calls)
                self._bear(error)
        self._let_go(calls)

    @staticmethod
    def _let_go(calls: Any) -> None:
        if calls is not None:
            with suppress(*Trouble):
                calls.close()

    def _look(self) -> None:
        with self.changed:
            claims = [claim for claim in self._claims if not claim.over]
        if not claims:
            return
        views = self._board.look([(claim.key, claim.id, claim.waiter) for claim in claims])
        now = self._now()
        with self.changed:
            self._heard_at = now
            for claim, view in zip(claims, views, strict=True):
                if view.beat != claim.view.beat or view.state != claim.view.state:
                    claim.beat_at = now
                claim.view = view
            self.changed.notify_all()
        for claim in claims:
            self._mind(claim, now)

    def _mind(self, claim: Claim, now: float) -> None:
        """See to a worker that went silent, and to a queue that nobody looks at."""
        silent = now - claim.beat_at
        if claim.view.state == "running" and silent > self._board.settings.lost_s:
            verdict = self._board.lose(claim.key, claim.id, claim.view.beat)
            _log.warning("a worker fell silent for %.1f s: its job is %s", silent, verdict)
            claim.beat_at = now
            if verdict == "queued":
                self._tell()
        if claim.view.state == "queued" and now - claim.told_at > REMIND_S:
            claim.told_at = now
            self._tell()

    def _bear(self, error: BaseException) -> None:
        """Redis is away: bear with it for a while, then tell all who wait."""
        away = self._now() - self._heard_at
        _log.warning("Redis can't be reached (%s) for %.1f s", type(error).__name__, away)
        with self.changed:
            for claim in self._claims:
                claim.beat_at = self._now()  # a silence of Redis is not one of the worker
                if away > self._board.settings.patience_s:
                    claim.problem = AWAY
            if not self._closing:
                self.changed.wait(LOOK_S)
            self.changed.notify_all()
