"""A small WSGI app behind our gunicorn worker, with short limits: for tests of slow clients.

``/`` answers at once, with the body that was sent. ``/large`` answers with 24 MB. ``/hold`` answers
when the file HOLD exists.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from dash_app.server import buffered_worker
from dash_app.server.buffered_worker import BufferedWorker

LARGE = 24 << 20

buffered_worker.HEAD_S = float(os.environ.get("HEAD_S", buffered_worker.HEAD_S))
buffered_worker.BODY_S = float(os.environ.get("BODY_S", buffered_worker.BODY_S))
buffered_worker.PER_ADDRESS = int(os.environ.get("PER_ADDRESS", buffered_worker.PER_ADDRESS))


class Worker(BufferedWorker):
    """The worker, with the limits of the environment."""


def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    if environ["PATH_INFO"] == "/hold":
        while not Path(os.environ["HOLD"]).exists():
            time.sleep(0.01)
    if environ["PATH_INFO"] == "/large":
        body = b"x" * LARGE
    start("200 OK", [("Content-Length", str(len(body)))])
    return [body]
