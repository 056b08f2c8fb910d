"""The client of a request, and which addresses a server may listen on."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis.errors import AnalysisError
from dash_app.security.users import Users, users_file
from dash_app.settings import Settings

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


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
    """Refuse settings that would admit strangers, or nobody at all.

    Raises:
        AnalysisError: Names the setting and what to change.
    """
    proxies = networks(settings.trusted_proxies)
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
            "Set STRATASCOPE_LOGIN=users after 'stratascope users add NAME', or "
            "STRATASCOPE_LOGIN=proxy behind a proxy that knows its users.",
        )
