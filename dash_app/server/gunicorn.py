"""gunicorn, set up as the page needs it: many threads, long addresses allowed, no run cut off."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger
from gunicorn.workers.gthread import ThreadWorker

from dash_app.server.server import Served, announce, build
from dash_app.settings import Settings

#: Where the app keeps what is to be drained, in Flask's ``extensions``.
NAME = "stratascope"


class DrainingWorker(ThreadWorker):  # type: ignore[misc]
    """gunicorn's threaded worker; it goes on answering while runs finish.

    ``--worker-class dash_app.server.gunicorn.DrainingWorker``. gunicorn's own worker stops at
    once: a page whose run needs one more second would never get its result.
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


_KIB = 1024
#: Over the app's own limit, so that whoever is over that hears of it in words.
_MARGIN = 16


def allow_addresses(kib: int) -> int:
    """Let gunicorn read first lines of requests that long, and none without end.

    The address holds the whole page, prompt included. gunicorn takes at most 8190 bytes or, with
    0, any number of them; the former is too short, and the latter fills the memory of whoever
    listens.

    Returns:
        What to set ``limit_request_line`` to, in bytes.
    """
    longest = (kib + _MARGIN) * _KIB
    with suppress(ImportError):  # another web server, with limits of its own
        from gunicorn.http import message

        message.MAX_REQUEST_LINE = longest
    return longest


class Lines(Logger):  # type: ignore[misc]
    """Hands everything on to the root logger; of an address that failed, only its path."""

    def setup(self, cfg: Any) -> None:
        """Undo what gunicorn sets up for itself."""
        super().setup(cfg)
        self.error_log.handlers[:] = []
        self.error_log.propagate = True

    def exception(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """A request that failed: what stands behind the question mark is the prompt."""
        shown = [str(arg).partition("?")[0] for arg in args]
        super().exception(msg, *shown, **kwargs)


class Server(BaseApplication):  # type: ignore[misc]
    """A gunicorn that builds the app in each of its worker processes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.served: Served | None = None
        super().__init__()

    def load_config(self) -> None:
        """Settings of gunicorn; its own command line and files are not read."""
        longest = allow_addresses(self.settings.max_url_kib)
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        options: dict[str, Any] = {
            "bind": f"{host}:{self.settings.port}",
            "workers": self.settings.web_processes,
            "worker_class": "dash_app.server.gunicorn.DrainingWorker",
            "threads": self.settings.threads,
            "limit_request_line": longest,
            # What a proxy says is judged by ``security.peers``, by address.
            "forwarded_allow_ips": "",
            "loglevel": "warning",
            "logger_class": "dash_app.server.gunicorn.Lines",
            # After the runs' own grace: pages fetch how they ended, and requests end.
            "graceful_timeout": round(self.settings.grace_s) + 8,
            "timeout": 120,
            "keepalive": 30,
            "when_ready": lambda _server: announce(self.settings),
            "worker_exit": lambda _server, _worker: self.close(),
            # A control socket in the working folder is nothing a page needs.
            "control_socket_disable": True,
        }
        for name, value in options.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Any:
        """The Flask app, with the model worker already on its way."""
        self.served = build(self.settings)
        self.served.start()
        return self.served.app.server

    def close(self) -> None:
        """Stop what ``load`` started."""
        if self.served is not None:
            self.served.close()


def run(settings: Settings) -> int:
    """Serve until interrupted.

    Returns:
        The exit status; gunicorn ends the process itself on a signal.
    """
    Server(settings).run()
    return 0
