"""How much gunicorn reads of a request before anything of ours sees it."""

from __future__ import annotations

from contextlib import suppress

_KIB = 1024
#: Over the app's own limit, so that whoever is over that hears of it in words.
_MARGIN = 16


def allow_addresses(kib: int) -> int:
    """Let gunicorn read first lines of requests that long, and none without end.

    The address holds the whole page, prompt included. gunicorn takes at most 8190 bytes or, with
    0, any number of them; the former is too short, and the latter fills the memory of whoever
    listens.

    Returns:
        What to set ``limit_request_line`` to, in bytes.
    """
    longest = (kib + _MARGIN) * _KIB
    with suppress(ImportError):  # another web server, with limits of its own
        from gunicorn.http import message

        message.MAX_REQUEST_LINE = longest
    return longest
