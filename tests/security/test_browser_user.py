"""Without a login each browser is a user of its own, known by a cookie that nobody can guess."""

from __future__ import annotations

from typing import Any

import pytest
from flask import g

from dash_app.security.clients import BROWSER_COOKIE, owner
from dash_app.security.users import Users
from tests.security.conftest import MakeApp


def cookie(client: Any) -> str:
    kept = client.get_cookie(BROWSER_COOKIE)
    return kept.value if kept else ""


def owner_with(app: Any, value: str) -> str:
    with app.server.test_request_context("/", headers={"Cookie": f"{BROWSER_COOKIE}={value}"}):
        g.user = ""
        return owner()


def test_each_browser_gets_a_number_and_keeps_it(make_app: MakeApp) -> None:
    app = make_app()
    one, two = app.server.test_client(), app.server.test_client()
    one.get("/")
    two.get("/")
    first = cookie(one)
    assert len(first) == 32
    assert first != cookie(two)
    one.get("/")
    assert cookie(one) == first
    assert owner_with(app, first) != owner_with(app, cookie(two))


def test_the_cookie_is_hidden_from_scripts_and_other_sites(make_app: MakeApp) -> None:
    sent = make_app().server.test_client().get("/").headers.getlist("Set-Cookie")
    (line,) = [line for line in sent if line.startswith(BROWSER_COOKIE)]
    assert "HttpOnly" in line
    assert "SameSite=Lax" in line
    assert f"Max-Age={400 * 86_400}" in line


@pytest.mark.parametrize("value", ["", "short", "x" * 31, "x" * 33, "a b" + "x" * 29, "../" * 11])
def test_a_malformed_number_is_nobodys_and_is_replaced(make_app: MakeApp, value: str) -> None:
    app = make_app()
    assert owner_with(app, value) == ""
    client = app.server.test_client()
    client.set_cookie(BROWSER_COOKIE, value)
    client.get("/")
    assert len(cookie(client)) == 32


def test_the_key_does_not_contain_the_number(make_app: MakeApp) -> None:
    assert "x" * 8 not in owner_with(make_app(), "x" * 32)


def test_a_signed_in_user_needs_no_number_and_cannot_be_named_by_one(
    make_app: MakeApp, users: Users
) -> None:
    app = make_app(login="users")
    client = app.server.test_client()
    client.get("/")
    assert cookie(client) == ""
    header = {"Cookie": f"{BROWSER_COOKIE}={'x' * 32}"}
    with app.server.test_request_context("/", headers=header):
        g.user = "alice"
        assert owner() == "user:alice"
