"""The client of a request: its address, its rate limits, and whose entries it may see.

A request may see the runs and collections of the signed-in user or, without a login, of its own
browser, which a cookie with a random number identifies. The store keeps a hash of the number, so
that a copy of the store does not contain the cookie. A browser whose cookie has expired can never
be recognised again, so its entries are deleted (``history.runs.forget_unused``).
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
import os
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from flask import Flask, g, request
from werkzeug.wrappers import Response

from analysis.errors import AnalysisError
from dash_app.monitoring import user_key
from dash_app.security.users import Users, users_file
from dash_app.settings import Settings

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


#: Settings of Dash's own for the path below which it serves.
_DASH_PREFIXES = (
    "DASH_URL_BASE_PATHNAME",
    "DASH_ROUTES_PATHNAME_PREFIX",
    "DASH_REQUESTS_PATHNAME_PREFIX",
)


@dataclass(frozen=True, slots=True)
class Peer:
    """The client of one request.

    Attributes:
        address: Its IP address; empty if unknown.
        secure: Whether the request came by https.
        by_proxy: Whether a trusted proxy forwarded it.
    """

    address: str
    secure: bool
    by_proxy: bool

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine and not behind a proxy."""
        return not self.by_proxy and is_loopback(self.address)


class Below:
    """A WSGI app below a path, whether the proxy in front removes the path or not.

    Args:
        app: The app, which knows only paths from its own root.
        prefix: The path; it starts and ends with a slash.
    """

    def __init__(self, app: Any, prefix: str) -> None:
        self._app, self._root = app, prefix.rstrip("/")

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        """Answer a WSGI request."""
        path = environ.get("PATH_INFO", "")
        if self._root and path.startswith(f"{self._root}/"):
            environ["PATH_INFO"] = path[len(self._root) :]
        environ["SCRIPT_NAME"] = self._root  # Flask's script_root, for links and redirects
        return self._app(environ, start_response)


def networks(text: str) -> tuple[Network, ...]:
    """Addresses and networks, separated by commas.

    Raises:
        AnalysisError: If a part is neither.
    """
    found: list[Network] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            found.append(ipaddress.ip_network(part, strict=False))
        except ValueError as error:
            raise AnalysisError(
                f"{part!r} in STRATASCOPE_TRUSTED_PROXIES is not an address or a network.",
                "Write for example 127.0.0.1 or 10.0.0.0/8.",
            ) from error
    return tuple(found)


def is_loopback(host: str) -> bool:
    """Whether a host name or address always means this machine."""
    if host.lower() == "localhost":
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def peer(environ: Mapping[str, Any], trusted: tuple[Network, ...]) -> Peer:
    """The client of a WSGI request."""
    direct = str(environ.get("REMOTE_ADDR") or "")
    if not _is_in(direct, trusted):
        return Peer(direct, environ.get("wsgi.url_scheme") == "https", by_proxy=False)
    hops = str(environ.get("HTTP_X_FORWARDED_FOR") or "").split(",")
    named = [hop.strip() for hop in hops if hop.strip()]
    scheme = str(environ.get("HTTP_X_FORWARDED_PROTO") or "").rpartition(",")[2].strip()
    return Peer(_client(named, trusted) or direct, scheme == "https", by_proxy=True)


def _client(named: list[str], trusted: tuple[Network, ...]) -> str:
    """The last address that is not a trusted proxy's; empty if it is malformed."""
    for hop in reversed(named):
        if not _is_in(hop, trusted):
            address = _address(hop)
            return str(address) if address is not None else ""
    return ""


def _address(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped if isinstance(mapped, ipaddress.IPv4Address) else address


def _is_in(text: str, nets: tuple[Network, ...]) -> bool:
    address = _address(text)
    return address is not None and any(address in net for net in nets)


def check(settings: Settings) -> None:
    """Refuse settings that would admit everyone, or no one.

    Raises:
        AnalysisError: Names the setting and what to change.
    """
    proxies = networks(settings.trusted_proxies)
    named = [name for name in _DASH_PREFIXES if os.environ.get(name)]
    if named:
        raise AnalysisError(
            f"{named[0]} is set, but the checks of requests do not support it.",
            "Set STRATASCOPE_URL_PREFIX instead.",
        )
    if settings.debug and not is_loopback(settings.host):
        raise AnalysisError(
            f"Developer tools run code that a browser sends, and {settings.host} is not a loopback"
            " address.",
            "Unset STRATASCOPE_DEBUG or STRATASCOPE_HOST.",
        )
    if settings.login == "proxy" and not proxies:
        raise AnalysisError(
            "STRATASCOPE_LOGIN is proxy, but no proxy is trusted, so nobody could sign in.",
            "Set STRATASCOPE_TRUSTED_PROXIES to the proxy's address.",
        )
    if settings.login == "users" and not Users(users_file(settings)).names():
        raise AnalysisError(
            f"STRATASCOPE_LOGIN is users, but {users_file(settings)} has no users.",
            "Add one: stratascope users add NAME",
        )
    if settings.login == "off" and not is_loopback(settings.host):
        raise AnalysisError(
            f"Others can reach {settings.host}, and nobody would have to sign in.",
            "Set STRATASCOPE_LOGIN=users after 'stratascope users add NAME', "
            "STRATASCOPE_LOGIN=token for one person, or STRATASCOPE_LOGIN=proxy behind a proxy"
            " that knows its users.",
        )


#: Most buckets in memory; the least recently used one is dropped first.
_MOST = 20_000

#: Takes tokens from a bucket in one step: a hash of [left, at], kept until the bucket is full.
_TAKE = """
local now = redis.call('TIME')
now = tonumber(now[1]) + tonumber(now[2]) / 1e6
local size, rate, count = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local kept = redis.call('HMGET', KEYS[1], 'left', 'at')
local left, at = tonumber(kept[1]) or size, tonumber(kept[2]) or now
left = math.min(size, left + math.max(0, now - at) * rate)
local wait = 0
if left >= count then left = left - count else wait = (count - left) / rate end
redis.call('HSET', KEYS[1], 'left', tostring(left), 'at', tostring(now))
redis.call('EXPIRE', KEYS[1], math.ceil(size / rate) + 1)
return tostring(wait)
"""


@dataclass(frozen=True, slots=True)
class Rate:
    """The limit of a bucket.

    Attributes:
        size: Most tokens at once.
        per_second: Tokens added each second.
    """

    size: float
    per_second: float


class Buckets(Protocol):
    """A store of buckets."""

    def take(self, key: str, rate: Rate, count: float = 1.0) -> float:
        """Take ``count`` tokens from a bucket; a negative count returns them.

        Returns:
            0 if they were taken, else the seconds until there are enough.
        """
        ...


class LocalBuckets:
    """Buckets of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str, rate: Rate, count: float = 1.0) -> float:
        """As in ``Buckets``."""
        with self._lock:
            now = time.monotonic()
            left, at = self._kept.pop(key, (rate.size, now))
            left = min(rate.size, left + (now - at) * rate.per_second)
            wait = 0.0 if left >= count else (count - left) / rate.per_second
            self._kept[key] = (min(rate.size, left - (count if wait == 0 else 0)), now)
            if len(self._kept) > _MOST:
                self._kept.popitem(last=False)
        return wait


class RedisBuckets:
    """Buckets that several web processes share.

    Args:
        client: A ``redis`` client.
        fallback: The buckets to use while Redis does not answer.
        prefix: Put before every key.
    """

    def __init__(self, client: Any, fallback: Buckets, prefix: str) -> None:
        self._prefix = prefix
        self._take = client.register_script(_TAKE)
        self._fallback = fallback

    def take(self, key: str, rate: Rate, count: float = 1.0) -> float:
        """As in ``Buckets``."""
        from redis.exceptions import RedisError

        try:
            wait = self._take(
                keys=[f"{self._prefix}rate:{key}"], args=[rate.size, rate.per_second, count]
            )
        except RedisError:
            return self._fallback.take(key, rate, count)
        return float(wait)


def whole_seconds(wait: float) -> int:
    """Whole seconds to wait, at least 1."""
    return max(1, math.ceil(wait))


BROWSER_COOKIE = "stratascope-browser"
#: The longest time that browsers keep a cookie; each visit starts it again.
COOKIE_DAYS = 400
BROWSER = "browser:"
_WELL_FORMED = re.compile(r"[A-Za-z0-9_-]{32}")


def owner() -> str:
    """The key of whoever sent the current request; empty for a browser without cookies."""
    name = str(g.get("user", ""))
    return user_key(name) or _key(_number())


def number_browsers(server: Flask) -> None:
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
        path=f"{request.script_root}/",
        httponly=True,
        samesite="Lax",
    )
    return response


def _number() -> str:
    sent = request.cookies.get(BROWSER_COOKIE, "")
    return sent if _WELL_FORMED.fullmatch(sent) else ""


def _key(number: str) -> str:
    return BROWSER + hashlib.sha256(number.encode()).hexdigest()[:32] if number else ""
