"""A background callback's own thread: what Dash and the service find set in it, and its outcome."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextvars import Context
from dataclasses import dataclass
from typing import Any

from dash._callback_context import context_value
from dash._get_app import app_context, get_app
from dash._utils import AttributeDict
from dash.background_callback._proxy_set_props import ProxySetProps
from dash.exceptions import PreventUpdate

from analysis.job import current_user
from dash_app.job_errors import failure
from dash_app.job_record import Running, current_background, to_json
from dash_app.ops.requests import current_request

_NO_UPDATE = {"_dash_no_update": "_dash_no_update"}


@dataclass(frozen=True, slots=True)
class Work:
    """One call of a background callback, and whom its thread tells of it.

    Attributes:
        function: The callback.
        args: As Dash gives them: by name, by place, or the only one.
        context: What Dash would set in a process of its own.
        set_props: Told of each component that ``set_props`` names in it, and what was set.
        ended: Told its outcome, as JSON.
    """

    function: Callable[..., Any]
    args: Any
    context: Mapping[str, Any]
    set_props: Callable[[str, dict[str, Any]], None]
    ended: Callable[[str], None]


def start(running: Running, work: Work) -> None:
    """Do the work in a thread; of the caller's context it has request and app only."""
    target = Context()
    target.run(current_request.set, current_request.get())
    app: Any = get_app  # Dash has no types for it
    target.run(app_context.set, app())
    threading.Thread(
        target=target.run, args=(_do, running, work), name=f"job-{running.key[:8]}", daemon=True
    ).start()


def _do(running: Running, work: Work) -> None:
    current_background.set(running)
    current_user.set(running.user)
    values = AttributeDict(**work.context)
    values.ignore_register_page = False
    proxy: Any = ProxySetProps  # Dash has no types for it
    values.updated_props = proxy(work.set_props)
    context_value.set(values)
    work.ended(_outcome(work.function, work.args))


def _outcome(fn: Callable[..., Any], args: Any) -> str:
    try:
        if isinstance(args, dict):
            return to_json(fn(**args))
        return to_json(fn(*(args if isinstance(args, (list, tuple)) else (args,))))
    except PreventUpdate:
        return to_json(_NO_UPDATE)
    except Exception as error:  # noqa: BLE001 - the page hears of it, whatever it is
        return failure(error)
