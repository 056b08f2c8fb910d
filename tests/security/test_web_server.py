"""Requests that gunicorn passes to the app, with our settings and those of the Procfile."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from dash import Dash
from gunicorn.config import Config
from gunicorn.http import message
from gunicorn.http.errors import LimitRequestHeaders, LimitRequestLine
from gunicorn.http.parser import RequestParser

from dash_app.server import gunicorn
from dash_app.server.gunicorn import Server
from dash_app.settings import Settings
from tests.support.repository import ROOT

KIB = 1024


@pytest.fixture(autouse=True)
def _own_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message, "MAX_REQUEST_LINE", message.MAX_REQUEST_LINE)


def parsed(cfg: Config, *lines: bytes) -> Any:
    head = b"\r\n".join([*lines, b"Host: localhost", b"", b""])
    parts = [head[start : start + 8192] for start in range(0, len(head), 8192)]
    return next(RequestParser(cfg, iter(parts), ("127.0.0.1", 1)))


def config(tmp_path: Path) -> Config:
    cfg: Config = Server(Settings(data_dir=tmp_path, cache_dir=tmp_path)).cfg
    return cfg


def line(size: int) -> bytes:
    return b"GET /?prompt=" + b"a" * size + b" HTTP/1.1"


def test_a_long_prompt_fits_and_a_longer_one_is_refused(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    assert len(parsed(cfg, line(191 * KIB)).query) > 191 * KIB
    with pytest.raises(LimitRequestLine):
        parsed(cfg, line(210 * KIB))


def test_the_procfile_has_the_same_limits() -> None:
    command = (ROOT / "Procfile").read_text()
    asked = int(re.findall(r"--limit-request-line (\d+)", command)[0])
    assert asked > 0, "0 would be without end"
    gunicorn.allow_addresses(192)
    cfg = Config()
    cfg.set("limit_request_line", asked)
    assert len(parsed(cfg, line(191 * KIB)).query) > 191 * KIB
    with pytest.raises(LimitRequestLine):
        parsed(cfg, line(210 * KIB))


def test_headers_are_bounded(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    with pytest.raises(LimitRequestHeaders):
        parsed(cfg, line(1), *(f"X-{number}: y".encode() for number in range(200)))
    with pytest.raises(LimitRequestHeaders):
        parsed(cfg, line(1), b"X-Long: " + b"y" * 9000)


def test_a_user_header_with_another_spelling_is_ignored(tmp_path: Path) -> None:
    """``X_Forwarded_User`` becomes the same WSGI variable; a proxy strips only the real one."""
    sent = parsed(config(tmp_path), line(1), b"X_Forwarded_User: alice", b"X-Other: 1")
    assert [name for name, _ in sent.headers] == ["X-OTHER", "HOST"]


def test_the_app_decides_on_the_scheme_header_of_a_client(tmp_path: Path) -> None:
    sent = parsed(config(tmp_path), line(1), b"X-Forwarded-Proto: https")
    assert sent.scheme == "http"


def test_log_lines_of_gunicorn_contain_no_prompt(tmp_path: Path, caplog: Any) -> None:
    from dash_app.server.gunicorn import Lines

    logger = Lines(config(tmp_path))
    logger.exception("Error handling request %s %s", "GET", "/?prompt=secret", exc_info=False)
    assert "Error handling request GET /" in caplog.text
    assert "secret" not in caplog.text


def test_a_body_of_unknown_length_is_refused(guarded: Dash) -> None:
    answer = guarded.server.test_client().post("/", headers={"Transfer-Encoding": "chunked"})
    assert answer.status_code == 411
    assert "Content-Length" in answer.get_json()["problem"]["hint"]


def test_gunicorn_refuses_a_port_that_strangers_reach_without_a_login(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """gunicorn binds every address if ``PORT`` is set, as process managers do."""
    cfg = Config()
    cfg.set("bind", "0.0.0.0:8000")
    with pytest.raises(SystemExit, match="nobody would have to sign in"):
        gunicorn.DrainingWorker.check_config(cfg, None)
    cfg.set("bind", "127.0.0.1:8000")
    gunicorn.DrainingWorker.check_config(cfg, None)


def test_responses_do_not_name_the_software(tmp_path: Path) -> None:
    from gunicorn.http import wsgi

    request = parsed(config(tmp_path), line(1))
    response = wsgi.Response(request, None, config(tmp_path))
    response.status, response.status_code = "200 OK", 200
    assert not [line for line in response.default_headers() if line.startswith("Server")]
