"""Measure the time from the click on Run to the pictures, in a real browser.

    python -m benchmarks.page

It runs prompts of 16 and 64 tokens on the default model: first new, then memoised.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from tests.support import chromium

GRAPHS = ("lens-graph", "curves-graph", "attention-graph")
PICTURES = (*GRAPHS, "flow-canvas")
TEXT = (
    "When the old bridge over the river fell the people of the town met in the hall and asked who "
    "would build a new one because without it no cart could reach the market and the winter was "
    "near so they chose three masons and a young woman who had drawn plans for the mill and gave "
    "them all the stone that was left from the wall"
)
WORDS = TEXT.split()
#: (name, words): nearly every word is one token.
PROMPTS = (("16 tokens", WORDS[:16]), ("64 tokens", WORDS[:62]))
#: A figure counts when it has new data. Moving the outline redraws the old figure.
WATCH = """ids => {
  window.__drawn = [];
  window.__old = new Map();
  for (const id of ids) {
    const gd = document.querySelector('#' + id + ' .js-plotly-plot');
    gd.on('plotly_afterplot', () => {
      if (gd.data !== window.__old.get(id)) window.__drawn.push([id, performance.now()]);
    });
  }
  const flow = document.getElementById('flow-canvas');
  new MutationObserver(() => window.__drawn.push(['flow-canvas', performance.now()]))
    .observe(flow, { attributes: true, attributeFilter: ['data-drawn'] });
}"""
START = """ids => {
  for (const id of ids) {
    window.__old.set(id, document.querySelector('#' + id + ' .js-plotly-plot').data);
  }
  window.__drawn.length = 0;
  window.__t0 = performance.now();
}"""


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve(folder: str, port: int) -> subprocess.Popen[bytes]:
    """Start a server with an empty memo."""
    env = {**os.environ, "STRATASCOPE_CACHE_DIR": folder, "STRATASCOPE_PORT": str(port)}
    return subprocess.Popen([sys.executable, "-m", "dash_app"], env=env)


def wait_for_drawings(page: Page) -> list[list[Any]]:
    """Wait until nothing is drawn for two seconds, and return all drawings since the start."""
    seen, since = -1, time.monotonic()
    while time.monotonic() - since < 2.0:
        count = page.evaluate("() => window.__drawn.length")
        if count != seen:
            seen, since = count, time.monotonic()
        page.wait_for_timeout(50)
    drawn: list[list[Any]] = page.evaluate(
        "() => window.__drawn.map(([id, at]) => [id, at - window.__t0])"
    )
    return drawn


def measure_run(page: Page, text: str) -> tuple[float, float]:
    """Return the seconds from the click on Run to the first heatmap, and to the last picture."""
    page.fill("#run-prompt", text)
    page.wait_for_timeout(400)
    page.evaluate(START, list(GRAPHS))
    page.click("#run-button")
    page.wait_for_function(
        "ids => ids.every(id => window.__drawn.some(([drawn]) => drawn === id))",
        arg=list(PICTURES),
        timeout=120_000,
    )
    drawn = wait_for_drawings(page)
    first = min(at for name, at in drawn if name == "lens-graph")
    last = max(max(at for name, at in drawn if name == graph) for graph in PICTURES)
    return first / 1000, last / 1000


def measure(page: Page) -> None:
    """Print one line for each prompt, new and memoised."""
    page.wait_for_selector("#flow-canvas .flow-link", timeout=180_000)
    page.wait_for_timeout(3000)
    page.evaluate(WATCH, list(GRAPHS))
    for state in ("new", "memoised"):
        for name, words in PROMPTS:
            first, last = measure_run(page, " ".join(words))
            print(f"{name}, {state:9}: first heatmap {first:5.2f} s, all views {last:5.2f} s")


def main() -> None:
    """Start the server, open the page and measure."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        port = free_port()
        server = serve(folder, port)
        browser = playwright.chromium.launch(
            executable_path=chromium.find(), args=list(chromium.FLAGS)
        )
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            _open(page, f"http://127.0.0.1:{port}/")
            measure(page)
        finally:
            browser.close()
            server.terminate()
            server.wait(30)
    sys.stdout.flush()


def _open(page: Page, url: str) -> None:
    for _ in range(120):
        try:
            page.goto(url)
        except Exception:  # noqa: BLE001 - the server does not listen yet
            time.sleep(0.5)
        else:
            return
    raise TimeoutError(f"No server answers at {url} after a minute.")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    main()
