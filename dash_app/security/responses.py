"""Headers and cookies of every response, and the response to a request that is refused."""

from __future__ import annotations

import html
import json
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from flask import Flask, Response, g, request
from flask.sessions import SecureCookieSessionInterface
from itsdangerous import SignatureExpired, TimestampSigner, URLSafeTimedSerializer
from werkzeug.exceptions import HTTPException

from dash_app.errors import DEFECT
from dash_app.monitoring import request_id
from dash_app.security.login import page
from dash_app.settings import Settings

#: Plotly and Dash set styles as attributes and in a style element, so styles need 'unsafe-inline'.
#: Scripts come from this server, or are Dash's inline scripts, listed by hash; none may call eval.
#: Plotly draws heatmaps as data: images and saves pictures from blob: URLs.
_POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self' 'unsafe-inline'",
    "img-src": "'self' data: blob:",
    "font-src": "'self'",
    "connect-src": "'self'",
    "manifest-src": "'self'",
    "form-action": "'self'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
}
_DENIED = (
    "accelerometer", "camera", "display-capture", "geolocation", "gyroscope", "magnetometer",
    "microphone", "midi", "payment", "usb", "xr-spatial-tracking",
)  # fmt: skip
_FIXED = {
    # The address holds the prompt, so no other site may receive it. "no-referrer" would also hide
    # from us that our own forms are ours (the browser sends "Origin: null").
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Permissions-Policy": ", ".join(f"{name}=()" for name in _DENIED),
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Permitted-Cross-Domain-Policies": "none",
}
#: Pages that may show a page of ``analysis.show`` in a frame: notebooks on this machine, in a
#: browser or in VS Code.
NOTEBOOKS = "http://127.0.0.1:* http://localhost:* vscode-webview: vscode-file:"
_YEAR_S = 31_536_000
COOKIE = "stratascope"


def policy(hashes: Sequence[str], *, framed: bool = False) -> str:
    """The content security policy, with the hashes of the page's inline scripts."""
    parts = {**_POLICY, "script-src": " ".join([_POLICY["script-src"], *hashes])}
    if framed:
        parts["frame-ancestors"] = NOTEBOOKS
    return "; ".join(f"{name} {value}" for name, value in parts.items())


def header_writer(
    hashes: Sequence[str] | None, *, framed: bool = False
) -> Callable[[Response], Response]:
    """Make the function that adds the headers to a response.

    Args:
        hashes: Of the page's inline scripts; None: no policy, because Dash's developer tools run
            code that they generate.
        framed: Whether notebooks on this machine may show the page in a frame.
    """

    def add(response: Response) -> Response:
        response.headers.update(_FIXED)
        if hashes is not None:
            response.headers["Content-Security-Policy"] = policy(hashes, framed=framed)
            if framed:  # the older header can't name who may
                del response.headers["X-Frame-Options"]
        response.headers["X-Request-ID"] = request_id()
        response.headers.pop("Server", None)
        peer = g.get("peer")
        by_https = peer is not None and peer.secure
        if by_https:
            response.headers["Strict-Transport-Security"] = f"max-age={_YEAR_S}"
        if by_https or (peer is not None and peer.is_local):
            # Elsewhere browsers ignore it, and log a warning on every page.
            response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
        if not _cacheable():
            response.headers["Cache-Control"] = "no-store"
        return response

    return add


def _cacheable() -> bool:
    """Whether a browser may cache the response: the app's own files, never a user's data."""
    return request.path.startswith(("/assets/", "/_dash-component-suites/", "/_favicon.ico"))


class _Signer(TimestampSigner):
    """Accepts a signature from the future: a clock that was set back signs nobody out."""

    def unsign(  # type: ignore[override]
        self, signed_value: Any, max_age: int | None = None, **options: Any
    ) -> Any:
        """As in the base class."""
        try:
            return super().unsign(signed_value, max_age, **options)
        except SignatureExpired as error:  # the signature itself is right
            if error.date_signed is None or error.date_signed.timestamp() <= time.time():
                raise
            return super().unsign(signed_value, None, **options)


class _Cookies(SecureCookieSessionInterface):
    """Flask's session cookie, marked Secure if the request came by https."""

    def __init__(self, always: bool) -> None:
        self._always = always

    def get_signing_serializer(self, app: Flask) -> URLSafeTimedSerializer | None:
        """Flask's own, with our signer."""
        made = super().get_signing_serializer(app)
        if made is not None:
            made.signer = _Signer
        return made

    def get_cookie_secure(self, app: Flask) -> bool:
        peer = g.get("peer")
        return self._always or (peer is not None and peer.secure)


def configure_cookies(server: Flask, settings: Settings) -> None:
    """Set the attributes of the session cookie."""
    server.session_interface = _Cookies(settings.cookie_secure)
    server.config.update(
        SESSION_COOKIE_NAME=COOKIE,
        SESSION_COOKIE_PATH=settings.url_prefix,
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_REFRESH_EACH_REQUEST=False,
        PERMANENT_SESSION_LIFETIME=timedelta(hours=settings.session_hours),
    )


class Refusal(HTTPException):
    """A request that the server refuses.

    Args:
        code: The HTTP status.
        message: What happened.
        hint: What to try.
        headers: Further headers of the response.
    """

    def __init__(
        self, code: int, message: str, hint: str = "", headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.headers = headers or {}


#: Message and hint for the refusals that the web framework itself makes.
_MESSAGES = {
    400: ("The server could not read this request.", "Reload the page."),
    404: ("There is nothing at this address.", "Open / to see the page."),
    405: ("This address does not accept such a request.", "Reload the page."),
    411: ("This request does not say how long it is.", "Send a Content-Length header."),
    413: ("This request is larger than the server accepts.", "Send less at once."),
    414: ("This address is longer than the server accepts.", "Shorten the prompt."),
    415: ("The server could not read this request.", "Reload the page."),
    431: (
        "The headers of this request are larger than the server accepts.",
        "Delete the cookies of this site.",
    ),
}


def refused(error: HTTPException) -> Response:
    """The response to a request that failed with ``error``."""
    code = error.code or 500
    if isinstance(error, Refusal):
        message, hint = error.message, error.hint
    else:
        message, hint = _MESSAGES.get(code, DEFECT)
    response = _response(code, message, hint)
    response.headers.extend(getattr(error, "headers", {}))
    return response


def broken() -> Response:
    """The response to a request that met a defect; the log has the details."""
    return _response(500, *DEFECT)


def _response(code: int, message: str, hint: str) -> Response:
    """A page for a person, JSON for a script."""
    if wants_page():
        text = f"<p>{html.escape(message)}</p><p class='muted'>{html.escape(hint)}</p>"
        note = f"<p class='muted mono'>Request {html.escape(request_id())}</p>"
        return Response(page(message, text + note), code, mimetype="text/html")
    problem: dict[str, Any] = {"message": message, "hint": hint, "request": request_id()}
    return Response(json.dumps({"problem": problem}), code, mimetype="application/json")


def wants_page() -> bool:
    """Whether the response is shown to a person, not read by a script."""
    return request.method in ("GET", "HEAD") and "text/html" in request.headers.get("Accept", "")
