"""Health, metrics, logs and cache commands: what they report and what they must not reveal."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from analysis import log_lines
from analysis.contract import specs
from analysis.contract.jobs import Job
from analysis.contract.specs import cache_key
from analysis.errors import AnalysisError, ModelLoadError, PromptError
from analysis.service import Service
from analysis.store.memo import Memo
from analysis.tracing.specs import RunSpec
from analysis.worker.messages import ServiceSettings
from dash_app import cli, monitoring
from dash_app.errors import explain, without_folders
from dash_app.monitoring import Readiness
from dash_app.settings import Settings
from tests.security.conftest import MakeApp, Watched, sign_in, signed_in
from tests.support.dash_client import DashClient
from tests.support.fake_service import FakeService

SECRET = "my secret prompt"  # noqa: S105 - a prompt
WORK = "tests.support.fake_work:perform"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A real service whose worker does fake work."""
    chosen = ServiceSettings(cache_dir=tmp_path / "cache", function=WORK)
    with Service(chosen, fingerprint=lambda name, _: f"weights of {name}") as running:
        yield running


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Every number by its name and the values of its labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_count_jobs_and_name_no_prompt(service: Service, make_app: MakeApp) -> None:
    client = make_app(service).server.test_client()
    service.ask("fake", RunSpec("fake", f"echo {SECRET}"))
    service.ask("fake", RunSpec("fake", f"echo {SECRET}"))
    with pytest.raises(PromptError):
        service.ask("fake", RunSpec("fake", "prompt"))
    with pytest.raises(AnalysisError):
        service.ask("fake", RunSpec("fake", f"bug {SECRET}"))
    client.get("/nothing", headers={"Host": "elsewhere.example"})
    text = client.get("/metrics").get_data(as_text=True)
    found = samples(text)
    assert found["stratascope_jobs_total", "run", "ok"] == 1
    assert found["stratascope_jobs_total", "run", "PromptError"] == 1
    assert found["stratascope_jobs_total", "run", "AnalysisError"] == 1
    assert found["stratascope_job_seconds_count", "run"] == 3
    assert found[("stratascope_memo_hits_total",)] == 1
    assert found[("stratascope_memo_misses_total",)] == 3
    assert found[("stratascope_queue_length",)] == 0
    assert found[("stratascope_workers",)] == 1
    assert found["stratascope_memory_bytes", "worker"] > 10 << 20
    assert found["stratascope_memory_bytes", "web"] > 10 << 20
    assert found["stratascope_refused_total", "400"] == 1
    assert SECRET not in text
    assert "secret" not in text


def test_loaded_models_are_reported_until_the_worker_ends(service: Service) -> None:
    assert not service.ready("fake")
    service.warm("fake")
    assert not service.ready("fake"), "the made-up worker loads nothing"
    service._backend._loaded = (service.status().worker_pid, ("fake",))
    assert service.ready("fake")
    assert service.status().resident == ("fake",)
    service._backend._loaded = (1, ("fake",))
    assert not service.ready("fake")


def test_the_server_is_ready_when_the_model_is_loaded(make_app: MakeApp) -> None:
    class Loading(FakeService):
        loaded = False

        def ready(self, _model: str) -> bool:
            return self.loaded

        def warm(self, _model: str) -> None:
            self.calls.append("warm")

    service = Loading()
    client = make_app(service).server.test_client()
    waiting = client.get("/readyz")
    assert waiting.status_code == 503
    assert "not loaded" in waiting.get_data(as_text=True)
    service.loaded = True
    assert client.get("/readyz").status_code == 200
    assert service.calls == ["warm"]


def test_a_model_that_cant_be_loaded_is_tried_again_later() -> None:
    tried: list[str] = []

    def warm(model: str) -> None:
        tried.append(model)
        raise AnalysisError("The model file is cut off.", "Fetch it again.")

    readiness = Readiness(SimpleNamespace(ready=lambda _: False, warm=warm), "fake")
    for count in (1, 2):
        readiness._busy.acquire()  # as ``warm`` does before it starts a thread
        readiness._load()
        assert len(tried) == count
        assert not readiness._busy.locked()


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The JSON log of what happens in a test."""
    written = io.StringIO()
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    monkeypatch.setattr("sys.stderr", written)
    monitoring.configure_log(Settings(log_format="json"))
    yield lambda: [json.loads(line) for line in written.getvalue().splitlines()]
    root.handlers[:] = before
    root.setLevel(level)


def test_each_job_is_one_log_line_with_its_request(
    service: Service, make_app: MakeApp, lines: Any
) -> None:
    app = make_app(service)
    client = DashClient(app)
    handles = client.start("run-last.data", {"asked.data": asked("echo hello")})
    client.finish("run-last.data", {"asked.data": asked("echo hello")}, handles)
    (line,) = [line for line in lines() if line["message"] == "job" and line["kind"] == "run"]
    assert line["outcome"] == "ok"
    assert line["seconds"] >= 0
    assert re.fullmatch("[0-9a-f]{8}", line["request"])
    assert re.fullmatch("[0-9a-f]{16}", line["user"])


def asked(prompt: str) -> dict[str, Any]:
    return {"model": Settings().default_model, "prompt": prompt, "new": 0, "attempt": 1}


def test_an_error_in_the_page_has_the_id_of_its_log_entry(make_app: MakeApp, lines: Any) -> None:
    service = Watched()
    service.fail["story"] = ZeroDivisionError(SECRET)
    client = DashClient(make_app(service))
    ref = asked(SECRET)
    handles = client.start("run-last.data", {"asked.data": ref})
    response, _ = client.finish("run-last.data", {"asked.data": ref}, handles)
    shown = response.get_json()["sideUpdate"]["status"]["data"]["problem"]
    (line,) = [line for line in lines() if "trace" in line]
    assert line["request"] == shown[2]
    assert line["trace"][0] == "ZeroDivisionError"
    assert any("fake_service.py" in frame for frame in line["trace"])
    assert SECRET not in json.dumps(lines())
    assert SECRET not in shown[0] + shown[1]


def test_users_are_hashed_in_the_log_by_default(make_app: MakeApp, users: Any, lines: Any) -> None:
    hidden, named = make_app(login="users"), make_app(login="users", log_users="name")
    for app in (hidden, named):
        signed_in(app).post("/_dash-update-component", data="{")
    sign_in(hidden.server.test_client(), password="wrong password")  # noqa: S106
    refused = [line for line in lines() if line["message"] == "refused"]
    assert [line["user"] for line in refused] == [monitoring.hashed("alice"), "alice"]
    (tried,) = [line for line in lines() if line.get("outcome") == "refused"]
    assert tried["user"] == monitoring.hashed("alice")
    assert "wrong password" not in json.dumps(lines())


def test_no_secret_is_ever_printed(make_app: MakeApp, users: Any, lines: Any) -> None:
    secrets = {"secret_key": "s3cret-key-of-32-characters-here", "ops_token": "t0ken-of-the-ops"}
    app = make_app(login="users", **secrets)
    client = signed_in(app)
    client.get("/metrics", headers={"Authorization": "Bearer nonsense"})
    client.get("/?prompt=" + SECRET.replace(" ", "+"), headers={"Host": "bad host"})
    said = json.dumps(lines()) + repr(Settings(**secrets)) + str(Settings(**secrets))
    for secret in (*secrets.values(), "correct horse", SECRET, "secret+prompt"):
        assert secret not in said


def test_a_line_break_stays_in_one_log_line() -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, "one\ntwo\r\x1b[31m", None, None)
    assert "\n" not in log_lines.TextLines().format(record)
    assert "\x1b" not in log_lines.TextLines().format(record)
    assert len(log_lines.JsonLines().format(record).splitlines()) == 1


def test_a_logged_trace_has_causes_and_no_messages() -> None:
    def fails() -> None:
        try:
            {}[SECRET]
        except KeyError as error:
            raise ValueError(SECRET) from error

    with pytest.raises(ValueError, match=SECRET) as caught:
        fails()
    text = "\n".join(log_lines.trace_of(caught.value))
    assert "ValueError" in text
    assert "KeyError" in text
    assert "in fails" in text
    assert SECRET not in text


def test_a_terminal_gets_text_and_a_file_gets_json(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        for is_terminal, kind in ((True, log_lines.TextLines), (False, log_lines.JsonLines)):
            stream = io.StringIO()
            monkeypatch.setattr(stream, "isatty", lambda answer=is_terminal: answer)
            monkeypatch.setattr("sys.stderr", stream)
            monitoring.configure_log(Settings())
            assert isinstance(root.handlers[0].formatter, kind)
    finally:
        root.handlers[:] = before
        root.setLevel(level)


def test_cache_info_and_clear(
    cache_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["cache", "clear"]) == 0
    assert "nothing to clear" in capsys.readouterr().out
    memo = Memo(cache_dir / "memo", 100 << 20)
    memo.put("a", b"x" * 100_000)
    memo.flush()
    assert cli.main(["cache", "info"]) == 0
    said = capsys.readouterr().out
    assert f"Schema {specs.SCHEMA}" in said
    assert "results: 1 entries, 0." in said
    assert str(cache_dir / "memo") in said
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert cli.main(["cache", "clear"]) == 1
    assert "--yes" in capsys.readouterr().err
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    monkeypatch.setattr("builtins.input", lambda _: "n")
    assert cli.main(["cache", "clear"]) == 1
    assert cli.main(["cache", "clear", "--yes"]) == 0
    # The server continues with the data that it has in memory.
    assert memo.get("a") is not None
    memo.put("b", b"y")
    memo.flush()
    assert memo.problem == ""
    memo.close()
    fresh = Memo(cache_dir / "memo", 100 << 20)
    assert fresh.get("a") is None
    assert fresh.get("b") == b"y"
    fresh.close()


def test_a_new_schema_ignores_old_entries(
    service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The schema is part of every key, so entries of the old schema are never read."""
    spec = RunSpec("fake", "echo before")
    service.ask(spec.model, spec)
    before = service.status().computed
    assert service.peek(spec.model, spec) is not None
    old = cache_key("weights", spec)
    monkeypatch.setattr(specs, "SCHEMA", specs.SCHEMA + 1)
    assert cache_key("weights", spec) != old
    assert service.peek(spec.model, spec) is None
    service.ask(spec.model, spec, Job())
    assert service.status().computed == before + 1


def test_a_defect_in_the_worker_has_the_id_of_its_log_entry(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    chosen = ServiceSettings(cache_dir=tmp_path, function=WORK)
    # Started here and not in a fixture: the worker inherits the present standard error.
    service = Service(chosen, fingerprint=lambda name, _: name)
    with pytest.raises(AnalysisError, match="Something went wrong inside the run") as caught:
        service.ask("fake", RunSpec("fake", f"bug {SECRET}"))
    service.close()
    found = re.findall(r"id ([0-9a-f]{8})", str(caught.value))
    written = capfd.readouterr().err
    (line,) = [json.loads(line) for line in written.splitlines() if "a defect in run" in line]
    assert found[0] in line["message"]
    assert line["trace"][0] == "RuntimeError"
    assert any("fake_work.py" in frame for frame in line["trace"])
    assert SECRET not in written


def test_the_page_shows_no_folder_of_the_server() -> None:
    error = ModelLoadError(
        "/srv/models/mine/config.json is not JSON.", "Copy '/srv/models/mine' again, or see a/b/c."
    )
    shown = explain(error)
    assert shown.message == "config.json is not JSON."
    assert shown.hint == "Copy 'mine' again, or see a/b/c."
    assert (
        without_folders("See https://host/a/b and /readyz.") == "See https://host/a/b and /readyz."
    )
