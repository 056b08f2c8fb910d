"""Attacks, each of which must be blocked."""

from __future__ import annotations

import json
import pickle
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import diskcache
import pytest
from dash import Dash

from analysis import codec
from analysis.contract.specs import InfoSpec, Token
from analysis.errors import ModelLoadError, StoreError, UnknownModelError
from analysis.model import catalog, hub
from analysis.service import Service
from analysis.store.memo import Memo
from analysis.tracing.specs import RunSpec
from analysis.worker.messages import ServiceSettings
from dash_app.jobs.manager import JobManager
from dash_app.page.token_labels import plain, token_markup
from tests.security.conftest import MakeApp, Watched, signed_in
from tests.support.dash_client import DashClient
from tests.support.repository import ROOT

PASSWORD = "another password"  # noqa: S105 - of a made-up user
LIMIT = 1 << 20
SECRET_FILES = (
    "../../etc/passwd", "..%2f..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd",
    "....//....//etc/passwd", "..\\..\\etc\\passwd", "/etc/passwd", "%00",
    "css/../../pyproject.toml", "css/%2e%2e/%2e%2e/pyproject.toml", ".%2e/dash_app/settings.py",
    "js/../../../secret-key",
)  # fmt: skip


# Traversal: no path outside the configured folders.


@pytest.mark.parametrize("path", SECRET_FILES)
@pytest.mark.parametrize("prefix", ["/assets/", "/_dash-component-suites/dash/", "/static/", "/"])
def test_no_file_outside_the_assets_is_served(make_app: MakeApp, prefix: str, path: str) -> None:
    answer = make_app().server.test_client().get(prefix + path)
    said = answer.get_data(as_text=True)
    assert answer.status_code < 500
    assert "root:" not in said
    assert "[project]" not in said
    assert "class Settings" not in said
    assert answer.status_code in (400, 404, 308) or '<div id="react-entry-point">' in said


@pytest.mark.parametrize(
    "name", ["/etc", "../..", "./models", "~/models", "file:///etc/passwd", "gpt2", "evil/model",
             "evil/model@main", "x.gguf", "smollm2-135m-instruct+evil/adapter", "", "a" * 10_000,
             "\x00"],
)  # fmt: skip
def test_a_model_that_is_not_offered_is_never_searched_for(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name out of a URL must not become a path, nor a download."""
    looked: list[Any] = []
    monkeypatch.setattr("analysis.model.hub.commit", looked.append)
    monkeypatch.setattr("analysis.model.hub.stamp", looked.append)
    with Service(ServiceSettings(cache_dir=tmp_path)) as service:
        with pytest.raises(UnknownModelError):
            service.ask(name, RunSpec(name, "a prompt"))
        with pytest.raises(UnknownModelError):
            service.peek(name, InfoSpec())
    assert looked == []


def test_the_operator_may_offer_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STRATASCOPE_MODELS", f"mine={tmp_path}")
    assert catalog.offered("mine").source == str(tmp_path)
    with pytest.raises(UnknownModelError):
        catalog.offered(str(tmp_path))


# Pickle: nothing on the disk is ever unpickled.


class Bomb:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


@pytest.fixture
def blown(tmp_path: Path) -> Path:
    """Exists after a planted pickle has run."""
    return tmp_path / "blown"


def plant_in_cache(folder: Path, bomb: bytes) -> None:
    """Plant a pickle wherever diskcache stores data: values of each mode, keys, files, settings."""
    with sqlite3.connect(folder / "cache.db") as database:
        modes = (diskcache.core.MODE_RAW, diskcache.core.MODE_BINARY,
                 diskcache.core.MODE_TEXT, diskcache.core.MODE_PICKLE)  # fmt: skip
        for mode in modes:
            for raw, key in ((1, f"key {mode}"), (0, bomb + bytes([mode]))):
                database.execute(
                    "INSERT INTO Cache (key, raw, store_time, access_time, access_count, size,"
                    " mode, value) VALUES (?, ?, 0, 0, 0, ?, ?, ?)",
                    (key, raw, len(bomb), mode, sqlite3.Binary(bomb)),
                )
        database.execute("UPDATE Cache SET value = ?, mode = 4", (sqlite3.Binary(bomb),))
    for file in folder.rglob("*.val"):
        file.write_bytes(bomb)
    (folder / "planted.pkl").write_bytes(bomb)


def test_a_planted_pickle_in_the_memo_does_not_run(tmp_path: Path, blown: Path) -> None:
    folder, bomb = tmp_path / "memo", pickle.dumps(Bomb(blown))
    memo = Memo(folder, LIMIT)
    memo.put("small", b"x")
    memo.put("large", b"x" * 100_000)
    memo.close()
    plant_in_cache(folder, bomb)
    memo = Memo(folder, LIMIT)
    for key in ("small", "large", "key 1", "key 2", "key 3", "key 4"):
        assert memo.get(key) is None
    memo.put("more", b"y" * 900_000)  # makes room: evicted entries are read as well
    memo.status()
    memo.clear()
    memo.close()
    assert not blown.exists()


def test_a_planted_pickle_in_the_jobs_folder_does_not_run(tmp_path: Path, blown: Path) -> None:
    folder, bomb = tmp_path / "jobs", pickle.dumps(Bomb(blown))
    manager = JobManager(folder)
    manager._results.put("job", b"{}")
    manager._results.flush()
    plant_in_cache(folder, bomb)
    manager._results._recent.clear()
    assert manager._results.get("job") is None
    manager.close()
    assert not blown.exists()


def test_a_planted_pickle_in_a_model_folder_does_not_run(tmp_path: Path, blown: Path) -> None:
    bomb = pickle.dumps(Bomb(blown))
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    for name in ("pytorch_model.bin", "model.pt", "model.ckpt", "training_args.bin", "x.pkl"):
        (tmp_path / name).write_bytes(bomb)
    with pytest.raises(ModelLoadError, match="as pickle"):
        hub.check_folder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(bomb)
    with pytest.raises(ModelLoadError):
        hub.check_folder(tmp_path)
    assert not blown.exists()


def test_a_planted_pickle_as_a_result_does_not_run(blown: Path) -> None:
    with pytest.raises(StoreError):
        codec.decode(pickle.dumps(Bomb(blown)))
    assert not blown.exists()


def test_the_planted_pickles_run_in_stock_code(tmp_path: Path, blown: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(blown)))  # noqa: S301 - the point of it
    assert blown.exists()


def test_a_result_can_only_name_known_types(tmp_path: Path) -> None:
    """``$type`` can name our results only; it must not call anything."""
    info = codec.encode(Token(1, "a", "a"))
    for other in ("Path", "os.system", "ModelInfo", "__class__"):
        with pytest.raises(StoreError):
            codec.decode(info.replace(b"Token", other.encode().ljust(5)[:5]))
    assert isinstance(codec.decode(info), Token)


# Markup: the text of a token, a prompt or a model's name stays text.

MARKUP = (
    "<img src=x onerror=alert(1)>", "<b>bold</b>", '<a href="javascript:alert(1)">x</a>', "<br>",
    "&lt;script&gt;", "&#60;b&#62;", "$x^2$", "%{customdata}", "</script><script>alert(1)</script>",
)  # fmt: skip


@pytest.mark.parametrize("said", MARKUP)
def test_a_label_shows_the_text_of_the_token(said: str) -> None:
    shown = token_markup(Token(1, said, said), 200)
    assert "<" not in shown
    assert ">" not in shown
    assert "$" not in shown
    assert (
        plain(shown) == said.replace(" ", "\u00b7") or plain(shown).replace("\u00b7", " ") == said
    )


def texts(value: Any) -> list[str]:
    """Every text inside a figure, without its keys."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for part in value.values() for text in texts(part)]
    if hasattr(value, "tolist"):
        return texts(value.tolist())
    return (
        [text for part in value for text in texts(part)] if isinstance(value, (list, tuple)) else []
    )


def test_no_figure_contains_the_markup_of_a_token(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every callback that draws, with tokens of markup."""
    from tests.security.test_fuzz import STORES
    from tests.support import fake_service

    evil = "<img src=x onerror=alert(1)>"
    monkeypatch.setattr(
        fake_service, "token", lambda number: Token(number, f"{evil}{number}", evil)
    )

    class Full(Watched):
        """Its memo has everything."""

        def peek(self, subject: Any, spec: Any) -> Any:
            return self.ask(subject, spec)

    client = DashClient(make_app(Full()))
    drawn = 0
    for callback in json.loads(client._http.get("/_dash-dependencies").data):
        if callback["clientside_function"] or "figure" not in callback["output"]:
            continue
        values = {
            f"{one['id']}.{one['property']}": STORES.get(one["id"]) for one in callback["inputs"]
        }
        body = {
            "output": callback["output"],
            "outputs": outputs_of(callback["output"]),
            "inputs": [{**one, "value": STORES.get(one["id"])} for one in callback["inputs"]],
            "state": [{**one, "value": STORES.get(one["id"])} for one in callback["state"]],
            "changedPropIds": list(values),
        }
        found = client._http.post("/_dash-update-component", json=body).get_json()
        for part in (found or {}).get("response", {}).values():
            if "figure" in part:
                drawn += 1
                # Scripts write the texts in "meta" as plain text; Plotly does not read them.
                part["figure"]["layout"].pop("meta", None)
                assert not [text for text in texts(part["figure"]) if "<img" in text]
    assert drawn >= 4


def outputs_of(output: str) -> Any:
    specs = [spec for spec in output.strip(".").split("...") if "." in spec]
    found = [dict(zip(("id", "property"), spec.rsplit(".", 1), strict=True)) for spec in specs]
    return found if output.startswith("..") else found[0]


def test_a_model_title_cannot_end_a_script(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STRATASCOPE_MODELS", f"</script><script>alert(1)</script>={tmp_path}")
    page = make_app().server.test_client().get("/").get_data(as_text=True)
    assert "<script>alert(1)" not in page


def test_nothing_writes_markup_into_the_page() -> None:
    """Texts are set as text, in the browser as on the server."""
    writers = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(",
               "new Function", "dcc.Markdown", "dangerously", "srcDoc", "Iframe")  # fmt: skip
    sources = [*(ROOT / "assets" / "js").rglob("*.js"), *(ROOT / "dash_app").rglob("*.py")]
    found = [
        f"{path.name}: {writer}"
        for path in sources
        for writer in writers
        if writer in path.read_text(encoding="utf-8")
    ]
    assert len(sources) > 60
    assert not found


# Handles of runs: signed, of one page, of one user.


def run_of(app: Dash, http: Any) -> tuple[DashClient, dict[str, str], dict[str, Any]]:
    """A page of ``http`` with a run that it started."""
    client = DashClient.__new__(DashClient)
    client._http, client._below = http, ""
    page = http.get("/").get_data(as_text=True)
    client.end_id = page.partition('"end_id":"')[2].partition('"')[0]
    asked = {"asked.data": {"model": "smollm2-135m-instruct", "prompt": "a b", "attempt": 1}}
    return client, client.start("run-last.data", asked), asked


def test_no_user_can_fetch_or_end_the_run_of_another(make_app: MakeApp, users: Any) -> None:
    users.add("mallory", PASSWORD)
    app = make_app(login="users")
    alice, mallory = signed_in(app), signed_in(app, "mallory", PASSWORD)
    mine, handles, asked = run_of(app, alice)
    theirs, _, _ = run_of(app, mallory)
    for end_id in (mine.end_id, theirs.end_id):
        theirs.end_id = end_id
        assert theirs.poll("run-last.data", asked, handles).status_code == 403
        stop = {"run-cancel.n_clicks": 1}
        for name in ("cancelJob", "oldJob", "again"):
            refused = theirs.call("run-cancel.id", stop, **{name: handles["job"]})
            assert refused.status_code == 403
    response, _ = mine.finish("run-last.data", asked, handles)
    assert response.get_json()["sideUpdate"]["status"]["data"]["attempt"] == 1


def test_a_forged_handle_names_nothing(make_app: MakeApp) -> None:
    app = make_app()
    client, handles, asked = run_of(app, app.server.test_client())
    key, _, signature = handles["cacheKey"].rpartition("~")
    other = ("0" if key[0] != "0" else "1") + key[1:]
    for forged in (f"{other}~{signature}", f"{key}~{'0' * 64}", key, "", "~", "1", "../" * 9):
        spoilt = {"cacheKey": forged, "job": forged}
        answer = client.poll("run-last.data", asked, spoilt)
        assert answer.status_code in (204, 403)
        assert b"attempt" not in answer.data
    response, _ = client.finish("run-last.data", asked, handles)
    assert "sideUpdate" in response.get_json()


def test_the_handle_of_one_page_is_invalid_in_another(make_app: MakeApp, users: Any) -> None:
    app = make_app(login="users")
    alice = signed_in(app)
    first, handles, asked = run_of(app, alice)
    second, _, _ = run_of(app, alice)
    answer = second.poll("run-last.data", asked, handles)
    assert answer.status_code == 204
    assert "sideUpdate" in first.finish("run-last.data", asked, handles)[0].get_json()


def test_the_queue_counts_users_not_page_loads(make_app: MakeApp, users: Any) -> None:
    """Two pages of one user share that user's turns."""
    from analysis.contract.jobs import current_user

    seen: list[str] = []

    class Asked(Watched):
        def ask(self, subject: Any, spec: Any, job: Any = None) -> Any:
            if isinstance(spec, RunSpec):
                seen.append(current_user.get())
            return super().ask(subject, spec, job)

    users.add("bob", PASSWORD)
    app = make_app(Asked(), login="users")
    clients = (signed_in(app), signed_in(app), signed_in(app, "bob", PASSWORD))
    for http in clients:
        page, handles, asked = run_of(app, http)
        page.finish("run-last.data", asked, handles)
    assert seen == ["user:alice", "user:alice", "user:bob"]


# Addresses: their contents are data.


@pytest.mark.parametrize("said", MARKUP)
def test_values_of_the_address_do_not_appear_in_the_html(make_app: MakeApp, said: str) -> None:
    client = make_app().server.test_client()
    own = client.get("/").get_data(as_text=True).count(said)  # the page itself may contain "<br>"
    for address in (f"/?prompt={quote(said)}", f"/?model={quote(said)}&{quote(said)}=1"):
        assert client.get(address).get_data(as_text=True).count(said) == own


def test_diskcache_is_used_in_the_store_only() -> None:
    """diskcache's own ``Disk`` unpickles (docs/adr/0021-audit.md)."""
    using = {
        path.relative_to(ROOT).as_posix()
        for part in ("analysis", "dash_app")
        for path in (ROOT / part).rglob("*.py")
        if "import diskcache" in path.read_text(encoding="utf-8")
    }
    assert using == {"analysis/store/memo.py"}
    assert "disk=BytesDisk" in (ROOT / "analysis" / "store" / "memo.py").read_text(encoding="utf-8")
