"""``stratascope worker``: computes what web processes ask for through Redis."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from analysis.errors import AnalysisError, SpecError
from analysis.service import catalog_fingerprint
from analysis.worker.messages import Request
from dash_app import logs
from dash_app.server.server import service_settings
from dash_app.settings import Settings


def add_to(commands: Any) -> None:
    """Add ``worker`` to the parser of ``stratascope``."""
    parser = commands.add_parser(
        "worker", help="compute what web processes ask for through Redis, one worker a device"
    )
    parser.add_argument("--device", default="", help="cpu, cuda or cuda:N; the best one if none")
    parser.set_defaults(work=work)


def work(chosen: argparse.Namespace) -> int:
    """Work until told to stop.

    Raises:
        SpecError: If no Redis is named.
    """
    settings = Settings()
    logs.configure(settings)
    if not settings.redis_url:
        raise SpecError(
            "A worker needs to know where requests come from.", "Set STRATASCOPE_REDIS_URL."
        )
    try:
        from analysis.scale.settings import ScaleSettings
        from analysis.scale.worker import Worker
    except ImportError as error:
        raise SpecError(
            "Celery and redis are not installed.", ".venv/bin/pip install -e '.[scale]'"
        ) from error
    service = service_settings(settings)
    limits = service.limits()
    if chosen.device:
        limits = replace(limits, device=chosen.device)
    scale = ScaleSettings(settings.redis_url, settings.redis_prefix, grace_s=settings.grace_s)
    return Worker(scale, service.function, limits).run(
        _first(settings.default_model, service.dtype)
    )


def _first(name: str, dtype: str | None) -> Request | None:
    """The default model, to be loaded at once; None if this worker hasn't got it."""
    try:
        return Request("info", name, catalog_fingerprint(name, dtype))
    except AnalysisError:
        return None
