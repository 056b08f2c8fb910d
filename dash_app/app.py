"""Builds the app. Callbacks are registered on the app that is built, never at import."""

from __future__ import annotations

import dataclasses
from typing import Any

from dash import ClientsideFunction, Dash, Input, Output, no_update, set_props
from flask_compress import Compress

from analysis.model import catalog
from dash_app import export
from dash_app.errors import explain
from dash_app.jobs.job_and_draw import continue_jobs
from dash_app.page import layout
from dash_app.page.panel import problem_notice
from dash_app.page.thin_layout import ThinDash, thin
from dash_app.security.clients import Below
from dash_app.security.protect import protect
from dash_app.settings import ASSETS, Settings, secret
from dash_app.state import gesture
from dash_app.state.context import Context, PageId, View, join
from dash_app.views import (
    attention,
    block,
    compare,
    components,
    contributions,
    curves,
    disagreement,
    edits,
    flow,
    heatmap,
    history,
    ledger,
    model,
    run,
    story,
    tasks,
    tokens,
    weights,
)

VIEWS: tuple[View, ...] = (
    run.VIEW,
    edits.VIEW,
    story.VIEW,
    tokens.VIEW,
    heatmap.VIEW,
    curves.VIEW,
    attention.VIEW,
    contributions.VIEW,
    block.VIEW,
    flow.VIEW,
    disagreement.VIEW,
    model.VIEW,
    weights.VIEW,
    ledger.VIEW,
    compare.VIEW,
    components.VIEW,
    tasks.VIEW,
    history.VIEW,
)


def create_app(
    service: Any,
    settings: Settings,
    *,
    manager: Any = None,
    jobs: Any = None,
    models: tuple[tuple[str, str], ...] | None = None,
    framed: bool = False,
) -> Dash:
    """Build an app for a service.

    Args:
        service: An ``analysis.service.Service``, or a substitute with the same methods.
        settings: The server's settings.
        manager: Dash's background callback manager.
        jobs: Makes a ``NewJob`` from a callback's ``set_progress``.
        models: (name, title) of the models on offer; those of the catalogue unless given.
        framed: Whether notebooks on this machine may show the page in a frame. No setting allows
            it: only ``analysis.show`` does.
    """
    app = ThinDash(
        "stratascope",
        title="Stratascope",
        update_title="",
        assets_folder=str(ASSETS),
        serve_locally=True,
        # A proxy may remove the prefix or keep it; ``Below`` accepts both. Routes never have it.
        requests_pathname_prefix=settings.url_prefix,
        routes_pathname_prefix="/",
        background_callback_manager=manager,
        on_error=unexpected,
    )
    _configure(app, settings)
    context = _context(service, settings, manager, jobs, models)
    build = layout.page(context, VIEWS)
    app.layout = lambda: thin(build())
    app.visitor = layout.visitor
    _register(app, context)
    export.install(app.server, context, VIEWS)
    protect(app, settings, service, framed=framed)
    if manager is not None:
        continue_jobs(app, manager, settings.threads // 4)
    app.server.wsgi_app = Below(app.server.wsgi_app, settings.url_prefix)
    # By default, Dash does this at the first request, and answers parallel requests before it is
    # done. A second web process then did not know the scripts that its first page requested.
    setup: Any = app._setup_server  # Dash has no types for it
    setup()
    app.keep_frame()
    return app


def _configure(app: Dash, settings: Settings) -> None:
    """Set the page's language, the key of its cookies, and compression."""
    app.index_string = app.index_string.replace("<html>", '<html lang="en">')
    app.server.secret_key = secret(settings)
    app.server.config.update(COMPRESS_MIN_SIZE=1024, COMPRESS_REGISTER=True)
    Compress(app.server)


def _context(
    service: Any,
    settings: Settings,
    manager: Any,
    jobs: Any,
    models: tuple[tuple[str, str], ...] | None,
) -> Context:
    mirrors = {name: mirror for view in VIEWS for name, mirror in view.mirrors.items()}
    if models is None:
        models = tuple((entry.name, entry.title) for entry in catalog.entries())
    context = Context(service, settings, models, mirrors, manager)
    return dataclasses.replace(context, jobs=jobs) if jobs else context


def _register(app: Dash, context: Context) -> None:
    for view in VIEWS:
        view.register(app, context)
    gesture.register(app, context, VIEWS, thin)  # it enables the buttons of their jobs
    namespace = "stratascope"
    browser: Any = app.clientside_callback  # Dash has no types for it
    browser(
        ClientsideFunction(namespace, "applyTheme"),
        Input(PageId.THEME, "data"),
    )
    browser(ClientsideFunction(namespace, "showAddress"), Input(PageId.QUERY, "data"))
    browser(
        ClientsideFunction(namespace, "showArrangement"),
        Input(PageId.ARRANGEMENT, "data"),
        Input(PageId.QUERY, "data"),
    )
    browser(
        ClientsideFunction(namespace, "showChips"),
        *(Input(name, "children") for name in layout.OPTIONS),
    )
    browser(
        ClientsideFunction(namespace, "followSelection"),
        Input(PageId.CELL, "data"),
        Input(PageId.RUN, "data"),
        Input(PageId.QUERY, "data"),
        Input(PageId.STATUS, "data"),
    )

    @app.callback(Output(PageId.TOGGLE, "children"), Input(PageId.THEME, "data"))
    def themes(data: Any) -> Any:
        return layout.themes(join(data).theme)


def unexpected(error: Exception) -> Any:
    """Show in the page that a callback failed, with an id for the log; nothing else changes."""
    set_props(PageId.ALERT, {"children": [problem_notice(explain(error))]})
    return no_update
