"""Whether the process lives, whether the model is loaded, and numbers: for machines that watch."""

from __future__ import annotations

import logging
import threading
from typing import Any

from flask import Flask
from prometheus_client import CONTENT_TYPE_LATEST
from werkzeug.wrappers import Response

from analysis.errors import AnalysisError
from dash_app.ops.metrics import Metrics

_log = logging.getLogger("stratascope.health")


class Readiness:
    """Whether a question about the model that the page opens with would be worked on at once.

    Where it would not, because the server has just started or its worker died, asking has the
    model loaded.

    Args:
        service: What answers questions.
        model: The model.
    """

    def __init__(self, service: Any, model: str) -> None:
        self._service = service
        self._model = model
        self._busy = threading.Lock()

    def ready(self) -> bool:
        """Whether it is; if not, it soon will be."""
        if self._service.ready(self._model):
            return True
        self.warm()
        return False

    def warm(self) -> None:
        """Load the model, unless that is under way."""
        if self._busy.acquire(blocking=False):
            threading.Thread(target=self._load, name="warm", daemon=True).start()

    def _load(self) -> None:
        try:
            self._service.warm(self._model)
        except AnalysisError as error:
            _log.warning("%s could not be loaded ahead: %s", self._model, error)
        finally:
            self._busy.release()


def install(server: Flask, service: Any, metrics: Metrics, model: str) -> Readiness:
    """Add the addresses."""
    readiness = Readiness(service, model)

    def healthz() -> Response:
        return Response("ok\n", mimetype="text/plain")

    def readyz() -> Response:
        if readiness.ready():
            return Response("ready\n", mimetype="text/plain")
        return Response(f"{model} is not loaded yet\n", 503, mimetype="text/plain")

    def numbers() -> Response:
        return Response(metrics.text(), content_type=CONTENT_TYPE_LATEST)

    for rule, view in (("/healthz", healthz), ("/readyz", readyz), ("/metrics", numbers)):
        server.add_url_rule(rule, rule, view, methods=["GET"])
    return readiness
