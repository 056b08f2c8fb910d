"""The page: header, stores, and the views in their places."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dash import dcc, html
from dash.development.base_component import Component
from flask import g, has_request_context

from dash_app.page.panel import aria, data, options_of, switch
from dash_app.state.context import PARTS, Context, PageId, View
from dash_app.state.options import THEMES

#: Views above the workspace; the other views are its panels.
ABOVE = ("run", "story", "tokens")


def page(context: Context, views: Sequence[View]) -> Callable[[], Component]:
    """A function that makes the layout; Dash calls it for each visit."""

    def build() -> Component:
        parts = {view.name: view.layout(context) for view in views}
        workspace = [part for name, part in parts.items() if name not in ABOVE]
        return html.Div(
            [
                *_stores(),
                _header(),
                html.Main(
                    [
                        parts["run"],
                        *_messages(),
                        parts["story"],
                        parts["tokens"],
                        html.Div(workspace, className="workspace"),
                    ],
                    className="page-main",
                ),
            ],
            className="app",
        )

    return build


def _stores() -> list[Component]:
    further = (PageId.EVENTS, PageId.QUERY, PageId.SCHEME, PageId.STATUS, PageId.RUN)
    return [
        dcc.Location(id=PageId.URL, refresh=False),
        *(dcc.Store(id=name) for name in (*PARTS, *further)),
    ]


def themes(chosen: str) -> list[Component]:
    """The buttons of the theme switch."""
    return switch("theme", options_of(THEMES), chosen, "Theme")


def _header() -> Component:
    return html.Header(
        [
            html.Div(
                [
                    html.Span(className="brand-mark", **aria(hidden="true")),
                    html.Span("Stratascope", className="brand"),
                    html.Span("how a language model comes to its next token", className="muted"),
                ],
                className="brand-group",
            ),
            html.Div(
                [
                    html.Div(
                        themes("auto"),
                        id=PageId.TOGGLE,
                        className="segmented",
                        role="group",
                        **aria(label="Theme"),
                    ),
                    *_signed_in(),
                    html.Button(
                        "Copy link",
                        type="button",
                        className="button button--ghost",
                        title="The link contains the model, the prompt and the selection",
                        **data(copy_address=""),
                    ),
                ],
                className="header-tools",
            ),
        ],
        className="app-header",
    )


def _signed_in() -> list[Component]:
    """The signed-in user and a button to sign out; nothing without a login."""
    user = str(g.get("user", "")) if has_request_context() else ""
    if not user:
        return []
    name = html.Span(user, className="muted", title="Signed in as")
    if not g.get("may_sign_out"):
        return [name]
    button = html.Button("Sign out", type="submit", className="button button--ghost")
    return [html.Form([name, button], action="/logout", method="POST", className="sign-out")]


def _messages() -> tuple[Component, Component]:
    close = html.Button(
        "×",
        id=PageId.DISMISS,
        type="button",
        className="icon-button alert-close",
        **aria(label="Dismiss the message"),
    )
    return (
        html.Div(id=PageId.OFFLINE, className="messages", role="alert"),  # assets/js/messages.js
        html.Div([html.Div(id=PageId.ALERT, className="alerts"), close], className="messages"),
    )
