"""The checks that every request passes before the app answers it.

Dash finds a callback by the text in ``output`` and passes it whatever values stand beside it. A
body of the wrong shape would fail halfway, so the gate refuses it first. The values themselves are
the callbacks' own business.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from flask import Flask, g, request
from werkzeug.exceptions import (
    BadRequest,
    LengthRequired,
    NotFound,
    RequestEntityTooLarge,
    RequestURITooLarge,
)
from werkzeug.wrappers import Response

from analysis.contract.jobs import current_user
from dash_app import monitoring
from dash_app.monitoring import owner_tag, page_key, user_key
from dash_app.security.clients import (
    Buckets,
    Network,
    Rate,
    is_loopback,
    networks,
    peer,
    whole_seconds,
)
from dash_app.security.login import LONGEST_HEADER, PUBLIC_ASSETS, forward, own_address, sign_in
from dash_app.security.responses import Refusal, wants_page
from dash_app.security.sessions import Sessions
from dash_app.security.users import NAME
from dash_app.settings import Settings, access_token
from dash_app.state.context import PARTS, PageId

KIB = 1024
#: Open to everyone: what the sign-in page needs, and whether the process is alive.
PUBLIC = ("/login", "/logout", "/healthz", "/_favicon.ico", *PUBLIC_ASSETS)
#: For monitoring systems, which do not sign in.
MONITORED = ("/readyz", "/metrics")
CALLBACKS = "/_dash-update-component"
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\.?)(:\d{1,5})?")
#: Arguments by which Dash's page names jobs, signed by Dash: 32 digits, then the owner's tag.
_HANDLES, _ID_LENGTH = ("cacheKey", "job", "oldJob", "cancelJob", "again"), 32
#: Headers by which a proxy names the client that it forwards.
_FORWARDING = ("X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Forwarded")
#: The one user of a server with a token.
OWNER = "owner"
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
#: Without a login, one address may stand for this many people.
_PEOPLE_PER_ADDRESS = 10
#: Polls are cheap, so their limit is this many times higher.
_POLL_FACTOR = 5
#: Largest bodies that one person may send at once; then one every four seconds.
_BODIES = 16


@dataclass(frozen=True, slots=True)
class Gate:
    """Lets requests through, or refuses them.

    Attributes:
        settings: The server's settings.
        callbacks: Dash's table of callbacks.
        sessions: Who is signed in.
        buckets: The rate limits.
        trusted: Networks of trusted proxies.
        token: Of the address that the server prints; empty without STRATASCOPE_LOGIN=token.
    """

    settings: Settings
    callbacks: Mapping[str, Any]
    sessions: Sessions
    buckets: Buckets
    trusted: tuple[Network, ...]
    token: str = ""

    def install(self, server: Flask) -> None:
        """Check every request of ``server``."""
        server.config["MAX_CONTENT_LENGTH"] = self.settings.max_body_kib * KIB
        server.before_request(self.admit)
        server.teardown_request(monitoring.end_request)

    def admit(self) -> Response | None:
        """Refuse the current request, answer it, or let it pass."""
        monitoring.begin_request(request.headers.get("X-Request-ID"))
        g.peer = peer(request.environ, self.trusted)
        g.user, g.may_sign_out = "", self.settings.login == "users"
        self._check_host()
        self._check_size()
        self._check_origin()
        if request.path in MONITORED:
            self._check_monitor()
            return None
        g.user = self._user()
        current_user.set(user_key(g.user) or page_key(self._page_load()))
        is_poll = "cacheKey" in request.args
        if not is_poll:
            self._check_rate(poll=False)
        if self.settings.login == "token" and self._brings_token():
            self.sessions.start_with_token(self.token)
            return forward(own_address(_without_token(request.full_path)), 302)
        if self.settings.login != "off" and not g.user and request.path not in PUBLIC:
            return self._require_login()
        self._check_job_owner()
        if request.path == CALLBACKS and request.method == "POST":
            g.background = check_body(request.get_data(), self.callbacks)
            if is_poll:
                self._check_rate(poll=g.background)
        return None

    def _check_host(self) -> None:
        """Refuse an unknown host name and, without a login, any other machine."""
        host = request.headers.get("Host", "")
        if not _HOST.fullmatch(host) or not self._is_allowed(_without_port(host)):
            raise Refusal(
                400,
                "This server does not answer to that host name.",
                "Add the name to STRATASCOPE_ALLOWED_HOSTS.",
            )
        if self.settings.login == "off" and not g.peer.is_local:
            raise Refusal(
                403,
                "This server has no login, so it answers only its own machine.",
                "Set STRATASCOPE_LOGIN; see Deployment in the README.",
            )
        if self.settings.login == "off" and any(name in request.headers for name in _FORWARDING):
            raise Refusal(
                403,
                "This request came through a proxy, but this server has no login.",
                "Set STRATASCOPE_LOGIN and STRATASCOPE_TRUSTED_PROXIES; see Deployment in the"
                " README.",
            )
        if request.path.startswith("/static/"):
            raise NotFound  # Flask's own folder, which the app does not use

    def _is_allowed(self, name: str) -> bool:
        allowed = [part.strip().lower() for part in self.settings.allowed_hosts.split(",")]
        if any(allowed):
            return name.lower() in allowed or (g.peer.is_local and is_loopback(name))
        # Another site can point its own name at this machine. Without a login, refuse such names.
        return self.settings.login != "off" or is_loopback(name)

    def _check_size(self) -> None:
        length = len(request.environ.get("RAW_URI") or "") or len(request.full_path)
        if length > self.settings.max_url_kib * KIB:
            raise RequestURITooLarge
        if (request.content_length or 0) > self.settings.max_body_kib * KIB:
            raise RequestEntityTooLarge
        if "Transfer-Encoding" in request.headers:  # browsers always send the length
            raise LengthRequired

    def _check_origin(self) -> None:
        """Refuse requests that a page of another origin makes the browser send."""
        if request.method in _SAFE_METHODS:
            return
        origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
        host = request.headers.get("Host", "")
        foreign = origin is not None and _host_of(origin) != host.lower()
        if foreign or site not in (None, "same-origin", "none"):
            raise Refusal(
                403,
                "This request comes from another site.",
                "Use the page itself. If a proxy is in front of it, let it forward the Host"
                " header.",
            )

    def _check_monitor(self) -> None:
        token = self.settings.ops_token
        sent = request.headers.get("Authorization", "")
        knows = bool(token) and hmac.compare_digest(sent.encode(), f"Bearer {token}".encode())
        if not (knows or g.peer.is_local):
            raise Refusal(
                403,
                "Only operators of this server may read this.",
                "Send the token in STRATASCOPE_OPS_TOKEN.",
            )

    def _user(self) -> str:
        if self.settings.login == "users":
            return self.sessions.user()
        if self.settings.login == "token":
            return OWNER if self.sessions.has_token(self.token) else ""
        if self.settings.login == "proxy" and g.peer.by_proxy:
            name = request.headers.get(self.settings.proxy_user_header, "")
            return name if NAME.fullmatch(name) else ""
        return ""

    def _brings_token(self) -> bool:
        sent = request.args.get("token", "") if request.method == "GET" else ""
        return bool(sent) and hmac.compare_digest(sent.encode(), self.token.encode())

    @staticmethod
    def _check_job_owner() -> None:
        """Refuse to report on, or to cancel, another user's job.

        Dash's signature proves that the handle is genuine; this checks the owner.
        """
        for name in _HANDLES:
            for handle in request.args.getlist(name):
                if handle.rpartition("~")[0][_ID_LENGTH:] != owner_tag(current_user.get()):
                    raise Refusal(403, "This job belongs to another user.", "Reload the page.")

    def _check_rate(self, *, poll: bool) -> None:
        """Count the request; polls of jobs have a limit of their own."""
        who = f"user:{g.user}" if g.user else f"address:{g.peer.address}"
        minute = self.settings.requests_per_minute * (1 if g.user else _PEOPLE_PER_ADDRESS)
        if poll:
            who, minute = f"{who}:polls", minute * _POLL_FACTOR
        inside = bool(g.user) or self.settings.login == "off"
        if inside and request.path.startswith(("/assets/", "/_dash-component-suites/")):
            return  # files, which a browser caches
        self._take(who, Rate(minute / 4, minute / 60), 1)
        size = self.settings.max_body_kib * KIB
        self._take(f"{who}:bytes", Rate(_BODIES * size, size / 4), request.content_length or 0)

    def _take(self, who: str, rate: Rate, count: float) -> None:
        wait = self.buckets.take(who, rate, count) if count else 0.0
        if wait:
            seconds = whole_seconds(wait)
            raise Refusal(
                429,
                "You sent more requests than this server allows one person.",
                f"Wait {seconds} second{'s' * (seconds > 1)}, then try again. Nothing is lost.",
                {"Retry-After": str(seconds)},
            )

    @staticmethod
    def _page_load() -> str:
        """Without a login, each page load has its own turn in the queue."""
        return request.args.get("endId") or g.peer.address

    def _require_login(self) -> Response:
        if self.settings.login == "users" and wants_page():
            target = own_address(request.full_path.rstrip("?"))
            address = f"/login?next={quote(target, safe='')}"
            if len(address) > LONGEST_HEADER:
                return Response(sign_in(target), mimetype="text/html")
            return forward(address, 302)
        if self.settings.login == "token":
            raise Refusal(
                401,
                "This page needs the token of its server.",
                "Open the address that the server printed when it started.",
            )
        if self.settings.login == "users":
            raise Refusal(401, "You are signed out.", "Sign in again; your prompt is kept.")
        raise Refusal(
            403,
            "The proxy in front of this server did not send a user name.",
            "Open the page at its usual address. If you did, tell the operator of the server.",
        )


def _without_token(address: str) -> str:
    """An address of the page without its token, which must not stay in the browser's history."""
    path, _, query = address.partition("?")
    kept = [part for part in query.split("&") if part and not part.startswith("token=")]
    return f"{path}?{'&'.join(kept)}" if kept else path


def _without_port(host: str) -> str:
    name = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
    return name.strip("[]").rstrip(".")


def _host_of(origin: str) -> str:
    """Host and port of an origin; empty if it is malformed, which no browser sends."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def make(
    settings: Settings, callbacks: Mapping[str, Any], sessions: Sessions, buckets: Buckets
) -> Gate:
    """The gate that the settings describe."""
    token = access_token(settings) if settings.login == "token" else ""
    return Gate(settings, callbacks, sessions, buckets, networks(settings.trusted_proxies), token)


#: Stores that hold an object, or nothing yet.
_OBJECT_STORES = frozenset((*PARTS, PageId.EVENTS, PageId.QUERY, PageId.STATUS, PageId.RUN))
#: Deeper than anything that the page sends.
_MAX_DEPTH = 60


def check_body(raw: bytes, callbacks: Mapping[str, Any]) -> bool:
    """Refuse the body of a callback request if it has the wrong shape.

    Args:
        raw: The body.
        callbacks: Dash's own table of callbacks, by output.

    Returns:
        Whether the callback runs in the background.

    Raises:
        BadRequest: If the body does not fit a callback.
    """
    body = _parsed(raw)
    callback = callbacks.get(body["output"]) if isinstance(body.get("output"), str) else None
    if callback is None or "callback" not in callback:
        raise BadRequest("no such callback")
    _check_inputs(body.get("inputs", []), callback["inputs"])
    _check_inputs(body.get("state", []), callback["state"])
    _check_outputs(body.get("outputs"), body["output"], bool(callback.get("no_output")))
    changed = body.get("changedPropIds", [])
    if not isinstance(changed, list) or not all(isinstance(name, str) for name in changed):
        raise BadRequest("changedPropIds is not a list of names")
    return bool(callback.get("background"))


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw, parse_constant=_refuse_constant)
        if _depth(body) > _MAX_DEPTH:
            raise BadRequest("too deep")
        if b"\\u" in raw:
            json.dumps(body, ensure_ascii=False).encode()  # a lone surrogate can't be sent back
    except (ValueError, RecursionError) as error:
        raise BadRequest("not JSON") from error
    if not isinstance(body, dict):
        raise BadRequest("not an object")
    return body


def _refuse_constant(_: str) -> Any:
    raise ValueError("not a JSON number")


def _depth(value: Any) -> int:
    """How deep a value nests, found without recursion."""
    deepest, open_ = 0, [(value, 1)]
    while open_:
        found, depth = open_.pop()
        deepest = max(deepest, depth)
        inner = found.values() if isinstance(found, dict) else found
        if isinstance(found, (dict, list)) and depth <= _MAX_DEPTH:
            open_.extend((item, depth + 1) for item in inner)
    return deepest


def _check_inputs(sent: Any, declared: list[Mapping[str, Any]]) -> None:
    """Refuse values of other components than the callback's, or in another order."""
    if not isinstance(sent, list) or len(sent) != len(declared):
        raise BadRequest("not the callback's inputs")
    for one, expected in zip(sent, declared, strict=True):
        name = _property_of(one)
        if name != (str(expected["id"]), expected["property"]):
            raise BadRequest("not the callback's inputs")
        if name[0] in _OBJECT_STORES and not isinstance(one.get("value"), dict | None):
            raise BadRequest("a store holds an object")


def _check_outputs(sent: Any, output: str, no_output: bool) -> None:
    if no_output:
        if sent not in (None, [], {}):
            raise BadRequest("this callback has no outputs")
        return
    wanted = [spec.rpartition(".") for spec in output.strip(".").split("...")]
    names = [(name, prop.partition("@")[0]) for name, _, prop in wanted]
    is_many = output.startswith("..")
    if not isinstance(sent, list if is_many else dict):
        raise BadRequest("not the callback's outputs")
    found = [_property_of(one) for one in (sent if is_many else [sent])]
    if [(name, prop.partition("@")[0]) for name, prop in found] != names:
        raise BadRequest("not the callback's outputs")


def _property_of(one: Any) -> tuple[str, str]:
    """Component and property; two empty texts if either is missing."""
    if not isinstance(one, dict):
        return "", ""
    name, prop = one.get("id"), one.get("property")
    return (name, prop) if isinstance(name, str) and isinstance(prop, str) else ("", "")
