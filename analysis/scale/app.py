"""The Celery application: two queues, late acknowledgement, states in Redis, JSON only.

Also its settings: where Redis is, and how long its entries live.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from celery import Celery
from celery.backends.redis import RedisBackend
from kombu.exceptions import OperationalError

from analysis import codec, registry  # noqa: F401 - the registry defines every spec
from analysis.contract.specs import Spec
from analysis.errors import SpecError
from analysis.tracing.interventions import RunEdit
from analysis.worker.messages import Request


@dataclass(frozen=True, slots=True)
class ScaleSettings:
    """Settings that web processes and workers share.

    Attributes:
        url: ``redis://host:port/0``, ``rediss://...`` or ``unix:///path``.
        prefix: Prepended to every key, so that several installations can share one Redis.
        result_s: Seconds that an answer is kept for all web processes.
        result_bytes: Largest answer that is sent through Redis.
        user_bytes: Most bytes of the answers that Redis keeps for one user.
        lease_s: Seconds after which a silent web process no longer counts as waiting.
        lost_s: Seconds of silence after which a worker counts as lost.
        patience_s: Seconds without Redis after which waiting requests fail.
        beat_s: Seconds between two state updates of a running computation.
        grace_s: Seconds that a stopping worker gives to an interactive computation.
        turn_s: Seconds that long work computes before another user's has a turn, the first time.
    """

    url: str = field(repr=False)
    prefix: str = "stratascope:"
    result_s: int = 24 * 3600
    result_bytes: int = 64 << 20
    user_bytes: int = 256 << 20
    lease_s: float = 10.0
    lost_s: float = 6.0
    patience_s: float = 20.0
    beat_s: float = 0.2
    grace_s: float = 20.0
    turn_s: float = 10.0

    @property
    def broker(self) -> str:
        """The address as Celery's broker expects it."""
        path = self.url.removeprefix("unix://")
        return f"redis+socket://{path}" if path != self.url else self.url

    @property
    def celery_prefix(self) -> str:
        """What is prepended to the keys of Celery's own queues and results."""
        return f"{self.prefix}celery:"

    @property
    def results(self) -> str:
        """The address as Celery's result backend expects it."""
        return self.broker.removeprefix("redis+")


#: Interactive computations, and long ones. A worker runs at most one of each at a time.
CLICKS, LONG = QUEUES = ("clicks", "long")
TASK = "stratascope.compute"

#: Seconds after which Celery delivers a message again that was not acknowledged.
VISIBILITY_S = 600


class Results(RedisBackend):  # type: ignore[misc]
    """Celery's result backend without a subscription per task: clients poll."""

    def on_task_call(self, producer: Any, task_id: str) -> None:
        """Subscribe to nothing."""

    def decode_state(self, payload: bytes | None) -> tuple[str, dict[str, Any]]:
        """Return a task's status and its result; a damaged entry counts as missing."""
        try:
            found = self.decode(payload) if payload else {}
            return str(found["status"]), dict(found["result"])
        except Exception:  # noqa: BLE001 - whatever lies in Redis
            return "PENDING", {}

    def decode_result(self, payload: bytes) -> dict[str, Any]:
        """Return a task's state for Celery itself."""
        status, result = self.decode_state(payload)
        return {"status": status, "result": result}


def make_app(settings: ScaleSettings) -> Celery:
    """Return the application that both web processes and workers use."""
    prefix = {"global_keyprefix": settings.celery_prefix}
    app = Celery("stratascope", broker=settings.broker, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        result_serializer="json",
        event_serializer="json",
        accept_content=["json"],
        task_queues={name: {} for name in QUEUES},
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_publish_retry=False,
        result_backend=f"{__name__}:{Results.__name__}+{settings.results}",
        result_expires=3600,
        result_backend_transport_options={**prefix, "retry_policy": {"timeout": 5.0}},
        redis_socket_timeout=5.0,
        redis_socket_connect_timeout=2.0,
        worker_prefetch_multiplier=1,
        worker_enable_prefetch_count_reduction=False,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=2.0,
        broker_transport_options={
            **prefix,
            "socket_timeout": 5.0,
            "socket_connect_timeout": 2.0,
            "visibility_timeout": VISIBILITY_S,
        },
    )
    return app


def send(app: Celery, queue: str, id: str, arguments: Sequence[Any]) -> None:
    """Send a task; its header names the user, the third argument, for turns in the queue.

    Raises:
        OperationalError: If Redis can't be reached.
    """
    try:
        user = {"user": arguments[2]}
        app.send_task(TASK, arguments, task_id=id, queue=queue, headers=user)
    except Exception as error:  # kombu raises errors of many types while it reconnects
        raise OperationalError(str(error)) from error


def encode_request(request: Request) -> Any:
    """Return a request as a JSON value."""
    return codec.to_json(request, {})


def decode_request(value: Any) -> Request:
    """Return the request of ``encode_request``.

    Raises:
        SpecError: If the value is not a request, or names an unknown spec type.
    """
    try:
        edits = {kind.__name__: kind for kind in get_args(RunEdit)}
        found = codec.from_json(value, {}, {**Spec.types_by_name, **edits, "Request": Request})
        resumable, other = bool(found.resumable), str(found.other)
        return Request(found.kind, found.model, found.fingerprint, found.specs, resumable, other)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SpecError("A request could not be read.", "Run one version everywhere.") from error
