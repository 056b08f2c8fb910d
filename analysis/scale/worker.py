"""A worker host: Celery in the main process, the resident model in a child of it."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
from contextlib import suppress
from typing import Any

from celery.worker import state as celery_state

from analysis.errors import WorkerStoppedError
from analysis.scale.board import Board, Trouble
from analysis.scale.celery_app import QUEUE, make_app, tell
from analysis.scale.session import Session, preload
from analysis.scale.settings import ScaleSettings
from analysis.worker.messages import Limits, Request
from analysis.worker.supervisor import Supervisor

_log = logging.getLogger("stratascope.scale")


class Worker:
    """One device's worker: register, work, leave.

    Args:
        settings: Where Redis is.
        function: Dotted name of what computes, in the model's process.
        limits: Of prompts and memory.
    """

    def __init__(self, settings: ScaleSettings, function: str, limits: Limits) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
        self._board = Board(settings)
        self._supervisor = Supervisor(function, limits, lambda _key, _request, _answer: None)
        self._session = Session(self._board, self._supervisor, self.name, told_to_stop)
        self._app = make_app(settings, self._session.work)
        self._gone = threading.Event()
        self._clerk = threading.Thread(target=self._enrol, name="enrol", daemon=True)

    def run(self, first: Request | None = None) -> int:
        """Work until told to stop.

        Args:
            first: A model to load at once.

        Raises:
            WorkerStoppedError: If Redis can't be reached at the start.
        """
        self._require_redis()
        self._supervisor.start()
        if first is not None:
            preload(self._supervisor, first)
        self._clerk.start()
        try:
            return self._serve()
        finally:
            self._gone.set()
            self._clerk.join()
            self._supervisor.close()
            with suppress(*Trouble):
                self._board.retire(self.name)
                if self._board.queued():
                    tell(self._app)  # what was returned is for another to take
            self._app.close()
            self._board.close()

    def _serve(self) -> int:
        worker: Any = self._app.Worker(
            hostname=f"stratascope@{self.name}",
            pool="solo",
            concurrency=1,
            queues=[QUEUE],
            loglevel="WARNING",
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            quiet=True,
        )
        worker.start()
        return int(worker.exitcode or 0)

    def _require_redis(self) -> None:
        try:
            self._board.redis.ping()
        except Trouble as error:
            raise WorkerStoppedError(
                f"Redis can't be reached at the address given ({type(error).__name__}).",
                "Start it, or set STRATASCOPE_REDIS_URL to where it is.",
            ) from error

    def _enrol(self) -> None:
        """Show that we are here, and have no request wait for a message that was lost."""
        pause = self._board.settings.lease_s / 4
        while True:
            with suppress(*Trouble):
                self._board.enrol(self.name)
            if self._gone.wait(pause):
                return


def told_to_stop() -> bool:
    """Whether Celery has got a signal to stop."""
    return celery_state.should_stop is not None or celery_state.should_terminate is not None
