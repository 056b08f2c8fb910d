"""A background callback's own thread, and how its errors reach the page."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Mapping
from contextvars import Context, ContextVar
from dataclasses import dataclass, field
from typing import Any

from dash._callback_context import context_value
from dash._get_app import app_context, get_app
from dash._utils import AttributeDict
from dash.background_callback._proxy_set_props import ProxySetProps
from dash.exceptions import PreventUpdate
from plotly.io.json import to_json_plotly

from analysis.contract.jobs import Job, current_user
from dash_app.errors import failure
from dash_app.logs import current_request

_log = logging.getLogger("stratascope.jobs")


#: Seconds for which a result waits to be fetched, and a job is remembered that was fetched.
_KEEP_S, _REMEMBER_S = 900.0, 60.0


@dataclass(eq=False, slots=True)
class Running:
    """One background callback under way, or lately ended.

    Attributes:
        key: Its id, and that of its result.
        user: Whose it is.
        state: "running", "finished", "collected" or "cancelled".
        progress: What the page has not yet fetched, as JSON; empty if nothing.
        props: What ``set_props`` set and the page has not yet fetched, by component.
        jobs: Its requests to the service.
        ended: When it ended, on the monotonic clock.
        sets, page, turn: What its callback sets, for which page load, and when that page asked: its
            requests are numbered (``assets/js/net.js``).
    """

    key: str
    user: str
    state: str = "running"
    progress: str = ""
    props: dict[str, dict[str, Any]] = field(default_factory=dict)
    jobs: list[Job] = field(default_factory=list)
    ended: float = 0.0
    sets: str = ""
    page: str = ""
    turn: int = 0

    def stale(self, now: float) -> bool:
        """Whether it may be forgotten: over, and its page had time enough to ask for it."""
        patience = _KEEP_S if self.state == "finished" else _REMEMBER_S
        return bool(self.ended) and now - self.ended > patience

    def replaces(self, other: Running) -> bool:
        """Whether the same page asked the same callback for this after it had for ``other``."""
        mine, theirs = ((one.sets, one.page, one.user) for one in (self, other))
        return bool(self.page) and mine == theirs and self.turn > other.turn

    def line(self) -> str:
        """The same for all that may replace each other, whichever process works on them."""
        said = "\0".join((self.user, self.page, self.sets))
        return hashlib.sha256(said.encode()).hexdigest()


current_background: ContextVar[Running | None] = ContextVar("stratascope_background", default=None)


def to_json(value: Any) -> str:
    """Components, figures with numpy arrays and plain values as JSON."""
    text: str = to_json_plotly(value)
    return text


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
