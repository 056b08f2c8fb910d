"""Builds the service, the job manager and the app from the settings, for a web server."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from dataclasses import dataclass

from dash import Dash

from analysis.errors import SpecError
from analysis.service import Service
from analysis.worker.messages import ServiceSettings
from dash_app.app import create_app
from dash_app.jobs import job_and_draw
from dash_app.jobs import manager as manager_module
from dash_app.security.clients import check as check_binding
from dash_app.settings import Settings, access_token

_M_ARENA_MAX = -8


def limit_arenas(count: int = 2) -> None:
    """Let the threads of this process share ``count`` memory arenas; needs glibc.

    By default glibc has eight arenas per core, and each keeps the most memory that its threads ever
    used. On two cores the web process grew by 10 % in the minutes after its caches were full,
    although Python had no more objects.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, count)


@dataclass(frozen=True, slots=True)
class Served:
    """The app, its service and its job manager, which are started and closed together."""

    app: Dash
    service: Service
    manager: manager_module.JobManager
    grace_s: float = 0.0

    def start(self) -> None:
        """Start the model worker and load the default model."""
        self.service.start()
        self.app.server.extensions["readiness"].warm()

    def drain(self) -> None:
        """Start no more jobs, let running jobs finish, and leave the others to the next server."""
        self.app.server.extensions["readiness"].stopping = True
        self.manager.drain(self.grace_s)

    def close(self) -> None:
        """Cancel all jobs, stop the model worker, finish writing."""
        self.manager.close()
        self.service.close()


def service_settings(settings: Settings) -> ServiceSettings:
    """The part of the settings that the service needs."""
    return ServiceSettings(
        cache_dir=settings.cache_dir,
        limits=settings.limits(),
        redis_url=settings.redis_url,
        redis_prefix=settings.redis_prefix,
    )


def build(settings: Settings) -> Served:
    """Build everything except the web server. The model worker starts with its first request.

    Raises:
        AnalysisError: If the settings don't fit together.
    """
    limit_arenas()
    check_binding(settings)
    _check_processes(settings)
    service = Service(service_settings(settings))
    manager = _manager(settings)
    app = create_app(service, settings, manager=manager, jobs=job_and_draw.stages)
    served = Served(app, service, manager, settings.grace_s)
    app.server.extensions["stratascope"] = served
    return served


def _check_processes(settings: Settings) -> None:
    if settings.web_processes > 1 and not settings.redis_url:
        raise SpecError(
            f"{settings.web_processes} web processes need Redis to share their state.",
            "Set STRATASCOPE_REDIS_URL and start 'stratascope worker', or use one web process.",
        )


def _manager(settings: Settings) -> manager_module.JobManager:
    """The job manager of one process, or the one that several web processes share."""
    if not settings.redis_url:
        return manager_module.JobManager(max_jobs=settings.max_jobs)
    from analysis.scale.app import ScaleSettings
    from dash_app.jobs.shared_manager import SharedJobManager

    scale = ScaleSettings(settings.redis_url, settings.redis_prefix)
    return SharedJobManager(scale, max_jobs=settings.max_jobs)


def announce(settings: Settings) -> None:
    """Print the page's address."""
    host = settings.host if settings.host not in ("0.0.0.0", "::") else "127.0.0.1"  # noqa: S104
    shown = f"[{host}]" if ":" in host else host
    query = f"?token={access_token(settings)}" if settings.login == "token" else ""
    address = f"http://{shown}:{settings.port}{settings.url_prefix}{query}"
    print(f"Stratascope is at {address}", flush=True)
