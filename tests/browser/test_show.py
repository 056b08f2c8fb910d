"""``analysis.show``: a notebook on this machine shows the page in a frame, other sites can't."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

import analysis
from analysis.worker import engine
from dash_app import notebook
from tests.support import built, tiny
from tests.support.browser_pages import new_context, new_page

pytestmark = [
    pytest.mark.browser,
    pytest.mark.full,
    # Flask leaves the files that it sends to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

CELLS = """() => {
    const plot = document.querySelector("#lens-graph .js-plotly-plot");
    return plot && plot.data ? Array.from(plot.data[0].z, (row) => Array.from(row)) : null;
}"""
DRAWN = "#lens-graph .heatmaplayer image"


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Write nothing."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The address at which a notebook's server would serve ``tmp_path``."""
    web = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(tmp_path)))
    Thread(target=web.serve_forever, daemon=True).start()
    yield f"http://localhost:{web.server_port}/"
    web.shutdown()
    web.server_close()
    notebook.close_all()


def test_a_frame_on_this_machine_reaches_the_heatmap_of_the_loaded_model(
    browser: Any, served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "load_model", None)  # a second load fails
    model = built.understood(tiny.tiny_llama(), "llama")
    trace = analysis.trace(model, "the capital of the")
    shown = analysis.show(model, trace)
    html = f"<!doctype html><title>Notebook</title>{notebook.frame(shown.url, 800, '100%')}"
    (tmp_path / "notebook.html").write_text(html, encoding="utf-8")
    context = new_context(browser)
    console: list[str] = []
    page = new_page(context, console)
    page.goto(f"{served}notebook.html")
    frame = page.wait_for_selector("iframe").content_frame()
    frame.wait_for_selector(DRAWN, state="attached")
    probs = np.array(frame.evaluate(CELLS))
    wanted = analysis.decode(model, trace).probs[:, :, 0]
    assert probs.shape == wanted.shape
    np.testing.assert_allclose(probs, wanted, atol=1e-6)
    assert console == []
    both = f"{html}<iframe src='{served}plain.html'></iframe>"
    (tmp_path / "both.html").write_text(both, encoding="utf-8")
    (tmp_path / "plain.html").write_text("<!doctype html><p>Any page may frame this one.</p>")
    page.goto(f"{served.replace('//', '//another.')}both.html")  # browsers look it up here, too
    _, refused, plain = page.frames
    plain.wait_for_selector("p")
    assert refused.url == "chrome-error://chromewebdata/"
    context.close()
