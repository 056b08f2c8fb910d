"""Log formatters: JSON lines and text lines, never with a user's input.

An exception's message may quote a prompt. The log therefore contains only the exception's type
and its stack frames.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

_MOST = 2000


def trace_of(error: BaseException) -> list[str]:
    """Types and stack frames of an error and its causes, the last error first; no messages."""
    lines: list[str] = []
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        lines += [type(found).__qualname__, *_frames(found.__traceback__)]
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
    return lines


def _frames(start: TracebackType | None) -> list[str]:
    return [
        f"  {frame.filename}:{frame.lineno} in {frame.name}"
        for frame in traceback.extract_tb(start)
    ]


def _message(record: logging.LogRecord) -> str:
    return record.getMessage()[:_MOST]


class _Lines(logging.Formatter):
    """Base of both formatters.

    Args:
        request: Returns the id of the current request; "" if there is none.
    """

    def __init__(self, request: Callable[[], str] = str) -> None:
        super().__init__()
        self._request = request

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """The current request, and the fields of the event."""
        named = self._request()
        return {**({"request": named} if named else {}), **getattr(record, "event", {})}


class JsonLines(_Lines):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line: time, level, logger, message, request, fields of the event, trace."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
            **self._fields(record),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["trace"] = trace_of(record.exc_info[1])
        return json.dumps(line, ensure_ascii=True, default=str)


class TextLines(_Lines):
    """A text line; the lines of a stack trace follow, indented."""

    def format(self, record: logging.LogRecord) -> str:
        """The line. Line breaks in a message are escaped."""
        when = datetime.fromtimestamp(record.created).astimezone().isoformat(" ", "seconds")
        fields = "".join(f" {name}={value}" for name, value in self._fields(record).items())
        text = _message(record) + fields
        safe = text.encode("unicode_escape").decode("ascii") if not text.isprintable() else text
        lines = [f"{when[:19]} {record.levelname} {record.name}: {safe}"]
        if record.exc_info and record.exc_info[1] is not None:
            lines += [f"    {line}" for line in trace_of(record.exc_info[1])]
        return "\n".join(lines)


def lines_for(kind: str, request: Callable[[], str] = str) -> logging.Formatter:
    """A formatter: "json", "text", or "auto" (text if standard error is a terminal)."""
    as_text = kind == "text" or (kind == "auto" and sys.stderr.isatty())
    return TextLines(request) if as_text else JsonLines(request)


def handle(level: int, formatter: logging.Formatter) -> None:
    """Write everything from ``level`` up to standard error, and nowhere else."""
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
