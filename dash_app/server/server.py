"""A served app: the service and the job manager made from the settings, behind a web server."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from dataclasses import dataclass

from dash import Dash

from analysis.errors import SpecError
from analysis.service import Service
from analysis.worker.settings import ServiceSettings
from dash_app.app import create_app
from dash_app.jobs import manager as manager_module
from dash_app.jobs import progress
from dash_app.security.network import check as check_binding
from dash_app.settings import MIB, Settings

_M_ARENA_MAX = -8


def limit(count: int = 2) -> None:
    """Let this process's threads share so many arenas.

    By default there are eight a core, and each keeps the largest mess that any of its threads
    made: on two cores the web process grew by 10 % in the minutes after its caches were full,
    though Python held no more objects. Elsewhere than on glibc this does nothing.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, count)


@dataclass(frozen=True, slots=True)
class Served:
    """What runs together and is closed together."""

    app: Dash
    service: Service
    manager: manager_module.JobManager
    grace_s: float = 0.0

    def start(self) -> None:
        """Start the model worker, and have it load the model that the page opens with."""
        self.service.start()
        self.app.server.extensions["readiness"].warm()

    def drain(self) -> None:
        """Start nothing more; let runs finish, and the pages of those that can't hear of it."""
        self.manager.drain(self.grace_s)

    def close(self) -> None:
        """Cancel what runs, stop the model worker, finish writing."""
        self.manager.close()
        self.service.close()


def service_settings(settings: Settings) -> ServiceSettings:
    """What of the settings the service needs to know."""
    return ServiceSettings(
        cache_dir=settings.cache_dir,
        memo_bytes=settings.memo_mib * MIB,
        recent_bytes=settings.recent_mib * MIB,
        task_bytes=settings.tasks_mib * MIB,
        max_suite_prompts=settings.max_suite_prompts,
        max_prompt_tokens=settings.max_prompt_tokens,
        max_new_tokens=settings.max_new_tokens,
        model_bytes=settings.resident_mib * MIB,
        trace_bytes=settings.traces_mib * MIB,
        deadline_s=settings.deadline_s,
        max_queue=settings.max_queue,
        redis_url=settings.redis_url,
        redis_prefix=settings.redis_prefix,
    )


def build(settings: Settings) -> Served:
    """Everything but the web server. Nothing starts: the model worker does with its first request.

    Raises:
        AnalysisError: If a setting can't be met.
    """
    limit()
    check_binding(settings)
    _check_processes(settings)
    service = Service(service_settings(settings))
    manager = _manager(settings)
    app = create_app(service, settings, manager=manager, jobs=progress.stages)
    served = Served(app, service, manager, settings.grace_s)
    app.server.extensions["stratascope"] = served
    return served


def _check_processes(settings: Settings) -> None:
    if settings.web_processes > 1 and not settings.redis_url:
        raise SpecError(
            f"{settings.web_processes} web processes need a Redis to meet in.",
            "Set STRATASCOPE_REDIS_URL and start 'stratascope worker', or leave it at one process.",
        )


def _manager(settings: Settings) -> manager_module.JobManager:
    """Jobs of this process, or such as any web process can answer for."""
    if not settings.redis_url:
        return manager_module.JobManager(max_jobs=settings.max_jobs)
    from analysis.scale.settings import ScaleSettings
    from dash_app.jobs.shared_manager import SharedJobManager

    scale = ScaleSettings(settings.redis_url, settings.redis_prefix)
    return SharedJobManager(scale, max_jobs=settings.max_jobs)


def announce(settings: Settings) -> None:
    """Print where the page is."""
    host = settings.host if settings.host not in ("0.0.0.0", "::") else "127.0.0.1"  # noqa: S104
    shown = f"[{host}]" if ":" in host else host
    print(f"Stratascope is at http://{shown}:{settings.port}/", flush=True)
