"""Celery, set up as the workers need it: word that there is something to do, and no more.

A message carries nothing: the request, its order, progress and answer lie in Redis under names
that only our scripts touch. So a message that is lost, late or sent twice does no harm.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from celery import Celery
from kombu.exceptions import OperationalError

from analysis.scale.settings import ScaleSettings

_log = logging.getLogger("stratascope.scale")

QUEUE = "stratascope"
TASK = "stratascope.work"


def make_app(settings: ScaleSettings, work: Callable[[], None] | None = None) -> Celery:
    """A Celery application that speaks JSON only and keeps no results of its own.

    Args:
        settings: Where Redis is.
        work: What a worker does at a message; None in a web process, which only sends them.
    """
    app = Celery("stratascope", broker=settings.broker, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        result_serializer="json",
        event_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_default_queue=QUEUE,
        task_acks_late=True,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=2.0,
        broker_transport_options={
            "global_keyprefix": f"{settings.prefix}celery:",
            "socket_timeout": 5.0,
            "socket_connect_timeout": 2.0,
            "visibility_timeout": 600,
        },
    )
    if work is not None:
        app.task(name=TASK)(work)
    return app


def tell(app: Celery) -> None:
    """Send word to whichever worker is free. Where that fails, it is sent again later."""
    try:
        app.send_task(TASK, queue=QUEUE, ignore_result=True, retry=False)
    except (OperationalError, OSError) as error:
        _log.warning("no word could be sent to the workers (%s)", type(error).__name__)
