"""gunicorn's own messages, in the server's log and its form."""

from __future__ import annotations

from typing import Any

from gunicorn.glogging import Logger


class Lines(Logger):  # type: ignore[misc]
    """Hands everything on to the root logger; of an address that failed, only its path."""

    def setup(self, cfg: Any) -> None:
        """Undo what gunicorn sets up for itself."""
        super().setup(cfg)
        self.error_log.handlers[:] = []
        self.error_log.propagate = True

    def exception(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """A request that failed: what stands behind the question mark is the prompt."""
        shown = [str(arg).partition("?")[0] for arg in args]
        super().exception(msg, *shown, **kwargs)
