"""A served app: the service and the job manager made from the settings, behind a web server."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from dash import Dash

from analysis.service import Service, ServiceSettings
from dash_app import jobs
from dash_app.app import create_app
from dash_app.settings import MIB, Settings


@dataclass(frozen=True, slots=True)
class Served:
    """What runs together and is closed together."""

    app: Dash
    service: Service
    manager: jobs.JobManager

    def close(self) -> None:
        """Cancel what runs, stop the model worker, finish writing."""
        self.manager.close()
        self.service.close()


def service_settings(settings: Settings) -> ServiceSettings:
    """What of the settings the service needs to know."""
    return ServiceSettings(
        cache_dir=settings.cache_dir,
        memo_bytes=settings.memo_mib * MIB,
        max_prompt_tokens=settings.max_prompt_tokens,
        max_new_tokens=settings.max_new_tokens,
        model_bytes=settings.resident_mib * MIB,
        trace_bytes=settings.traces_mib * MIB,
        deadline_s=settings.deadline_s,
    )


def build(settings: Settings) -> Served:
    """Everything but the web server. Nothing starts: the model worker does with its first request.

    Raises:
        AnalysisError: If a setting can't be met.
    """
    service = Service(service_settings(settings))
    manager = jobs.JobManager()
    app = create_app(service, settings, manager=manager, jobs=jobs.stages)
    jobs.identify(app.server)
    return Served(app, service, manager)


def announce(settings: Settings) -> None:
    """Print where the page is."""
    host = settings.host if settings.host not in ("0.0.0.0", "::") else "127.0.0.1"  # noqa: S104
    shown = f"[{host}]" if ":" in host else host
    print(f"Stratascope is at http://{shown}:{settings.port}/", flush=True)
    if settings.host not in ("127.0.0.1", "::1", "localhost"):
        print("Anyone who can reach this machine can use it: there is no password.", flush=True)


def serve(settings: Settings) -> int:
    """Serve until interrupted: gunicorn where there is one, else Dash's own server."""
    if sys.platform == "win32" or settings.debug:
        return _serve_with_dash(settings)
    from dash_app.gunicorn_server import run

    return run(settings)


def _serve_with_dash(settings: Settings) -> int:
    served = build(settings)
    served.service.start()
    announce(settings)
    options: dict[str, Any] = {"debug": settings.debug, "use_reloader": False}
    try:
        served.app.run(host=settings.host, port=settings.port, **options)
    finally:
        served.close()
    return 0
