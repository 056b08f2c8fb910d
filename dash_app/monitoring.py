"""The log, health checks and Prometheus metrics; the names of requests and users in them.

The log has one line per event, with the request's id. It never holds a prompt or a secret. Labels
of metrics never contain a prompt.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import psutil
from flask import Flask
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from werkzeug.wrappers import Response

from analysis import log_lines
from analysis.errors import AnalysisError
from analysis.worker.messages import ServiceStatus
from dash_app.settings import Settings

#: An id that a proxy may give a request; anything else is ignored.
_WELL_FORMED = re.compile(r"[A-Za-z0-9_-]{8,64}")
#: Short enough to be read aloud, long enough to be found in a day's log.
_ID_BYTES = 4
USER = "user:"

current_request: ContextVar[str] = ContextVar("stratascope_request", default="")


def begin_request(given: str | None) -> str:
    """Start a request: take the id that a proxy gave it if it is well-formed, else make one."""
    chosen = given if given and _WELL_FORMED.fullmatch(given) else secrets.token_hex(_ID_BYTES)
    current_request.set(chosen)
    return chosen


def end_request(_error: BaseException | None = None) -> None:
    """End the request: its id must not name anything that this thread does later."""
    current_request.set("")


def request_id() -> str:
    """The id of the current request; a new one outside of any request."""
    return current_request.get() or secrets.token_hex(_ID_BYTES)


_events = logging.getLogger("stratascope.events")


def configure_log(settings: Settings) -> None:
    """Write the log to standard error, in the format of the settings."""
    lines = log_lines.lines_for(settings.log_format, current_request.get)
    log_lines.handle(logging.INFO, lines)
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    # At a terminal, log problems only, not every click.
    is_text = isinstance(lines, log_lines.TextLines)
    _events.setLevel(logging.WARNING if is_text else logging.INFO)


def log_event(what: str, **fields: Any) -> None:
    """Log one event and its fields."""
    _events.info(what, extra={"event": fields})


def user_key(name: str) -> str:
    """The queue's key of a signed-in user; empty for an empty name."""
    return f"{USER}{name}" if name else ""


def page_key(text: str) -> str:
    """The queue's key of a page load or an address: a hash that does not reveal it."""
    return hashlib.sha256(text.encode()).hexdigest()[:16] if text else ""


def owner_tag(user: str) -> str:
    """The end of a job's id, which names its owner; Dash's signature protects it."""
    return hashlib.sha256(f"job of {user}".encode()).hexdigest()[:8]


def hashed(name: str) -> str:
    """A user's name as the log shows it by default: a constant hash."""
    return hashlib.sha256(f"stratascope user {name}".encode()).hexdigest()[:12] if name else ""


def logged_user(settings: Settings, user: str) -> str:
    """A key of the queue as the log shows it: the user's name, its hash, or a page's key."""
    if not user.startswith(USER):
        return user
    name = user.removeprefix(USER)
    return name if settings.log_users == "name" else hashed(name)


#: Without a "created" time for each counter, which nothing reads.
disable_created_metrics()  # type: ignore[no-untyped-call]
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)


class Metrics:
    """All metrics.

    Args:
        service: Its status becomes metrics; a service without one (in a test) adds none.
        named: From a user's key in the queue to the name in the log.
    """

    def __init__(self, service: Any, named: Callable[[str], str] = str) -> None:
        self._named = named
        self.registry = CollectorRegistry()
        self.jobs = Counter(
            "stratascope_jobs", "Computations, by kind and outcome.",
            ("kind", "outcome"), registry=self.registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "stratascope_job_seconds", "Time from request to result, including the queue.",
            ("kind",), buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.refused = Counter(
            "stratascope_refused", "Requests that were refused or failed, by status.",
            ("status",), registry=self.registry,
        )  # fmt: skip
        if hasattr(service, "status"):
            self.registry.register(_Status(service))

    def job(self, kind: str, outcome: str, seconds: float, user: str) -> None:
        """Count and log a computation that ended."""
        self.jobs.labels(kind, outcome).inc()
        self.seconds.labels(kind).observe(seconds)
        log_event(
            "job", kind=kind, outcome=outcome, seconds=round(seconds, 3), user=self._named(user)
        )

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class _Status(Collector):
    """The service's status as metrics."""

    def __init__(self, service: Any) -> None:
        self._service = service

    def describe(self) -> list[Metric]:
        """Nothing, because the registry would otherwise collect at once."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The current values."""
        status: ServiceStatus = self._service.status()
        memo = status.memo
        yield _gauge("queue_length", "Computations in the queue.", status.queued)
        yield _gauge("workers", "Model workers.", status.workers)
        yield _count("forward_passes", "Forward passes of models.", status.forwards)
        yield _count("memo_hits", "Results found in the memo.", memo.hits)
        yield _count("memo_misses", "Results not found in the memo.", memo.misses)
        yield _gauge("memo_entries", "Results in the memo.", memo.entries)
        yield _gauge("memo_bytes", "Size of the memo on disk.", memo.bytes_used)
        yield _gauge("memo_limit_bytes", "Limit of the memo on disk.", memo.bytes_limit)
        yield _gauge("memo_broken", "1 if the memo on disk fails.", bool(memo.problem))
        yield _count("memo_failures", "Failed reads and writes of the memo.", memo.failures)
        resident = GaugeMetricFamily(
            "stratascope_resident_model", "Loaded models.", labels=["model"]
        )
        for name in status.resident:
            resident.add_metric([name], 1)
        yield resident
        yield _memory(status.worker_pid)


def _memory(worker: int | None) -> Metric:
    memory = GaugeMetricFamily(
        "stratascope_memory_bytes", "Resident memory of a process.", labels=["process"]
    )
    for name, pid in (("web", None), ("worker", worker)):
        if name == "worker" and worker is None:
            continue
        try:
            memory.add_metric([name], psutil.Process(pid).memory_info().rss)
        except psutil.Error:
            continue  # the process has just died
    return memory


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(f"stratascope_{name}", meaning, value=value)


def _count(name: str, meaning: str, value: float) -> Metric:
    return CounterMetricFamily(f"stratascope_{name}", meaning, value=value)


_log = logging.getLogger("stratascope.health")


class Readiness:
    """Whether a request for the default model would be computed at once.

    If not, because the server has just started or its worker died, asking loads the model.

    Args:
        service: The service.
        model: The default model.

    Attributes:
        stopping: Whether the server stops, and starts nothing more.
    """

    def __init__(self, service: Any, model: str) -> None:
        self._service = service
        self._model = model
        self._busy = threading.Lock()
        self.stopping = False

    def ready(self) -> bool:
        """Whether the model is loaded; if not, loading starts."""
        if self._service.ready(self._model):
            return True
        self.warm()
        return False

    def warm(self) -> None:
        """Load the model, unless it is already loading."""
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
    """Add /healthz, /readyz and /metrics to a server."""
    readiness = Readiness(service, model)

    def healthz() -> Response:
        return Response("ok\n", mimetype="text/plain")

    def readyz() -> Response:
        if readiness.stopping:
            return Response("the server stops\n", 503, mimetype="text/plain")
        if readiness.ready():
            return Response("ready\n", mimetype="text/plain")
        return Response(f"{model} is not loaded yet\n", 503, mimetype="text/plain")

    def numbers() -> Response:
        return Response(metrics.text(), content_type=CONTENT_TYPE_LATEST)

    for rule, view in (("/healthz", healthz), ("/readyz", readyz), ("/metrics", numbers)):
        server.add_url_rule(rule, rule, view, methods=["GET"])
    return readiness
