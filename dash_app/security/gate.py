"""What every request passes before anything answers it."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from flask import Flask, g, redirect, request
from werkzeug.exceptions import NotFound, RequestEntityTooLarge, RequestURITooLarge
from werkzeug.wrappers import Response

from analysis.contract.jobs import current_user
from dash_app import logs
from dash_app.people import page_key, tag, user_key
from dash_app.security import payload
from dash_app.security.login import OPEN_ASSETS
from dash_app.security.network import Network, is_loopback, networks, peer
from dash_app.security.problems import Refusal, wants_page
from dash_app.security.rate_limits import Buckets, Rate, whole_seconds
from dash_app.security.sessions import Sessions
from dash_app.security.users import NAME
from dash_app.settings import Settings

KIB = 1024
#: Answered whoever asks: what the sign-in page needs, and whether the process lives.
OPEN = ("/login", "/logout", "/healthz", "/_favicon.ico", *OPEN_ASSETS)
#: For machines that watch; they don't sign in.
WATCHED = ("/readyz", "/metrics")
CALLBACKS = "/_dash-update-component"
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\.?)(:\d{1,5})?")
#: What Dash's page sends to name runs, signed by Dash: 32 digits, then whose it is.
_HANDLES, _NUMBER = ("cacheKey", "job", "oldJob", "cancelJob"), 32
_SAFE = ("GET", "HEAD", "OPTIONS")
#: Without a login, and before it, an address may be many people.
_PEOPLE = 10
#: Asking how a run goes costs next to nothing.
_POLLS = 5


@dataclass(frozen=True, slots=True)
class Gate:
    """Lets requests through, or refuses them.

    Attributes:
        settings: The server's settings.
        callbacks: Dash's table of callbacks.
        sessions: Who is signed in.
        buckets: How much of everything is left to whom.
        trusted: Networks of proxies that are believed.
    """

    settings: Settings
    callbacks: Mapping[str, Any]
    sessions: Sessions
    buckets: Buckets
    trusted: tuple[Network, ...]

    def install(self, server: Flask) -> None:
        """Have every request of ``server`` pass."""
        server.config["MAX_CONTENT_LENGTH"] = self.settings.max_body_kib * KIB
        server.before_request(self.admit)
        server.teardown_request(logs.end)

    def admit(self) -> Response | None:
        """Refuse the request at hand, answer it, or let it go on."""
        logs.begin(request.headers.get("X-Request-ID"))
        g.peer = peer(request.environ, self.trusted)
        g.user, g.may_sign_out = "", self.settings.login == "users"
        self._check_place()
        self._check_size()
        self._check_origin()
        if request.path in WATCHED:
            self._check_watcher()
            return None
        g.user = self._user()
        current_user.set(user_key(g.user) or page_key(self._page()))
        is_poll = "cacheKey" in request.args
        if not is_poll:
            self._check_rate(background=False)
        if self.settings.login != "off" and not g.user and request.path not in OPEN:
            return self._ask_to_sign_in()
        self._check_handles()
        if request.path == CALLBACKS and request.method == "POST":
            background = payload.check(request.get_data(), self.callbacks)
            if is_poll:
                self._check_rate(background=background)
        return None

    def _check_place(self) -> None:
        """By the right name, and from here where nobody signs in."""
        host = request.headers.get("Host", "")
        if not _HOST.fullmatch(host) or not self._is_ours(_bare(host)):
            raise Refusal(
                400,
                "This server is not asked for by that name.",
                "STRATASCOPE_ALLOWED_HOSTS lists further ones.",
            )
        if self.settings.login == "off" and not g.peer.is_local:
            raise Refusal(
                403,
                "This server answers its own machine only: it has no login.",
                "Set STRATASCOPE_LOGIN; the README's Deployment says how.",
            )
        if request.path.startswith("/static/"):
            raise NotFound  # Flask's own folder, which the app does not use

    def _is_ours(self, name: str) -> bool:
        allowed = [part.strip().lower() for part in self.settings.allowed_hosts.split(",")]
        if any(allowed):
            return name.lower() in allowed or (g.peer.is_local and is_loopback(name))
        # A page elsewhere can have its own name lead here: it must not be ours without a login.
        return self.settings.login != "off" or is_loopback(name)

    def _check_size(self) -> None:
        line = len(request.environ.get("RAW_URI") or "") or len(request.full_path)
        if line > self.settings.max_url_kib * KIB:
            raise RequestURITooLarge
        if (request.content_length or 0) > self.settings.max_body_kib * KIB:
            raise RequestEntityTooLarge

    def _check_origin(self) -> None:
        """Refuse what a page of another origin makes a browser send."""
        if request.method in _SAFE:
            return
        origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
        host = request.headers.get("Host", "")
        foreign = origin is not None and _place(origin) != host.lower()
        if foreign or site not in (None, "same-origin", "none"):
            raise Refusal(
                403,
                "This request comes from another site.",
                "Use the page itself. A proxy in front of it has to pass the Host header on.",
            )

    def _check_watcher(self) -> None:
        token = self.settings.ops_token
        sent = request.headers.get("Authorization", "")
        knows = bool(token) and hmac.compare_digest(sent.encode(), f"Bearer {token}".encode())
        if not (knows or g.peer.is_local):
            raise Refusal(
                403, "This is for who runs the server.", "STRATASCOPE_OPS_TOKEN opens it."
            )

    def _user(self) -> str:
        if self.settings.login == "users":
            return self.sessions.user()
        if self.settings.login == "proxy" and g.peer.by_proxy:
            name = request.headers.get(self.settings.proxy_user_header, "")
            return name if NAME.fullmatch(name) else ""
        return ""

    @staticmethod
    def _check_handles() -> None:
        """Refuse to tell of, or to end, a run of somebody else.

        That it is one at all, Dash's own signature says; this looks at whose.
        """
        for name in _HANDLES:
            for handle in request.args.getlist(name):
                if handle.rpartition("~")[0][_NUMBER:] != tag(current_user.get()):
                    raise Refusal(403, "This is not a run of yours.", "Reload the page.")

    def _check_rate(self, *, background: bool) -> None:
        """Count the request; asking how a run goes (``background``) apart from all else."""
        who = f"user:{g.user}" if g.user else f"address:{g.peer.address}"
        minute = self.settings.requests_per_minute * (1 if g.user else _PEOPLE)
        if background:
            who, minute = f"{who}:polls", minute * _POLLS
        inside = bool(g.user) or self.settings.login == "off"
        if inside and request.path.startswith(("/assets/", "/_dash-component-suites/")):
            return  # files, which a browser keeps
        wait = self.buckets.take(who, Rate(minute / 4, minute / 60))
        if wait:
            seconds = whole_seconds(wait)
            raise Refusal(
                429,
                "More was asked for at once than this server allows one person.",
                f"Wait {seconds} second{'s' * (seconds > 1)}, then go on. Nothing is lost.",
                {"Retry-After": str(seconds)},
            )

    @staticmethod
    def _page() -> str:
        """Without a login: whose turn it is in the queue goes by the page load."""
        return request.args.get("endId") or g.peer.address

    def _ask_to_sign_in(self) -> Response:
        if self.settings.login == "users" and wants_page():
            target = request.full_path.rstrip("?") if request.path == "/" else "/"
            return redirect(f"/login?next={quote(target, safe='')}", 302)
        if self.settings.login == "users":
            raise Refusal(401, "You are signed out.", "Sign in again; your prompt is still there.")
        raise Refusal(
            403,
            "The sign-on in front of this server did not say who you are.",
            "Come through its usual address; if you did, tell who runs it.",
        )


def _bare(host: str) -> str:
    """A host without its port."""
    name = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
    return name.strip("[]").rstrip(".")


def _place(origin: str) -> str:
    """Host and port of an origin; empty where it is none, as a browser never sends it."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def make(
    settings: Settings, callbacks: Mapping[str, Any], sessions: Sessions, buckets: Buckets
) -> Gate:
    """A gate by the settings."""
    return Gate(settings, callbacks, sessions, buckets, networks(settings.trusted_proxies))
