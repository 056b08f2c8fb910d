"""Headers of every answer: what a browser may load, run, send on and be framed by."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flask import Response, g, request

from dash_app.logs import request_id

#: Plotly and Dash set styles as attributes and in a style element, hence 'unsafe-inline' for them
#: alone. Scripts come from here, or are among Dash's inline ones, by hash; none may call eval.
#: Plotly draws heatmaps as data: images and saves pictures from blob: ones.
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
    # The address holds the prompt, so nobody else is told it; with "no-referrer" a browser would
    # not even tell us that our own forms are ours (it sends "Origin: null").
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Permissions-Policy": ", ".join(f"{name}=()" for name in _DENIED),
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Permitted-Cross-Domain-Policies": "none",
}
_A_YEAR = 31_536_000


def policy(hashes: Sequence[str]) -> str:
    """The content security policy, with the hashes of the scripts that stand in the page."""
    parts = {**_POLICY, "script-src": " ".join([_POLICY["script-src"], *hashes])}
    return "; ".join(f"{name} {value}" for name, value in parts.items())


def guard(hashes: Sequence[str] | None) -> Callable[[Response], Response]:
    """What adds the headers to an answer.

    Args:
        hashes: Of the page's inline scripts; None: no policy, for Dash's developer tools, which
            run what they make up.
    """

    def add(response: Response) -> Response:
        response.headers.update(_FIXED)
        if hashes is not None:
            response.headers["Content-Security-Policy"] = policy(hashes)
        response.headers["X-Request-ID"] = request_id()
        response.headers.pop("Server", None)
        peer = g.get("peer")
        by_https = peer is not None and peer.secure
        if by_https:
            response.headers["Strict-Transport-Security"] = f"max-age={_A_YEAR}"
        if by_https or (peer is not None and peer.is_local):
            # Elsewhere browsers ignore it, and complain of it in every console.
            response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
        if not _may_be_kept():
            response.headers["Cache-Control"] = "no-store"
        return response

    return add


def _may_be_kept() -> bool:
    """Whether a browser may keep the answer: files of the app, and nothing of anybody's."""
    return request.path.startswith(("/assets/", "/_dash-component-suites/", "/_favicon.ico"))
