"""Whose runs and collections a request may see: the signed-in user's, or the browser's own.

Without a login, a cookie with a random number identifies the browser. The store keeps a hash of it,
so that a copy of the store does not contain the cookie. A browser whose cookie has expired can
never be recognised again, so its entries are deleted (``history.runs.forget_unused``).
"""

from __future__ import annotations

import hashlib
import re
import secrets

from flask import Flask, g, request
from werkzeug.wrappers import Response

from dash_app.monitoring import user_key
from dash_app.security.responses import COOKIE

BROWSER_COOKIE = f"{COOKIE}-browser"
#: The longest time that browsers keep a cookie; each visit starts it again.
COOKIE_DAYS = 400
BROWSER = "browser:"
_WELL_FORMED = re.compile(r"[A-Za-z0-9_-]{32}")


def owner() -> str:
    """The key of whoever sent the current request; empty for a browser without cookies."""
    name = str(g.get("user", ""))
    return user_key(name) or _key(_number())


def install(server: Flask) -> None:
    """Give each browser that opens the page a number, if the server has no login."""
    server.after_request(_number_browser)


def _number_browser(response: Response) -> Response:
    if request.path != "/" or request.method != "GET" or g.get("user"):
        return response
    peer = g.get("peer")
    response.set_cookie(
        BROWSER_COOKIE,
        _number() or secrets.token_urlsafe(24),
        max_age=COOKIE_DAYS * 86_400,
        secure=peer is not None and peer.secure,
        httponly=True,
        samesite="Lax",
    )
    return response


def _number() -> str:
    sent = request.cookies.get(BROWSER_COOKIE, "")
    return sent if _WELL_FORMED.fullmatch(sent) else ""


def _key(number: str) -> str:
    return BROWSER + hashlib.sha256(number.encode()).hexdigest()[:32] if number else ""
