"""What a server may be reached by: loopback by anybody, anything else by who signs in."""

from __future__ import annotations

from analysis.errors import AnalysisError
from dash_app.security.peers import is_loopback, networks
from dash_app.security.users import Users, users_file
from dash_app.settings import Settings


def check(settings: Settings) -> None:
    """Refuse settings that would let in who doesn't belong, or nobody at all.

    Raises:
        AnalysisError: Saying which, and what to set.
    """
    proxies = networks(settings.trusted_proxies)
    if settings.debug and not is_loopback(settings.host):
        raise AnalysisError(
            f"Developer tools run what a browser sends, and {settings.host} is not loopback.",
            "Unset STRATASCOPE_DEBUG or STRATASCOPE_HOST.",
        )
    if settings.login == "proxy" and not proxies:
        raise AnalysisError(
            "STRATASCOPE_LOGIN is proxy, but no proxy is trusted: nobody could come in.",
            "Name its address in STRATASCOPE_TRUSTED_PROXIES.",
        )
    if settings.login == "users" and not Users(users_file(settings)).names():
        raise AnalysisError(
            f"STRATASCOPE_LOGIN is users, but {users_file(settings)} names none.",
            "Add one: stratascope users add NAME",
        )
    if settings.login == "off" and not is_loopback(settings.host):
        raise AnalysisError(
            f"{settings.host} can be reached by others, and nobody would have to sign in.",
            "Set STRATASCOPE_LOGIN=users after 'stratascope users add NAME', or "
            "STRATASCOPE_LOGIN=proxy behind a proxy that knows its users.",
        )
