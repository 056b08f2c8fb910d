"""A gunicorn worker that, told to stop, first finishes what pages wait for, and tells the rest."""

from __future__ import annotations

import threading
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

#: Where the app keeps what is to be drained, in Flask's ``extensions``.
NAME = "stratascope"


class DrainingWorker(ThreadWorker):  # type: ignore[misc]
    """gunicorn's threaded worker; it goes on answering while runs finish.

    ``--worker-class dash_app.draining.DrainingWorker``. gunicorn's own stops answering at once: a
    page whose run has a second to go would never hear how it ended.
    """

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM: drain in a thread, then stop as gunicorn does."""
        served = getattr(self.wsgi, "extensions", {}).get(NAME)
        if served is None or not self.alive:
            super().handle_exit(sig, frame)
            return
        if getattr(self, "_drainer", None) is None:
            self._drainer = threading.Thread(target=self._drain, args=(served, sig), daemon=True)
            self._drainer.start()

    def _drain(self, served: Any, sig: int) -> None:
        try:
            served.drain()
        finally:
            super().handle_exit(sig, None)
