"""gunicorn, set up as the page needs it: one process, many threads, long addresses allowed."""

from __future__ import annotations

from typing import Any

from gunicorn.app.base import BaseApplication

from dash_app.server import Served, announce, build
from dash_app.settings import Settings


class Server(BaseApplication):  # type: ignore[misc]
    """A gunicorn that builds the app in its one worker process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.served: Served | None = None
        super().__init__()

    def load_config(self) -> None:
        """Settings of gunicorn; its own command line and files are not read."""
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        options: dict[str, Any] = {
            "bind": f"{host}:{self.settings.port}",
            "workers": 1,
            "worker_class": "gthread",
            "threads": self.settings.threads,
            # The address holds the whole page, prompt included.
            "limit_request_line": 0,
            "loglevel": "warning",
            "graceful_timeout": 5,
            "timeout": 120,
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
        self.served.service.start()
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
