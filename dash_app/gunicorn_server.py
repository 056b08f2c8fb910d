"""gunicorn, set up as the page needs it: many threads, long addresses allowed, no run cut off."""

from __future__ import annotations

from typing import Any

from gunicorn.app.base import BaseApplication

from dash_app.security import web_server
from dash_app.server import Served, announce, build
from dash_app.settings import Settings


class Server(BaseApplication):  # type: ignore[misc]
    """A gunicorn that builds the app in each of its worker processes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.served: Served | None = None
        super().__init__()

    def load_config(self) -> None:
        """Settings of gunicorn; its own command line and files are not read."""
        longest = web_server.allow_addresses(self.settings.max_url_kib)
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        options: dict[str, Any] = {
            "bind": f"{host}:{self.settings.port}",
            "workers": self.settings.web_processes,
            "worker_class": "dash_app.draining.DrainingWorker",
            "threads": self.settings.threads,
            "limit_request_line": longest,
            # What a proxy says is judged by ``security.peers``, by address.
            "forwarded_allow_ips": "",
            "loglevel": "warning",
            "logger_class": "dash_app.ops.gunicorn_log.Lines",
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
