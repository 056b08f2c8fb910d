"""The page behind nginx with the shipped configuration: long links, and a path of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import requests

from dash_app.security.users import Users
from tests.security.conftest import PASSWORD, MakeApp
from tests.security.live import served
from tests.support.nginx import Nginx

HTML = {"Accept": "text/html"}
Behind = Callable[..., str]


@pytest.fixture(params=["/", "/stratascope/"])
def address(request: Any, make_app: MakeApp, users: Users, tmp_path: Path) -> Iterator[str]:
    """The page's address behind nginx, at the root and below a path."""
    prefix = request.param
    app = make_app(login="users", trusted_proxies="127.0.0.1", url_prefix=prefix)
    folder = tmp_path / "nginx"
    folder.mkdir()
    with served(app) as url, Nginx(folder, urlsplit(url).netloc, prefix) as nginx:
        yield f"http://{nginx.host}{prefix}"


@pytest.fixture
def browser() -> Iterator[requests.Session]:
    """A browser with cookies."""
    with requests.Session() as session:
        session.headers["Accept-Encoding"] = "identity"  # flask-compress leaves files open
        yield session


def field(text: str) -> str:
    """The address in the sign-in form."""
    (found,) = re.findall(r'name="next" value="([^"]*)"', text)
    return found.replace("&amp;", "&")


@pytest.mark.parametrize("length", [10, 900, 1_900, 3_000, 9_000, 30_000])
def test_a_link_survives_signing_in(address: str, browser: requests.Session, length: int) -> None:
    search = f"?prompt={quote('a b+c' * (length // 5))}&row=3"
    asked = browser.get(address + search, headers=HTML, timeout=60)
    assert asked.status_code == 200
    assert field(asked.text).endswith(search)
    form = {"name": "alice", "password": PASSWORD, "next": field(asked.text)}
    answer = browser.post(f"{address}login", data=form, headers=HTML, timeout=60)
    assert answer.status_code == 200
    if answer.history:
        assert answer.url == address + search
    else:
        (target,) = re.findall(r'content="0; url=([^"]*)"', answer.text)
        assert target.replace("&amp;", "&") == urlsplit(address).path + search
    page = browser.get(address + search, headers=HTML, timeout=60)
    assert "_dash-config" in page.text


def test_every_file_and_callback_is_below_the_path(address: str, browser: requests.Session) -> None:
    root = urlsplit(address).path
    asked = browser.get(address, headers=HTML, timeout=60)
    named = re.findall(r'(?:href|src|action)="(/[^"]*)"', asked.text)
    form = {"name": "alice", "password": PASSWORD, "next": field(asked.text)}
    page = browser.post(f"{address}login", data=form, headers=HTML, timeout=60)
    assert page.url == address
    named += re.findall(r'(?:href|src)="(/[^"]*)"', page.text)
    assert len(named) > 10
    assert all(name.startswith(root) for name in named), named
    host = address.removesuffix(root)
    for name in set(named) - {f"{root}login"}:
        assert browser.get(host + name.replace("&amp;", "&"), timeout=60).status_code == 200, name
    assert browser.get(f"{address}_dash-layout", timeout=60).status_code == 200
    broken = {"output": "nothing.data", "outputs": {"id": "nothing", "property": "data"}}
    refused = browser.post(f"{address}_dash-update-component", json=broken, timeout=60)
    assert refused.status_code == 400
    left = browser.post(f"{address}logout", headers=HTML, timeout=60)
    assert left.url.startswith(f"{address}login")
    assert browser.get(f"{address}_dash-layout", timeout=60).status_code == 401


def test_dashs_own_setting_of_a_path_is_refused(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from analysis.errors import AnalysisError
    from dash_app.security.clients import check
    from dash_app.settings import Settings

    monkeypatch.setenv("DASH_URL_BASE_PATHNAME", "/below/")
    with pytest.raises(AnalysisError, match="DASH_URL_BASE_PATHNAME"):
        check(Settings(data_dir=tmp_path))
