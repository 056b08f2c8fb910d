"""A request that is refused: what happened, what to try, an id; as JSON, or as a page to read."""

from __future__ import annotations

import html
import json
from typing import Any

from flask import Response, request
from werkzeug.exceptions import HTTPException

from dash_app.logs import request_id
from dash_app.security.login import page


class Refusal(HTTPException):
    """A request that is not answered.

    Args:
        code: The HTTP status.
        message: What happened.
        hint: What to try.
        headers: Further headers of the answer.
    """

    def __init__(
        self, code: int, message: str, hint: str = "", headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.headers = headers or {}


#: What is said of refusals that the web framework makes.
_WORDS = {
    400: ("The server could not read this request.", "Reload the page."),
    404: ("There is nothing at this address.", "The page itself is at /."),
    405: ("This address does not take such a request.", "Reload the page."),
    413: ("This request is larger than the server takes.", "Send less at once."),
    414: ("This address is longer than the server takes.", "Shorten the prompt."),
    415: ("The server could not read this request.", "Reload the page."),
    431: ("This request's headers are larger than the server takes.", "Clear its cookies."),
}
_BROKEN = (
    "Something went wrong on the server.",
    "Nothing you typed is lost. Try again; the log has the details under this id.",
)


def answer(error: HTTPException) -> Response:
    """The answer to a request that failed with ``error``."""
    code = error.code or 500
    if isinstance(error, Refusal):
        message, hint = error.message, error.hint
    else:
        message, hint = _WORDS.get(code, _BROKEN)
    response = _said(code, message, hint)
    response.headers.extend(getattr(error, "headers", {}))
    return response


def broken() -> Response:
    """The answer to a request that met a defect; the log has it."""
    return _said(500, *_BROKEN)


def _said(code: int, message: str, hint: str) -> Response:
    if wants_page():
        text = f"<p>{html.escape(message)}</p><p class='muted'>{html.escape(hint)}</p>"
        note = f"<p class='muted mono'>Request {html.escape(request_id())}</p>"
        return Response(page(message, text + note), code, mimetype="text/html")
    said: dict[str, Any] = {"message": message, "hint": hint, "request": request_id()}
    return Response(json.dumps({"problem": said}), code, mimetype="application/json")


def wants_page() -> bool:
    """Whether a person reads the answer, in place of a script."""
    return request.method in ("GET", "HEAD") and "text/html" in request.headers.get("Accept", "")
