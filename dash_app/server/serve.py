"""Serve an app: with gunicorn where it runs, else with Dash's own server."""

from __future__ import annotations

import sys
from typing import Any

from dash_app.server.server import announce, build
from dash_app.settings import Settings


def serve(settings: Settings) -> int:
    """Serve until interrupted: gunicorn where there is one, else Dash's own server."""
    if sys.platform == "win32" or settings.debug:
        return _serve_with_dash(settings)
    from dash_app.server.gunicorn import run

    return run(settings)


def _serve_with_dash(settings: Settings) -> int:
    served = build(settings)
    served.start()
    announce(settings)
    options: dict[str, Any] = {"debug": settings.debug, "use_reloader": False}
    try:
        served.app.run(host=settings.host, port=settings.port, **options)
    finally:
        served.close()
    return 0
