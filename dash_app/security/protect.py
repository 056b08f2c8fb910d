"""Puts it all around an app: the gate, the sign-in page, headers, errors, what machines watch."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from dash import Dash
from dash.exceptions import DependencyException
from flask import Response, g, request
from werkzeug.exceptions import HTTPException, NotFound

from dash_app import monitoring
from dash_app.logs import hashed, log_event
from dash_app.monitoring import Metrics
from dash_app.people import name_of, user_key
from dash_app.security import gate, headers, problems, sessions
from dash_app.security.login import Login
from dash_app.security.rate_limits import Buckets, LocalBuckets, RedisBuckets
from dash_app.security.sessions import Ended, RedisEnded
from dash_app.security.users import Users, users_file
from dash_app.settings import Settings


def shared(settings: Settings) -> tuple[Buckets, Ended]:
    """Where limits are counted, and where ended sessions are kept."""
    buckets = LocalBuckets()
    ended = Ended(settings.data_dir / "ended-sessions", settings.session_hours)
    if not settings.redis_url:
        return buckets, ended
    client, prefix = _client(settings.redis_url), settings.redis_prefix
    return RedisBuckets(client, buckets, prefix), RedisEnded(client, ended, prefix)


def _client(url: str) -> Any:
    """A client that gives up within a second: every request waits for it."""
    import redis

    return redis.Redis.from_url(url, socket_timeout=1.0, socket_connect_timeout=1.0)


_log = logging.getLogger("stratascope")


def protect(app: Dash, settings: Settings, service: Any) -> None:
    """Let nobody in who doesn't belong, and nothing out that doesn't.

    Args:
        app: The app, its callbacks registered.
        settings: The server's settings.
        service: What health checks and metrics are about.
    """
    server: Any = app.server
    metrics = Metrics(service, named=partial(shown, settings))
    users = Users(users_file(settings))
    limits, ended = shared(settings)
    signed_in = sessions.Sessions(users, ended)
    sessions.configure(server, settings)
    _answer_errors(server, settings, metrics)
    gate.make(settings, app.callback_map, signed_in, limits).install(server)
    if settings.login == "users":
        Login(settings, users, signed_in, limits).install(server)
    server.extensions["readiness"] = monitoring.install(
        server, service, metrics, settings.default_model
    )
    if hasattr(service, "observe"):
        service.observe(metrics.job)
    server.after_request(headers.guard(None if settings.debug else app.csp_hashes()))


def _answer_errors(server: Any, settings: Settings, metrics: Metrics) -> None:
    def refused(error: HTTPException) -> Response:
        code = error.code or 500
        if code < 400:
            return error.get_response()  # type: ignore[return-value]
        metrics.refused.labels(str(code)).inc()
        who = shown(settings, user_key(g.get("user", "")))
        log_event("refused", status=code, path=request.path[:80], user=who)
        return problems.answer(error)

    def broken(error: Exception) -> Response:
        metrics.refused.labels("500").inc()
        _log.error("a request failed", exc_info=error)
        return problems.broken()

    server.register_error_handler(HTTPException, refused)
    # A file of Dash's that there is not; Dash says so with a trace.
    server.register_error_handler(DependencyException, lambda _: refused(NotFound()))
    server.register_error_handler(Exception, broken)


def shown(settings: Settings, user: str) -> str:
    """A user of the queue as the log is to have it: a name, its hash, or a page's made-up name."""
    name = name_of(user)
    return (name if settings.log_users == "name" else hashed(name)) if name else user
