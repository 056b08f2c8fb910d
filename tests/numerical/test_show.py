"""``analysis.show`` serves the page on the loaded model, and lets notebooks alone frame it."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

import analysis
from analysis.contract.jobs import Job, Priority, check_cancelled, pause, step
from analysis.errors import AnalysisError, CancelledError, DeadlineError, SpecError
from analysis.export.in_process import InProcess
from analysis.interventions import Ablate
from analysis.lens.specs import LensSpec
from analysis.tracing.specs import TraceSpec
from analysis.worker import engine
from analysis.worker.messages import Answer, Request
from dash_app import notebook
from tests.numerical.conftest import Case
from tests.support.time_limits import PATIENCE_S

TEXT = "the capital of the"


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    yield
    notebook.close_all()


def fetched(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as response:  # noqa: S310 - our own server
        return response.status, response.headers, response.read().decode()


def test_the_page_is_served_on_the_loaded_model_until_it_is_closed(
    llama: Case, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine, "load_model", None)  # a second load fails
    monkeypatch.setenv("STRATASCOPE_LOGIN", "users")  # a setting of a server
    hooks = set(llama.model.hf._forward_pre_hooks)
    trace = analysis.trace(llama.model, TEXT)
    page = analysis.show(llama.model, trace)
    assert capsys.readouterr().out == f"Stratascope is at {page.url}\n"  # no notebook
    asked = parse_qs(urlsplit(page.url).query)
    assert (asked["prompt"], asked["new"], asked["model"]) == ([TEXT], ["0"], ["llama"])
    status, headers, text = fetched(page.url)
    assert status == 200
    assert "<title>Stratascope</title>" in text
    assert "X-Frame-Options" not in headers
    (frames,) = (
        part for part in headers["Content-Security-Policy"].split("; ") if "frame-anc" in part
    )
    assert set(frames.split()[1:]) == {
        "http://127.0.0.1:*", "http://localhost:*", "vscode-webview:", "vscode-file:"
    }  # fmt: skip
    server = page._server
    grid = server.loaded.service.ask(TraceSpec("llama", trace.token_ids), LensSpec())
    np.testing.assert_array_equal(grid.probs, analysis.decode(llama.model, trace).probs)
    again = analysis.show(llama.model, "?prompt=the&row=1")
    assert again._server is server
    assert "row=1" in again.url
    again.close()
    page.close()  # closing twice does nothing
    assert set(llama.model.hf._forward_pre_hooks) <= hooks
    with pytest.raises(OSError, match="refused"):
        fetched(page.url)
    assert not [one for one in threading.enumerate() if one.name == "stratascope-page"]


def test_what_is_shown_is_a_trace_with_edits_a_recipe_or_a_file(
    llama: Case, tmp_path: Path
) -> None:
    trace = analysis.trace(llama.model, TEXT, Ablate("mlp_output", 1))
    shown = parse_qs(urlsplit(analysis.show(llama.model, trace).url).query)
    assert shown["edits"] == ["ablate:mlp_output:1:all:all:zero"]
    made = analysis.recipe(llama.model, trace, LensSpec())
    (tmp_path / "made.json").write_text(json.dumps(made.as_json()))
    for source in (made, tmp_path / "made.json"):
        page = analysis.show(llama.model, source)
        assert parse_qs(urlsplit(page.url).query) == shown
        assert page.drift == ()


@pytest.mark.parametrize(
    ("at", "options", "said"),
    [
        ("no link", {}, "neither a link"),
        ("?prompt=a&nothing=1", {}, "without meaning: nothing"),
        ("?prompt=a&model=another", {}, "belongs to the model another"),
        (None, {"height": 10}, "10 pixels high"),
        (None, {"width": "wide"}, "wide wide"),
    ],
)
def test_what_can_not_be_shown_is_explained(
    llama: Case, at: Any, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(SpecError, match=said):
        analysis.show(llama.model, at, **options)


def test_a_trace_of_another_model_or_without_a_text_is_refused(llama: Case, gpt2: Case) -> None:
    with pytest.raises(SpecError, match="made with gpt2"):
        analysis.show(llama.model, gpt2.trace)
    tokenizer = llama.model.tokenizer
    letters = [tokenizer(one, add_special_tokens=False)["input_ids"][0] for one in " the"]
    assert len(letters) > len(tokenizer(" the", add_special_tokens=False)["input_ids"])
    with pytest.raises(SpecError, match="not those of any text"):
        analysis.show(llama.model, analysis.trace(llama.model, letters))


def test_a_model_whose_weights_changed_is_refused(gpt2: Case) -> None:
    page = analysis.show(gpt2.model)
    bias = gpt2.model.hf.transformer.ln_f.bias
    bias.add_(0)
    with pytest.raises(AnalysisError, match="weights of gpt2 have changed"):
        page._server.loaded.service.ask(TraceSpec("gpt2", (1, 2)), LensSpec())
    with pytest.raises(AnalysisError, match="weights of gpt2 have changed"):
        analysis.show(gpt2.model)


def test_a_notebook_shows_a_frame(llama: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    import IPython
    import IPython.display

    shown: list[dict[str, str]] = []
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setattr(IPython.display, "display", lambda data, raw: shown.append(data))
    page = analysis.show(llama.model, '?prompt=a b&find="><b>', height=500, width=900)
    (data,) = shown
    assert data["text/plain"] == page.url
    assert 'width="900" height="500"' in data["text/html"]
    assert data["text/html"].startswith(f'<iframe src="{page.url.replace("&", "&amp;")}"')
    assert "<b>" not in data["text/html"]


class Held:
    """A backend whose requests report, pause and end when the test says so."""

    def __init__(self) -> None:
        self.events = {name: threading.Event() for name in ("began", "pause", "end")}
        self.order: list[str] = []
        self.memo: dict[str, bytes] = {}
        self.backend = InProcess(
            self.perform, lambda key, _request, answer: self.memo.update({key: answer.data}),
            self.memo.get,
        )  # fmt: skip

    def perform(self, request: Request) -> Answer:
        self.order.append(f"{request.kind} begins")
        if request.kind == "long":
            self.events["began"].set()
            assert self.events["pause"].wait(PATIENCE_S)
            pause()
            check_cancelled()
            step(1, 2, "Halfway")
        self.order.append(f"{request.kind} ends")
        return Answer(request.kind.encode(), "f")

    def ask(self, kind: str, job: Job, deadline_s: float = 1e6) -> Answer:
        return self.backend.ask(kind, Request(kind, "m", "f"), job, deadline_s)

    def in_thread(self, kind: str, job: Job) -> tuple[threading.Thread, list[Any]]:
        found: list[Any] = []

        def work() -> None:
            try:
                found.append(self.ask(kind, job))
            except AnalysisError as error:
                found.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        return thread, found


def test_a_click_goes_first_when_long_work_pauses() -> None:
    held = Held()
    waits = threading.Event()
    reported: list[Any] = []

    def report(progress: Any) -> None:
        reported.append(progress)
        waits.set()

    slow, long = held.in_thread("long", Job(priority=Priority.LONG, on_progress=reported.append))
    assert held.events["began"].wait(PATIENCE_S)
    fast, click = held.in_thread("click", Job(on_progress=report))
    assert waits.wait(PATIENCE_S)
    assert held.backend.queued == 1
    held.events["pause"].set()
    for thread in (fast, slow):
        thread.join(PATIENCE_S)
    assert held.order == ["long begins", "click begins", "click ends", "long ends"]
    assert (long[0].data, click[0].data) == (b"long", b"click")
    assert {one.label for one in reported} == {"Waiting", "Halfway"}
    assert held.ask("long", Job()).data == b"long"  # from the memo
    assert held.order.count("long begins") == 1


def test_a_request_is_cancelled_late_or_closed() -> None:
    held = Held()
    held.events["pause"].set()
    job = Job()
    job.cancel()
    with pytest.raises(CancelledError):
        held.ask("long", job)
    with pytest.raises(DeadlineError):
        held.ask("long", Job(), deadline_s=0.0)
    held.events["pause"].clear()
    held.events["began"].clear()
    job = Job()
    thread, found = held.in_thread("long", job)
    assert held.events["began"].wait(PATIENCE_S)
    job.cancel()
    held.events["pause"].set()
    thread.join(PATIENCE_S)
    assert isinstance(found[0], CancelledError)
    held.backend.close()
    with pytest.raises(CancelledError, match="closed"):
        held.ask("click", Job())
