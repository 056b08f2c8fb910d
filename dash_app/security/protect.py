"""Secures an app: the gate, the sign-in page, headers, error responses, health and metrics."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from dash import Dash
from dash.exceptions import DependencyException
from flask import Response, g, request
from werkzeug.exceptions import HTTPException, NotFound

from dash_app import monitoring
from dash_app.monitoring import Metrics, log_event, logged_user, user_key
from dash_app.security import clients, gate, responses, sessions
from dash_app.security.clients import Buckets, LocalBuckets, RedisBuckets
from dash_app.security.login import Login
from dash_app.security.sessions import Ended, RedisEnded
from dash_app.security.users import Users, users_file
from dash_app.settings import Settings


def shared(settings: Settings) -> tuple[Buckets, Ended]:
    """The store of rate limits, and that of ended sessions."""
    buckets = LocalBuckets()
    ended = Ended(settings.data_dir / "ended-sessions", settings.session_hours)
    if not settings.redis_url:
        return buckets, ended
    client, prefix = _client(settings.redis_url), settings.redis_prefix
    return RedisBuckets(client, buckets, prefix), RedisEnded(client, ended, prefix)


def _client(url: str) -> Any:
    """A client that gives up after a second, because every request waits for it."""
    import redis

    return redis.Redis.from_url(url, socket_timeout=1.0, socket_connect_timeout=1.0)


_log = logging.getLogger("stratascope")


def protect(app: Dash, settings: Settings, service: Any, *, framed: bool = False) -> None:
    """Check every request, and add headers to every response.

    Args:
        app: The app, with its callbacks registered.
        settings: The server's settings.
        service: The service that health checks and metrics report on.
        framed: Whether notebooks on this machine may show the page in a frame.
    """
    server: Any = app.server
    metrics = Metrics(service, named=partial(logged_user, settings))
    users = Users(users_file(settings))
    limits, ended = shared(settings)
    signed_in = sessions.Sessions(users, ended)
    responses.configure_cookies(server, settings)
    _answer_errors(server, settings, metrics)
    gate.make(settings, app.callback_map, signed_in, limits).install(server)
    if settings.login == "off":
        clients.number_browsers(server)
    if settings.login == "users":
        Login(settings, users, signed_in, limits).install(server)
    server.extensions["readiness"] = monitoring.install(
        server, service, metrics, settings.default_model
    )
    if hasattr(service, "observe"):
        service.observe(metrics.job)
    hashes = None if settings.debug else app.csp_hashes()
    server.after_request(responses.header_writer(hashes, framed=framed))


def _answer_errors(server: Any, settings: Settings, metrics: Metrics) -> None:
    def refused(error: HTTPException) -> Response:
        code = error.code or 500
        if code < 400:
            return error.get_response()  # type: ignore[return-value]
        metrics.refused.labels(str(code)).inc()
        user = logged_user(settings, user_key(g.get("user", "")))
        log_event("refused", status=code, path=request.path[:80], user=user)
        return responses.refused(error)

    def broken(error: Exception) -> Response:
        metrics.refused.labels("500").inc()
        _log.error("a request failed", exc_info=error)
        return responses.broken()

    server.register_error_handler(HTTPException, refused)
    # Dash answers a request for an unknown file of its own with a stack trace.
    server.register_error_handler(DependencyException, lambda _: refused(NotFound()))
    server.register_error_handler(Exception, broken)
