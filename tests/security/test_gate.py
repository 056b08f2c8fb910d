"""Checks of every request (address, origin, size, rate, shape) and headers of every response."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any

import pytest
from dash import Dash

from analysis.errors import AnalysisError
from dash_app import cli, monitoring
from dash_app.security import clients
from dash_app.security.clients import LocalBuckets, Rate
from dash_app.security.users import Users
from dash_app.settings import Settings
from tests.security.conftest import MakeApp, signed_in

UPDATE = "/_dash-update-component"
HTML = {"Accept": "text/html"}
THEMES = {
    "output": "theme-toggle.children",
    "outputs": {"id": "theme-toggle", "property": "children"},
    "inputs": [{"id": "theme", "property": "data", "value": {"theme": "dark"}}],
    "changedPropIds": ["theme.data"],
}


RUN = {
    "output": "run-last.data",
    "outputs": {"id": "run-last", "property": "data"},
    "inputs": [{"id": "asked", "property": "data", "value": None}],
    "changedPropIds": [],
}


def handle(address: str = "127.0.0.1") -> str:
    """A string shaped like a job's handle, without a valid signature."""
    return f"{'0' * 32}{monitoring.owner_tag(monitoring.page_key(address))}~nothing"


def problem(answer: Any) -> dict[str, str]:
    said: dict[str, str] = answer.get_json()["problem"]
    assert said["message"]
    assert said["request"] == answer.headers["X-Request-ID"]
    return said


@pytest.fixture
def client(make_app: MakeApp) -> Any:
    return make_app().server.test_client()


def test_the_page_answers_loopback_under_its_own_name(client: Any) -> None:
    for host in ("localhost", "localhost:8050", "127.0.0.1:8050", "[::1]:8050", "127.0.0.1"):
        assert client.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8050", "127.0.0.1.evil.example", "localhost@evil", "a b", "",
     "localhost:99999999", "169.254.169.254", "local\u00adhost"],
)  # fmt: skip
def test_a_foreign_name_that_resolves_here_is_refused(client: Any, host: str) -> None:
    """DNS rebinding: without a login, only the requested host name identifies our page."""
    assert client.get("/", headers={"Host": host}).status_code == 400


def test_names_can_be_allowed(make_app: MakeApp, users: Users) -> None:
    for login in ("off", "users"):
        app = make_app(login=login, allowed_hosts="lens.example, other.example")
        client = app.server.test_client()
        assert client.get("/healthz", headers={"Host": "lens.example:80"}).status_code == 200
        assert client.get("/healthz", headers={"Host": "localhost"}).status_code == 200
        assert client.get("/healthz", headers={"Host": "third.example"}).status_code == 400


@pytest.mark.parametrize("address", ["10.0.0.7", "192.168.1.2", "2001:db8::1", "", "nonsense"])
def test_without_a_login_only_loopback_is_answered(client: Any, address: str) -> None:
    """This holds for any address that gunicorn listens on."""
    refused = client.get("/", environ_base={"REMOTE_ADDR": address})
    assert refused.status_code == 403
    assert "no login" in problem(refused)["message"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"host": "0.0.0.0"}, "nobody would have to sign in"),  # noqa: S104
        ({"host": "192.168.1.2"}, "nobody would have to sign in"),
        ({"host": "::"}, "nobody would have to sign in"),
        ({"host": "lens.example"}, "nobody would have to sign in"),
        ({"login": "users"}, "has no users"),
        ({"login": "proxy"}, "no proxy is trusted"),
        ({"trusted_proxies": "10.0.0.0/99"}, "not an address or a network"),
        ({"host": "0.0.0.0", "debug": True, "login": "users"}, "Developer tools"),  # noqa: S104
    ],
)
def test_settings_that_admit_everybody_or_nobody_are_refused(
    tmp_path: Any, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(AnalysisError, match=said):
        clients.check(Settings(**{"data_dir": tmp_path, **settings}))


def test_safe_settings_are_accepted(tmp_path: Any) -> None:
    Users(tmp_path / "users.json").add("alice", "a password")
    for settings in (
        {},
        {"host": "localhost"},
        {"host": "::1", "debug": True},
        {"host": "0.0.0.0", "login": "users"},  # noqa: S104
        {"host": "0.0.0.0", "login": "proxy", "trusted_proxies": "10.0.0.0/8,::1"},  # noqa: S104
    ):
        clients.check(Settings(**{"data_dir": tmp_path, **settings}))


def test_an_unusable_secret_is_not_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STRATASCOPE_SECRET_KEY", "hunter2")
    assert cli.main(["serve"]) == 1
    said = capsys.readouterr().err
    assert "STRATASCOPE_SECRET_KEY: " in said
    assert "hunter2" not in said


def test_the_command_refuses_with_a_message(
    monkeypatch: pytest.MonkeyPatch, data_dir: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["serve", "--host", "0.0.0.0", "--port", "0"]) == 1  # noqa: S104
    said = capsys.readouterr().err
    assert "STRATASCOPE_LOGIN=users" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "http://localhost:8051"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://["},
        {"Origin": "http://]"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_page_of_another_site_can_start_nothing(client: Any, headers: dict[str, str]) -> None:
    answer = client.post(UPDATE, json=THEMES, headers=headers)
    assert answer.status_code == 403
    assert "another site" in problem(answer)["message"]


def test_the_pages_own_requests_pass(client: Any) -> None:
    own = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
    assert client.post(UPDATE, json=THEMES, headers=own).status_code == 200
    assert client.post(UPDATE, json=THEMES).status_code == 200


def test_a_form_of_another_type_starts_nothing(client: Any) -> None:
    """The only bodies that a page of another site can send. Dash reads none of them."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = client.post(UPDATE, data=json.dumps(THEMES), content_type=kind)
        assert answer.status_code == 415


def test_a_too_large_request_gives_a_message(make_app: MakeApp) -> None:
    client = make_app(max_body_kib=64, max_url_kib=8).server.test_client()
    body = client.post(UPDATE, data=b"x" * (65 << 10), content_type="application/json")
    assert (body.status_code, problem(body)["hint"]) == (413, "Send less at once.")
    chunked = {"wsgi.input_terminated": True, "CONTENT_LENGTH": ""}
    streamed = client.post(UPDATE, data=b"[" + b" " * (80 << 10), environ_overrides=chunked)
    assert streamed.status_code in (400, 413)  # read no further than the limit
    page = client.get("/?prompt=" + "a" * (9 << 10), headers=HTML)
    assert page.status_code == 414
    assert "Shorten the prompt" in page.get_data(as_text=True)


def test_too_many_requests_give_a_message_for_a_while(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_app(requests_per_minute=10).server.test_client()  # an address: 100, 25 at once
    now = 1000.0
    monkeypatch.setattr(clients.time, "monotonic", lambda: now)
    answers = [client.post(UPDATE, json=THEMES) for _ in range(26)]
    assert [answer.status_code for answer in answers] == [200] * 25 + [429]
    assert "Wait 1 second," in problem(answers[-1])["hint"]
    assert answers[-1].headers["Retry-After"] == "1"
    poll = client.post(f"{UPDATE}?cacheKey={handle()}", json=RUN)
    assert poll.status_code in (200, 204), "asking how a run goes is counted apart"
    assert client.post(f"{UPDATE}?cacheKey={handle()}", json=THEMES).status_code == 429
    now += 1.0
    assert client.post(UPDATE, json=THEMES).status_code == 200


def test_files_are_counted_only_without_a_session(make_app: MakeApp, users: Users) -> None:
    inside, outside = (make_app(login=login, requests_per_minute=10) for login in ("off", "users"))
    codes = []
    for app in (inside, outside):
        client = app.server.test_client()
        for _ in range(30):
            file = client.get("/assets/js/page.js")
            file.close()
        codes.append(file.status_code)
    assert codes == [200, 429]


def test_the_limit_of_one_user_does_not_affect_another(make_app: MakeApp, users: Users) -> None:
    users.add("bob", "another password")
    app = make_app(login="users", requests_per_minute=40)
    hasty, other = signed_in(app), signed_in(app, "bob", "another password")
    codes = [hasty.post(UPDATE, json=THEMES).status_code for _ in range(12)]
    assert codes[-1] == 429
    assert other.post(UPDATE, json=THEMES).status_code == 200


def test_a_bucket_fills_at_its_rate_and_no_higher(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 50.0
    monkeypatch.setattr(clients.time, "monotonic", lambda: now)
    local, rate = LocalBuckets(), Rate(size=3, per_second=0.5)
    assert [local.take("a", rate) for _ in range(4)] == [0, 0, 0, 2.0]
    now += 1.0
    assert local.take("a", rate) == pytest.approx(1.0)
    now += 1.0
    assert local.take("a", rate) == 0
    assert local.take("b", rate) == 0
    local.take("b", rate, -5)
    assert [local.take("b", rate) for _ in range(4)] == [0, 0, 0, 2.0]


def test_unused_buckets_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "_MOST", 3)
    local = LocalBuckets()
    for name in "abcde":
        local.take(name, Rate(1, 1))
    assert len(local._kept) == 3


@pytest.mark.parametrize(
    ("forwarded", "direct", "address", "by_proxy"),
    [
        ("203.0.113.9", "10.0.0.1", "203.0.113.9", True),
        ("1.2.3.4, 203.0.113.9, 10.0.0.2", "10.0.0.1", "203.0.113.9", True),
        ("203.0.113.9", "10.9.0.1", "10.9.0.1", False),
        ("unknown", "10.0.0.1", "10.0.0.1", True),
        ("", "10.0.0.1", "10.0.0.1", True),
        ("1.1.1.1", "::ffff:10.0.0.1", "1.1.1.1", True),
        (", ,", "10.0.0.1", "10.0.0.1", True),
    ],
)
def test_a_proxy_names_the_client(
    forwarded: str, direct: str, address: str, by_proxy: bool
) -> None:
    environ = {"REMOTE_ADDR": direct, "HTTP_X_FORWARDED_FOR": forwarded, "wsgi.url_scheme": "http"}
    found = clients.peer(environ, clients.networks("10.0.0.0/24"))
    assert (found.address, found.by_proxy) == (address, by_proxy)


@pytest.mark.parametrize(
    "route", ["/", "/_dash-layout", "/assets/js/page.js", "/nothing.js", "/healthz"]
)
def test_every_response_has_the_security_headers(client: Any, route: str) -> None:
    answer = client.get(route)
    answer.close()
    headers = answer.headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "camera=()" in headers["Permissions-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert "Strict-Transport-Security" not in headers
    assert not re.search(r"\d", headers.get("Server", ""))


def test_a_refusal_has_the_security_headers_too(client: Any) -> None:
    for answer in (client.get("/", headers={"Host": "x.example"}), client.post(UPDATE, data="{")):
        assert answer.status_code >= 400
        assert answer.headers["Content-Security-Policy"]


def test_the_policy_allows_our_scripts_only(client: Any) -> None:
    answer = client.get("/")
    parts = dict(
        part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";")
    )
    scripts = parts["script-src"].split()
    assert scripts[0] == "'self'"
    assert all(source.startswith("'sha256-") for source in scripts[1:])
    assert "unsafe" not in parts["script-src"]
    assert parts["default-src"] == parts["base-uri"] == "'none'"
    inline = re.findall(
        r"<script(?![^>]*(?:src=|application/json))[^>]*>(.*?)</script>",
        re.sub(r"<!--.*?-->", "", answer.get_data(as_text=True), flags=re.DOTALL), re.DOTALL,
    )  # fmt: skip
    assert inline
    for script in inline:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in scripts


def test_hsts_is_sent_over_https_only(make_app: MakeApp, users: Users) -> None:
    client = make_app(login="users", trusted_proxies="127.0.0.1").server.test_client()
    secure = client.get("/healthz", headers={"X-Forwarded-Proto": "https"})
    assert "max-age=" in secure.headers["Strict-Transport-Security"]
    spoofed = make_app().server.test_client().get("/", headers={"X-Forwarded-Proto": "https"})
    assert "Strict-Transport-Security" not in spoofed.headers


def test_browsers_cache_files_but_not_responses(client: Any) -> None:
    assert client.get("/_dash-layout").headers["Cache-Control"] == "no-store"
    assert client.get("/").headers["Cache-Control"] == "no-store"
    file = client.get("/assets/js/page.js")
    file.close()
    assert "no-store" not in file.headers.get("Cache-Control", "")


def test_flasks_own_folder_is_not_served(client: Any) -> None:
    assert client.get("/static/anything").status_code == 404


@pytest.mark.parametrize("route", ["/metrics", "/readyz"])
def test_monitoring_needs_loopback_or_the_token(
    make_app: MakeApp, users: Users, route: str
) -> None:
    app = make_app(login="users", ops_token="a token of the ops", trusted_proxies="127.0.0.9")  # noqa: S106
    client, far = app.server.test_client(), {"REMOTE_ADDR": "10.0.0.7"}
    assert client.get(route).status_code == 200
    assert client.get(route, environ_base=far).status_code == 403
    for wrong in ("Bearer a token of the op", "a token of the ops", "Bearer ", "Bearer t\u00f6ken"):
        headers = {"Authorization": wrong}
        assert client.get(route, headers=headers, environ_base=far).status_code == 403
    right = {"Authorization": "Bearer a token of the ops"}
    assert client.get(route, headers=right, environ_base=far).status_code == 200
    # The proxy is on this machine; its client is not.
    proxied = {"REMOTE_ADDR": "127.0.0.9"}
    assert client.get(route, environ_base=proxied).status_code == 403
    tokenless = make_app(login="users").server.test_client()
    empty = {"Authorization": "Bearer "}
    assert tokenless.get(route, headers=empty, environ_base=far).status_code == 403


def test_a_request_id_from_outside_must_be_valid(client: Any) -> None:
    given = client.get("/", headers={"X-Request-ID": "0123456789abcdef"})
    assert given.headers["X-Request-ID"] == "0123456789abcdef"
    for bad in ("short", "x" * 65, "has space in it", "<script>alert(1)</script>", "a\tb" * 4):
        made = client.get("/", headers={"X-Request-ID": bad}).headers["X-Request-ID"]
        assert re.fullmatch("[0-9a-f]{8}", made)


def test_a_body_of_another_shape_gives_a_message(make_app: MakeApp) -> None:
    app: Dash = make_app()
    client = app.server.test_client()
    for body in (
        "", "{", "[]", "1", "null", "{}", '{"output": 1}', '{"output": "nothing.here"}',
        '{"output": "theme-toggle.children"}', "[" * 100_000, '{"a": NaN}',
        json.dumps({**THEMES, "inputs": []}),
        json.dumps({**THEMES, "inputs": [{"id": "run", "property": "data", "value": 1}]}),
        json.dumps({**THEMES, "outputs": {"id": "alert", "property": "children"}}),
        json.dumps({**THEMES, "outputs": []}),
        json.dumps({**THEMES, "inputs": [{"id": "theme", "property": "data", "value": "dark"}]}),
        json.dumps({**THEMES, "state": [{"id": "run", "property": "data"}]}),
        json.dumps({**THEMES, "changedPropIds": {"a": 1}}),
        json.dumps({**THEMES, "changedPropIds": [1]}),
    ):  # fmt: skip
        answer = client.post(UPDATE, data=body, content_type="application/json")
        assert answer.status_code == 400, body[:60]
        assert "Reload the page" in problem(answer)["hint"]
    deep: Any = "x"
    for _ in range(100):
        deep = [deep]
    nested = {**THEMES, "inputs": [{"id": "theme", "property": "data", "value": {"theme": deep}}]}
    assert client.post(UPDATE, json=nested).status_code == 400
    half = json.dumps({**THEMES, "changedPropIds": ["\ud800"]})
    assert client.post(UPDATE, data=half, content_type="application/json").status_code == 400


@pytest.mark.parametrize("name", ["X-Forwarded-For", "X-Real-IP", "Forwarded", "X-Forwarded-Proto"])
def test_without_a_login_a_forwarded_request_is_refused(client: Any, name: str) -> None:
    answer = client.get("/", headers={name: "192.0.2.1"})
    assert answer.status_code == 403
    assert "proxy" in problem(answer)["message"]


def test_one_person_has_a_share_of_the_bytes(make_app: MakeApp) -> None:
    client = make_app(max_body_kib=64).server.test_client()
    body = json.dumps({"output": "x", "filler": "y" * (60 << 10)}).encode()
    headers = {"Content-Type": "application/json"}
    codes = [client.post(UPDATE, data=body, headers=headers).status_code for _ in range(20)]
    assert codes[:16] == [400] * 16
    assert 429 in codes
