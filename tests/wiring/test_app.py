"""The app is complete: ids that callbacks name exist, and two apps do not interfere."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from dash.development.base_component import Component
from filelock import FileLock

from dash_app import app as app_module
from dash_app import cli
from dash_app.app import create_app
from dash_app.settings import Settings, secret
from tests.support.fake_service import FakeService


def components(node: Any) -> Iterator[Component]:
    """Every component of a layout."""
    if isinstance(node, (list, tuple)):
        for child in node:
            yield from components(child)
    elif isinstance(node, Component):
        yield node
        yield from components(getattr(node, "children", None))


def named(app: Any) -> list[str]:
    layout = app.layout() if callable(app.layout) else app.layout
    return [node.id for node in components(layout) if getattr(node, "id", None)]


def dependencies(app: Any) -> list[dict[str, Any]]:
    answer = app.server.test_client().get("/_dash-dependencies")
    assert answer.status_code == 200
    return json.loads(answer.data)


def mentioned(app: Any) -> set[str]:
    ids: set[str] = set()
    for callback in dependencies(app):
        ids |= {part["id"] for part in (*callback["inputs"], *callback["state"])}
        for output in callback["output"].strip(".").split("..."):
            ids.add(output.rpartition(".")[0])
    return {name for name in ids if name}


def test_every_id_that_a_callback_names_is_in_the_layout(app: Any) -> None:
    assert mentioned(app) <= set(named(app))


def test_the_page_names_its_language(app: Any) -> None:
    page = app.server.test_client().get("/").get_data(as_text=True)
    assert '<html lang="en">' in page


def test_ids_are_unique(app: Any) -> None:
    ids = named(app)
    assert len(ids) == len(set(ids))


def test_each_store_has_one_writer(app: Any) -> None:
    stores = {
        node.id for node in components(app.layout()) if type(node).__name__ == "Store" and node.id
    }
    written = [
        output.rpartition(".")[0]
        for callback in dependencies(app)
        for output in callback["output"].strip(".").split("...")
        if output.rpartition(".")[0] in stores
    ]
    assert sorted(written) == sorted(set(written))


def test_the_page_keeps_few_components(app: Any) -> None:
    # Dash notifies each component of every change, and there are hundreds. Stores draw nothing, and
    # the other pages are drawn when they are first shown.
    every = [one for one in components(app.layout()) if type(one).__name__ != "Store"]
    later = [
        part
        for one in every
        if type(one).__name__ == "Lazy"
        for part in components(one.children)
        if type(part).__name__ != "Store"
    ]
    assert 100 < len(every) - len(later) < 300
    assert len(every) < 700


def test_two_apps_in_one_process_both_work(settings: Settings) -> None:
    first, second = (create_app(FakeService(), settings) for _ in range(2))
    assert mentioned(first) == mentioned(second)
    assert len(dependencies(first)) == len(dependencies(second)) > 15


def test_a_process_knows_its_scripts_before_it_serves_a_page(settings: Settings) -> None:
    # A page that another process served requests several scripts at once.
    fresh = create_app(FakeService(), settings)
    assert any(name.endswith(".js") for name in fresh.registered_paths["dash"])


def test_every_file_comes_from_this_server(app: Any) -> None:
    page = app.server.test_client().get("/").get_data(as_text=True)
    assert "https://" not in page.replace("https://dash.plotly.com", "")
    assert "assets/css/theme.css" in page
    assert "assets/js/page.js" in page


def test_the_address_is_never_sent_to_other_sites(app: Any) -> None:
    headers = app.server.test_client().get("/").headers
    assert headers["Referrer-Policy"] == "same-origin"


def test_large_answers_are_compressed(app: Any) -> None:
    answer = app.server.test_client().get("/_dash-layout", headers={"Accept-Encoding": "gzip"})
    assert answer.headers.get("Content-Encoding") == "gzip"


def test_controls_have_accessible_names(app: Any) -> None:
    """Everything that takes the focus has a name for a screen reader."""
    for node in components(app.layout()):
        if type(node).__name__ == "Button":
            attributes = node.to_plotly_json()["props"]
            text = attributes.get("children")
            assert attributes.get("aria-label") or (isinstance(text, str) and len(text) > 1), node


def test_serving_needs_no_torch() -> None:
    code = "import sys, dash_app.wsgi; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unexpected_error_gives_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: dict[str, Any] = {}
    monkeypatch.setattr(app_module, "set_props", lambda name, props: shown.update({name: props}))
    app_module.unexpected(ZeroDivisionError("secret detail"))
    text = str(shown["alert"]["children"])
    assert "Something went wrong" in text
    assert "secret detail" not in text


def test_the_secret_is_created_once_and_private(settings: Settings) -> None:
    first = secret(settings)
    path = settings.data_dir / "secret-key"
    assert len(first) >= 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert secret(settings) == first
    path.write_text("cut", encoding="ascii")
    assert secret(settings) != first
    assert secret(settings.model_copy(update={"secret_key": "given"})) == "given"


def test_a_server_waits_for_the_secret_of_another(settings: Settings) -> None:
    path = settings.data_dir / "secret-key"
    path.parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(1) as pool:
        with FileLock(f"{path}.lock"):
            path.touch()
            asked = pool.submit(secret, settings)
            with pytest.raises(TimeoutError):
                asked.result(0.2)
            path.write_text("k" * 40, encoding="ascii")
        assert asked.result(9) == "k" * 40


def test_settings_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["settings"]) == 0
    listed = capsys.readouterr().out
    for name in Settings.model_fields:
        assert f"STRATASCOPE_{name.upper()}" in listed


def test_an_invalid_setting_gives_a_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STRATASCOPE_PORT", "many")
    assert cli.main(["serve"]) == 1
    said = capsys.readouterr().err
    assert "STRATASCOPE_PORT is 'many'" in said
    assert "Traceback" not in said


def test_an_occupied_port_gives_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert cli.main(["serve", "--port", str(port)]) == 1
    assert f"port {port}" in capsys.readouterr().err
