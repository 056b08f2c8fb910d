"""What is known of a background callback, from its start until its page has fetched everything."""

from __future__ import annotations

import hashlib
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from plotly.io.json import to_json_plotly

from analysis.job import Job

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
            requests are numbered (``assets/js/turns.js``).
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
