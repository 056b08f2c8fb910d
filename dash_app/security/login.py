"""Sign in and out: two addresses, one form, no script."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass

from flask import Flask, g, redirect, request
from werkzeug.wrappers import Response

from dash_app.monitoring import hashed, log_event
from dash_app.security.clients import Buckets, Rate, whole_seconds
from dash_app.security.sessions import Sessions
from dash_app.security.users import Users
from dash_app.settings import Settings

_PAGE = """<!DOCTYPE html>
<html lang="en" class="login">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} - Stratascope</title>
<link rel="icon" href="{root}/_favicon.ico">
<link rel="stylesheet" href="{root}/assets/bootstrap/bootstrap.min.css">
<link rel="stylesheet" href="{root}/assets/css/theme.css">
<link rel="stylesheet" href="{root}/assets/css/page.css">
<link rel="stylesheet" href="{root}/assets/css/login.css">
</head>
<body>
<main class="login-card">
<div class="brand"><span class="brand-mark" aria-hidden="true"></span>
<span>Stratascope</span></div>
{body}
</main>
</body>
</html>
"""

_FORM = """<h1 class="login-title">Sign in</h1>
{problem}
<form method="post" action="{root}/login" class="login-form">
<input type="hidden" name="next" value="{target}">
<label for="name">User</label>
<input class="form-control" id="name" name="name" autocomplete="username"
 autocapitalize="none" spellcheck="false"
 maxlength="64" required{focus_name} value="{name}">
<label for="password">Password</label>
<input class="form-control" id="password" name="password" type="password"
 autocomplete="current-password"
 maxlength="1024" required{focus_password}>
<button type="submit" class="btn btn-primary">Sign in</button>
</form>
"""

#: Longest address in a header of a response, in bytes.
LONGEST_HEADER = 1000

#: The files that these pages need; all others require a login.
PUBLIC_ASSETS = (
    "/assets/bootstrap/bootstrap.min.css",
    *(f"/assets/css/{name}.css" for name in ("theme", "page", "login")),
    *(
        f"/assets/fonts/{name}-wght-normal.woff2"
        for name in ("inter-latin", "inter-latin-ext", "jetbrains-mono-latin")
    ),
)


def page(title: str, body: str) -> str:
    """A page around an HTML body."""
    return _PAGE.format(title=html.escape(title), body=body, root=html.escape(request.script_root))


def forward(target: str, code: int) -> Response:
    """Send the browser to an address of this page.

    A long address stands in the body: the headers of a response must fit into a proxy's buffer of
    a few kilobytes.
    """
    address = request.script_root + target
    if len(address) <= LONGEST_HEADER:
        return redirect(address, code)
    shown = html.escape(address, quote=True)
    body = (
        f'<meta http-equiv="refresh" content="0; url={shown}">'
        f'<p><a href="{shown}">Open the page</a></p>'
    )
    return Response(page("Signed in", body), mimetype="text/html")


def sign_in(target: str, *, name: str = "", problem: str = "") -> str:
    """The sign-in form.

    Args:
        target: Address to open after signing in.
        name: The user's name as it was typed.
        problem: Why the last attempt failed.
    """
    alert = (
        f'<div class="alert alert-danger" role="alert"><span class="alert-title">'
        f"{html.escape(problem)}</span></div>"
        if problem
        else ""
    )
    form = _FORM.format(
        root=html.escape(request.script_root),
        problem=alert,
        target=html.escape(target, quote=True),
        name=html.escape(name, quote=True),
        focus_name="" if name else " autofocus",
        focus_password=" autofocus" if name else "",
    )
    return page("Sign in", form)


_WINDOW_S = 300.0
#: Attempts on one name from all addresses together, as a multiple of those from one address: a few
#: attempts by others must not lock a user out.
_PER_NAME = 5
#: The page, or a shared collection; any other target that a form names is another site's.
_OWN_ADDRESS = re.compile(r"/(\?[^\x00-\x20\x7f\\#]*|collections/[A-Za-z0-9_-]+)?")
_WRONG = "The user name or the password is wrong."


@dataclass(frozen=True, slots=True)
class Login:
    """The sign-in page.

    Attributes:
        settings: The server's settings.
        users: Who may sign in.
        sessions: Who is signed in.
        buckets: The limits on attempts.
    """

    settings: Settings
    users: Users
    sessions: Sessions
    buckets: Buckets

    def install(self, server: Flask) -> None:
        """Add the addresses."""
        server.add_url_rule("/login", "login", self.show, methods=["GET"])
        server.add_url_rule("/login", "login_try", self.attempt, methods=["POST"])
        server.add_url_rule("/logout", "logout", self.leave, methods=["POST"])

    def show(self) -> Response:
        """The form; a signed-in user is sent to the page itself."""
        target = own_address(request.args.get("next", "/"))
        return forward(target, 302) if g.user else Response(sign_in(target), mimetype="text/html")

    def attempt(self) -> Response:
        """Sign in with the name and password of the form."""
        name, password = request.form.get("name", ""), request.form.get("password", "")
        target = own_address(request.form.get("next", "/"))
        wait = self._wait(name)
        if wait:
            problem = f"Too many attempts. Wait {whole_seconds(wait / 60)} min, then try again."
            headers = {"Retry-After": f"{whole_seconds(wait)}"}
            return self._retry(429, target, name, problem, headers)
        if not self.users.verify(name, password):
            log_event("login", outcome="refused", user=hashed(name))
            return self._retry(401, target, name, _WRONG, {})
        self._refund(name)
        self.sessions.start(name)
        log_event("login", outcome="ok", user=hashed(name))
        return forward(target, 303)

    def leave(self) -> Response:
        """Sign out."""
        self.sessions.end()
        return forward("/login", 303)

    def _retry(
        self, code: int, target: str, name: str, problem: str, headers: dict[str, str]
    ) -> Response:
        body = sign_in(target, name=name[:64], problem=problem)
        return Response(body, code, headers, mimetype="text/html")

    def _rates(self, name: str) -> tuple[tuple[str, Rate], ...]:
        many = self.settings.login_attempts
        return (
            (f"login:{g.peer.address}", Rate(many, many / _WINDOW_S)),
            (f"login-name:{hashed(name)}", Rate(many * _PER_NAME, many * _PER_NAME / _WINDOW_S)),
        )

    def _wait(self, name: str) -> float:
        """Count an attempt; the seconds to wait if none is left.

        An address that has none left does not use up those of the name.
        """
        waits = (self.buckets.take(key, rate) for key, rate in self._rates(name))
        return next((wait for wait in waits if wait), 0.0)

    def _refund(self, name: str) -> None:
        for key, rate in self._rates(name):
            self.buckets.take(key, rate, -1.0)


def own_address(target: str) -> str:
    """The target if it is an address of this page, else "/": never another site."""
    return target if _OWN_ADDRESS.fullmatch(target) else "/"
