"""``stratascope worker``: computes the requests that web processes send through Redis."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from analysis.errors import AnalysisError, SpecError
from analysis.service import catalog_fingerprint
from analysis.worker.messages import Request
from dash_app import monitoring
from dash_app.server.server import service_settings
from dash_app.settings import Settings


def add_to(commands: Any) -> None:
    """Add ``worker`` to the parser of ``stratascope``."""
    parser = commands.add_parser(
        "worker", help="compute requests that web processes send through Redis; one per device"
    )
    parser.add_argument("--device", default="", help="cpu, cuda or cuda:N; default: the best one")
    parser.set_defaults(work=work)


def work(chosen: argparse.Namespace) -> int:
    """Run a worker until a signal stops it.

    Raises:
        SpecError: If STRATASCOPE_REDIS_URL is not set.
    """
    settings = Settings()
    monitoring.configure_log(settings)
    if not settings.redis_url:
        raise SpecError(
            "STRATASCOPE_REDIS_URL is not set.", "Set it to the Redis of the web processes."
        )
    try:
        from analysis.scale.settings import ScaleSettings
        from analysis.scale.worker import Worker
    except ImportError as error:
        raise SpecError(
            "Celery and redis are not installed.", ".venv/bin/pip install -e '.[scale]'"
        ) from error
    service = service_settings(settings)
    limits = service.worker_limits()
    if chosen.device:
        limits = replace(limits, device=chosen.device)
    scale = ScaleSettings(settings.redis_url, settings.redis_prefix, grace_s=settings.grace_s)
    return Worker(scale, service.function, limits).run(_first(settings.default_model, limits.dtype))


def _first(name: str, dtype: str | None) -> Request | None:
    """The default model, to load at once; None if this worker does not have it."""
    try:
        return Request("info", name, catalog_fingerprint(name, dtype))
    except AnalysisError:
        return None
