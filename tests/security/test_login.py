"""Sign-in and sign-out: who is admitted, and what a stolen or forged cookie can do."""

from __future__ import annotations

import errno
import os
import re
import time
from pathlib import Path
from typing import Any

import itsdangerous.timed
import pytest
from dash import Dash

from dash_app.app import ASSETS
from dash_app.security import responses, sessions
from dash_app.security.login import own_address
from dash_app.security.users import Users
from dash_app.server.server import announce
from dash_app.settings import Settings
from tests.security.conftest import PASSWORD, MakeApp, sign_in, signed_in

HTML = {"Accept": "text/html"}
#: Every route that Dash serves, and two that do not exist.
ROUTES = (
    "/",
    "/_dash-layout",
    "/_dash-dependencies",
    "/_reload-hash",
    "/assets/js/page.js",
    "/_dash-component-suites/dash/deps/react@18.js",
    "/anything",
    "/static/x",
    "/collections/xxxxxxxxxxxxxxxxxxxxxx",
    "/collections/1/export",
    "/collections/items/1",
)


def cookie(client: Any) -> str:
    kept = client.get_cookie(responses.COOKIE)
    return kept.value if kept else ""


@pytest.mark.parametrize("route", ROUTES)
def test_every_route_needs_a_login(guarded: Dash, route: str) -> None:
    client = guarded.server.test_client()
    assert client.get(route).status_code in (401, 404)
    page = client.get(route, headers=HTML)
    assert page.status_code in (302, 404)
    assert client.post("/_dash-update-component", json={}).status_code == 401
    assert signed_in(guarded).get("/").status_code == 200


def test_files_of_the_sign_in_page_need_no_login(guarded: Dash) -> None:
    client = guarded.server.test_client()
    page = client.get("/login", headers=HTML).get_data(as_text=True)
    assert "<script" not in page
    sheets = re.findall(r'href="(/assets/[^"]+)"', page)
    fonts = re.findall(r'url\("\.\.(/fonts/[^"]+)"', (ASSETS / "css" / "theme.css").read_text())
    assert len(fonts) == 3
    for address in (*sheets, *(f"/assets{font}" for font in fonts)):
        file = client.get(address)
        file.close()
        assert file.status_code == 200
    assert client.get("/healthz").status_code == 200


def test_signing_in_returns_to_the_page_and_shows_the_user(guarded: Dash) -> None:
    client = guarded.server.test_client()
    asked = client.get("/?prompt=5+%2B+5&row=3", headers=HTML)
    form = client.get(asked.headers["Location"]).get_data(as_text=True)
    (target,) = re.findall(r'name="next" value="([^"]*)"', form)
    answer = sign_in(client, next_=target.replace("&amp;", "&"))
    assert answer.headers["Location"] == "/?prompt=5+%2B+5&row=3"
    layout = client.get("/_dash-layout").get_data(as_text=True)
    assert "alice" in layout
    assert "Sign out" in layout


@pytest.mark.parametrize(
    ("name", "password"),
    [("alice", "wrong password"), ("bob", PASSWORD), ("", ""), ("alice\x00", PASSWORD)],
)
def test_a_wrong_password_and_an_unknown_user_give_the_same_message(
    guarded: Dash, name: str, password: str
) -> None:
    client = guarded.server.test_client()
    answer = sign_in(client, name, password)
    assert answer.status_code == 401
    assert "The user name or the password is wrong" in answer.get_data(as_text=True)
    assert cookie(client) == ""
    assert client.get("/").status_code == 401


def test_an_unknown_user_costs_as_much_work_as_a_known_one(
    users: Users, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified: list[str] = []
    monkeypatch.setattr(
        type(users._hasher), "verify", lambda _, kept, said: verified.append(kept) or True
    )
    assert not users.verify("nobody", PASSWORD)
    assert users.verify("alice", PASSWORD)
    assert len(verified) == 2
    costs = [re.findall(r"m=\d+,t=\d+,p=\d+", kept) for kept in verified]
    assert costs[0] == costs[1] != []


def test_signing_in_starts_a_new_session(guarded: Dash) -> None:
    """Session fixation: a planted cookie is invalid after the victim signs in."""
    victim, attacker = guarded.server.test_client(), signed_in(guarded)
    planted = cookie(attacker)
    victim.set_cookie(responses.COOKIE, planted)
    sign_in(victim)
    assert cookie(victim) != planted
    victim.post("/logout")
    assert victim.get("/").status_code == 401
    first, second = signed_in(guarded), signed_in(guarded)
    assert cookie(first) != cookie(second)
    first.post("/logout")
    assert second.get("/").status_code == 200


def test_the_cookie_is_hidden_from_scripts_and_other_sites(make_app: MakeApp, users: Users) -> None:
    app = make_app(login="users", trusted_proxies="127.0.0.1")
    plain = sign_in(app.server.test_client()).headers["Set-Cookie"]
    assert "HttpOnly" in plain
    assert "SameSite=Lax" in plain
    assert "Secure" not in plain
    by_https = {"X-Forwarded-Proto": "https"}
    assert "Secure" in sign_in(app.server.test_client(), headers=by_https).headers["Set-Cookie"]
    always = make_app(login="users", cookie_secure=True)
    assert "Secure" in sign_in(always.server.test_client()).headers["Set-Cookie"]


def test_a_copied_cookie_ends_with_the_session(guarded: Dash) -> None:
    client, thief = signed_in(guarded), guarded.server.test_client()
    thief.set_cookie(responses.COOKIE, cookie(client))
    assert thief.get("/").status_code == 200
    assert client.post("/logout").headers["Location"] == "/login"
    assert thief.get("/").status_code == 401


def test_ended_sessions_stay_ended_in_another_process(
    guarded: Dash, make_app: MakeApp, users: Users
) -> None:
    client = signed_in(guarded)
    copied = cookie(client)
    other = make_app(login="users").server.test_client()
    other.set_cookie(responses.COOKIE, copied)
    assert other.get("/").status_code == 200
    client.post("/logout")
    assert other.get("/").status_code == 401


def test_a_session_that_ends_later_is_ended_in_another_process(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ended"
    mine, others = sessions.Ended(path, hours=1.0), sessions.Ended(path, hours=1.0)
    mine.add("a" * 32)
    assert "a" * 32 in others
    hours_ago = time.time() - 2 * 3600
    os.utime(path, (hours_ago, hours_ago))
    mine.add("b" * 32)  # the file is rewritten and as large as before
    assert "b" * 32 in others


def test_signing_out_works_on_a_full_disk(
    guarded: Dash, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    client = signed_in(guarded)
    copied = cookie(client)
    monkeypatch.setattr(sessions.os, "open", full)
    assert client.post("/logout").status_code == 303
    assert client.get("/").status_code != 200
    client.set_cookie(responses.COOKIE, copied)
    assert client.get("/").status_code != 200
    assert "No space left" in caplog.text


def test_a_truncated_line_affects_no_other_line(tmp_path: Path) -> None:
    path = tmp_path / "ended"
    path.write_text("a" * 20)
    sessions.Ended(path, hours=1.0).add("b" * 32)
    assert "b" * 32 in sessions.Ended(path, hours=1.0)


def test_a_new_password_and_a_removal_end_every_session(guarded: Dash, users: Users) -> None:
    client = signed_in(guarded)
    users.add("alice", "another password")
    assert client.get("/").status_code == 401
    assert sign_in(client).status_code == 401
    again = signed_in(guarded, password="another password")  # noqa: S106
    users.remove("alice")
    assert again.get("/").status_code == 401


def test_a_session_expires(make_app: MakeApp, users: Users, monkeypatch: Any) -> None:
    client = signed_in(make_app(login="users", session_hours=1))
    assert client.get("/").status_code == 200
    later = time.time() + 3700
    monkeypatch.setattr(itsdangerous.timed.time, "time", lambda: later)
    assert client.get("/").status_code == 401


@pytest.mark.parametrize("forged", ["", "x", "eyJ1c2VyIjoiYWxpY2UifQ.aaaa.bbbb", "." * 500])
def test_a_forged_cookie_is_rejected(guarded: Dash, forged: str) -> None:
    client = guarded.server.test_client()
    client.set_cookie(responses.COOKIE, forged)
    assert client.get("/").status_code == 401


def test_a_cookie_signed_with_another_key_is_rejected(make_app: MakeApp, users: Users) -> None:
    theirs = signed_in(make_app(login="users", secret_key="a" * 32))
    ours = make_app(login="users", secret_key="b" * 32).server.test_client()
    ours.set_cookie(responses.COOKIE, cookie(theirs))
    assert ours.get("/").status_code == 401


@pytest.mark.parametrize(
    "elsewhere",
    [
        "https://evil.example/",
        "//evil.example/",
        "/\\evil.example",
        "\\\\evil.example",
        "/?\r\nLocation: https://evil.example",
        "javascript:alert(1)",
        "/login?next=//evil.example",
        "/%2F/evil.example",
        " /",
        "",
    ],
)
def test_signing_in_never_redirects_to_another_site(guarded: Dash, elsewhere: str) -> None:
    assert own_address(elsewhere) == "/"
    answer = sign_in(guarded.server.test_client(), next_=elsewhere)
    assert answer.headers["Location"] == "/"
    assert signed_in(guarded).get("/login", query_string={"next": elsewhere}).headers[
        "Location"
    ] in ("/",)


def test_failed_tries_are_limited_and_a_right_password_costs_none(
    make_app: MakeApp, users: Users
) -> None:
    app = make_app(login="users", login_attempts=3)
    for _ in range(5):
        assert sign_in(app.server.test_client()).status_code == 303
    client = app.server.test_client()
    for _ in range(3):
        assert sign_in(client, password="wrong password").status_code == 401  # noqa: S106
    refused = sign_in(client)
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) > 10
    assert "Too many attempts" in refused.get_data(as_text=True)


def test_one_address_cannot_lock_a_user_out(make_app: MakeApp, users: Users) -> None:
    app = make_app(login="users", login_attempts=2, trusted_proxies="127.0.0.1")
    client = app.server.test_client()
    for _ in range(20):
        sign_in(client, password="wrong", headers={"X-Forwarded-For": "10.0.0.1"})  # noqa: S106
    assert sign_in(client, headers={"X-Forwarded-For": "10.0.0.2"}).status_code == 303


def test_tries_for_a_name_are_limited_over_all_addresses(make_app: MakeApp, users: Users) -> None:
    app = make_app(login="users", login_attempts=2, trusted_proxies="127.0.0.1")
    client = app.server.test_client()
    codes = [
        sign_in(client, password="wrong", headers={"X-Forwarded-For": f"10.0.0.{n}"}).status_code  # noqa: S106
        for n in range(11)
    ]
    assert codes == [401] * 10 + [429]


def test_tries_are_counted_for_each_address(make_app: MakeApp, users: Users) -> None:
    app = make_app(login="users", login_attempts=2, trusted_proxies="127.0.0.1")
    client = app.server.test_client()
    first, second = {"X-Forwarded-For": "10.0.0.1"}, {"X-Forwarded-For": "10.0.0.2"}
    for _ in range(2):
        sign_in(client, password="wrong password", headers=first)  # noqa: S106
    assert sign_in(client, headers=first).status_code == 429
    assert sign_in(client, headers=second).status_code == 303


def test_forged_addresses_get_no_further_tries(make_app: MakeApp, users: Users) -> None:
    """X-Forwarded-For counts only from a trusted proxy, and only its last untrusted hop."""
    direct = make_app(login="users", login_attempts=2).server.test_client()
    behind = make_app(login="users", login_attempts=2, trusted_proxies="127.0.0.1")
    for number in range(2):
        spoofed = {"X-Forwarded-For": f"10.0.0.{number}"}
        sign_in(direct, password="wrong password", headers=spoofed)  # noqa: S106
        proxied = {"X-Forwarded-For": f"10.0.0.{number}, 203.0.113.9"}
        sign_in(behind.server.test_client(), password="wrong", headers=proxied)  # noqa: S106
    assert sign_in(direct, headers={"X-Forwarded-For": "10.0.0.77"}).status_code == 429
    last = {"X-Forwarded-For": "10.0.0.77, 203.0.113.9"}
    assert sign_in(behind.server.test_client(), headers=last).status_code == 429


def test_the_form_refuses_a_post_from_another_site(guarded: Dash) -> None:
    client = guarded.server.test_client()
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"},
                    {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}):  # fmt: skip
        assert sign_in(client, headers=headers).status_code == 403
    assert cookie(client) == ""
    assert sign_in(client, headers={"Origin": "http://localhost"}).status_code == 303


def test_the_form_shows_the_typed_name_as_text(guarded: Dash) -> None:
    client = guarded.server.test_client()
    page = sign_in(client, name='"><script>alert(1)</script>').get_data(as_text=True)
    assert "<script" not in page
    page = client.get("/login?next=/?a='\"><script>").get_data(as_text=True)
    assert "<script" not in page


PROXY = {"login": "proxy", "trusted_proxies": "127.0.0.1"}


def test_a_trusted_proxy_names_the_user(make_app: MakeApp) -> None:
    client = make_app(**PROXY).server.test_client()
    layout = client.get("/_dash-layout", headers={"X-Forwarded-User": "bob"})
    assert "bob" in layout.get_data(as_text=True)
    assert "Sign out" not in layout.get_data(as_text=True)
    assert client.get("/", headers=HTML).status_code == 403
    for name in ("", "bob, alice", "bo b", "<b>bob</b>", "x" * 200):
        assert client.get("/", headers={"X-Forwarded-User": name}).status_code == 403


def test_only_a_trusted_proxy_names_the_user(make_app: MakeApp) -> None:
    app = make_app(login="proxy", trusted_proxies="10.1.2.3")
    named = {"X-Forwarded-User": "alice"}
    for address in ("127.0.0.1", "10.1.2.4", "::1"):
        client = app.server.test_client()
        answer = client.get("/", headers=named, environ_base={"REMOTE_ADDR": address})
        assert answer.status_code == 403
    trusted = {"REMOTE_ADDR": "10.1.2.3"}
    assert app.server.test_client().get("/", headers=named, environ_base=trusted).status_code == 200
    # With LOGIN=users, the header of a proxy has no effect.
    other = make_app(login="off", trusted_proxies="10.1.2.3").server.test_client()
    assert other.get("/", headers=named, environ_base=trusted).status_code == 403


def test_a_clock_set_back_signs_nobody_out(guarded: Dash, monkeypatch: pytest.MonkeyPatch) -> None:
    client = signed_in(guarded)
    real = time.time
    monkeypatch.setattr("time.time", lambda: real() - 7200)
    assert client.get("/").status_code == 200
    monkeypatch.setattr("time.time", lambda: real() + 365 * 86400)
    assert client.get("/").status_code == 401


def test_a_server_with_a_token_admits_whoever_opens_its_address(
    make_app: MakeApp, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(data_dir=tmp_path / "data", login="token", port=8050)
    announce(settings)
    (token,) = re.findall(r"\?token=([0-9a-f]{32})$", capsys.readouterr().out.strip())
    client = make_app(login="token").server.test_client()
    assert client.get("/").status_code == 401
    assert client.get("/_dash-layout").status_code == 401
    assert client.get(f"/?token={'0' * 32}").status_code == 401
    answer = client.get(f"/?row=3&token={token}&pos=1")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/?row=3&pos=1")
    assert token not in answer.headers["Set-Cookie"]
    assert client.get("/").status_code == 200
    assert client.get("/_dash-layout").status_code == 200
    other = make_app(login="token", data_dir=tmp_path / "other").server.test_client()
    assert other.get(f"/?token={token}").status_code == 401
