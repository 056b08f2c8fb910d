"""gunicorn with the page's needs: many threads, long addresses, and time for runs to finish."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger

from analysis.errors import AnalysisError
from dash_app.security.clients import check as check_binding
from dash_app.server.buffered_worker import BufferedWorker
from dash_app.server.server import Served, announce, build
from dash_app.settings import Settings

#: Key in Flask's ``extensions`` of the ``Served`` that a worker drains.
NAME = "stratascope"


class DrainingWorker(BufferedWorker):
    """The worker for slow clients, which also keeps answering while runs finish.

    ``--worker-class dash_app.server.gunicorn.DrainingWorker``. gunicorn's own worker stops at
    once: a page whose run needs one more second would never get its result.
    """

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Refuse to serve other machines without a login: ``PORT`` binds every address."""
        super().check_config(cfg, log)
        hosts = [address[0] for address in cfg.address if isinstance(address, tuple)]
        try:
            for host in hosts:
                check_binding(Settings(host=host))
        except AnalysisError as error:
            raise SystemExit(f"stratascope: {error}") from error

    def handle_exit(self, sig: int, frame: Any) -> None:
        """On SIGTERM drain in a thread, then stop as gunicorn does."""
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
#: KiB above the app's own limit, so that the app can refuse a longer address with a message.
_MARGIN = 16


def allow_addresses(kib: int) -> int:
    """Let gunicorn accept request lines of ``kib`` KiB and a margin.

    The address holds the whole selection and the prompt. gunicorn accepts at most 8190 bytes, which
    is too short, or with 0 any number, which lets a client fill the memory.

    Returns:
        The value for ``limit_request_line``, in bytes.
    """
    longest = (kib + _MARGIN) * _KIB
    with suppress(ImportError):  # another web server, with limits of its own
        from gunicorn.http import message

        message.MAX_REQUEST_LINE = longest
    return longest


class Lines(Logger):  # type: ignore[misc]
    """Passes everything to the root logger; of a failed address only the path."""

    def setup(self, cfg: Any) -> None:
        """Remove gunicorn's own handlers."""
        super().setup(cfg)
        self.error_log.handlers[:] = []
        self.error_log.propagate = True

    def exception(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """Log a failed request without its query, which holds the prompt."""
        shown = [str(arg).partition("?")[0] for arg in args]
        super().exception(msg, *shown, **kwargs)


class Server(BaseApplication):  # type: ignore[misc]
    """gunicorn that builds the app in each of its worker processes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.served: Served | None = None
        super().__init__()

    def load_config(self) -> None:
        """Set gunicorn's options; its command line and files are not read."""
        longest = allow_addresses(self.settings.max_url_kib)
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        options: dict[str, Any] = {
            "bind": f"{host}:{self.settings.port}",
            "workers": self.settings.web_processes,
            "worker_class": "dash_app.server.gunicorn.DrainingWorker",
            "threads": self.settings.threads,
            "limit_request_line": longest,
            # ``security.clients`` decides by address which proxies are trusted.
            "forwarded_allow_ips": "",
            "loglevel": "warning",
            "logger_class": "dash_app.server.gunicorn.Lines",
            # After the runs' own grace, pages fetch the results and requests end.
            "graceful_timeout": round(self.settings.grace_s) + 8,
            "timeout": 120,
            "keepalive": 30,
            "when_ready": lambda _server: announce(self.settings),
            "worker_exit": lambda _server, _worker: self.close(),
            # The page needs no control socket in the working folder.
            "control_socket_disable": True,
        }
        for name, value in options.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Any:
        """The Flask app, with the model worker starting."""
        self.served = build(self.settings)
        self.served.start()
        return self.served.app.server

    def close(self) -> None:
        """Stop the app and the model worker."""
        if self.served is not None:
            self.served.close()


def run(settings: Settings) -> int:
    """Serve until interrupted.

    Returns:
        The exit status; gunicorn ends the process itself on a signal.
    """
    Server(settings).run()
    return 0
