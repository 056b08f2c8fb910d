"""Measure how fast the page answers, in a real browser, beside the figures of an older page.

    python -m benchmarks.page

It opens the example, moves the selected cell by keys, and then runs prompts of 16 and 64 tokens on
the default model: first new, then memoised. The machine must be quiet.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from playwright.sync_api import Page, sync_playwright

import analysis
from dash_app.settings import Settings
from tests.support import chromium

#: What this command printed for the page of commit 52805c4, which sent a request for each view. The
#: machine was not quiet (load 11 on two cores), so compare the counts, and measure times anew.
BEFORE = {
    "resources": "40",
    "compressed size": "1.92 MB",
    "elements": "3,469",
    "requests for a move": "18",
    "outline of a move": "208 ms",
    "last view of a move": "1912 ms",
    "16 tokens, new, first heatmap": "3.10 s",
    "16 tokens, new, all views": "5.10 s",
    "64 tokens, new, first heatmap": "4.30 s",
    "64 tokens, new, all views": "8.74 s",
    "16 tokens, memoised, first heatmap": "2.49 s",
    "16 tokens, memoised, all views": "3.89 s",
    "64 tokens, memoised, first heatmap": "1.71 s",
    "64 tokens, memoised, all views": "13.83 s",
}
GRAPHS = ("lens-graph", "curves-graph", "attention-graph", "flow-graph")
TEXT = (
    "When the old bridge over the river fell the people of the town met in the hall and asked who "
    "would build a new one because without it no cart could reach the market and the winter was "
    "near so they chose three masons and a young woman who had drawn plans for the mill and gave "
    "them all the stone that was left from the wall"
)
WORDS = TEXT.split()
#: (name, words): nearly every word is one token.
PROMPTS = (("16 tokens", WORDS[:16]), ("64 tokens", WORDS[:62]))
#: One round of moves; after the first round all of them are memoised.
KEYS = ("ArrowUp", "ArrowLeft", "ArrowDown", "ArrowRight")
ROUNDS = 5
#: Milliseconds without a change after which a move has ended.
QUIET_MS = 700
#: Bounds of the page, in the same words as its figures.
BOUNDS = {
    "requests for a move": "at most 2",
    "outline of a move": "at most 50 ms",
    "last view of a move": "at most 250 ms",
    "64 tokens, memoised, all views": "at most 0.60 s",
    "resources": "at most 60",
    "compressed size": "at most 1.2 MB",
    "elements": "at most 1,500",
}
#: The name of the time that a new run has to its first column: 1.2 forward passes and 0.4 s.
FIRST_COLUMN = "64 tokens, new, first heatmap"
#: Every time is taken in the browser: from the event, as the browser got it, to the frame that has
#: the change. A message that is sent in a frame arrives when the frame is painted.
PAINTED = """callback => requestAnimationFrame(() => {
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = () => callback(performance.now());
  port2.postMessage(0);
})"""
#: A figure counts when it has new data.
WATCH = f"""ids => {{
  const painted = {PAINTED};
  window.__drawn = [];
  window.__old = new Map();
  for (const id of ids) {{
    const gd = document.querySelector('#' + id + ' .js-plotly-plot');
    gd.on('plotly_afterplot', () => {{
      if (gd.data !== window.__old.get(id)) painted(at => window.__drawn.push([id, at]));
    }});
  }}
  addEventListener('click', event => {{
    if (event.target.closest('#run-button')) window.__t0 = event.timeStamp;
  }}, true);
}}"""
START = """ids => {
  for (const id of ids) {
    window.__old.set(id, document.querySelector('#' + id + ' .js-plotly-plot').data);
  }
  window.__drawn.length = 0;
}"""
#: For a move: when the key was pressed, when the outline moved, when a view last changed.
WATCH_MOVES = """() => {
  const painted = PAINTED;
  const views = ['lens-inspector', 'lens-adds', 'curves-graph', 'curves-facts', 'attention-graph',
    'attention-heads', 'contributions-table', 'flow-graph', 'tokens-strip', 'story-text'];
  const move = window.__move = { key: 0, outline: 0, last: 0 };
  addEventListener('keydown', event => Object.assign(move, {
    key: event.timeStamp, outline: 0, last: 0 }), true);
  const outline = () => painted(at => (move.outline ||= at));
  for (const shapes of document.querySelectorAll('#lens-graph .shapelayer')) {
    new MutationObserver(outline).observe(shapes, {
      childList: true, subtree: true, attributes: true });
  }
  const watch = new MutationObserver(() => painted(at => (move.last = at)));
  for (const id of views) {
    const view = document.getElementById(id);
    if (view) watch.observe(view, { childList: true, subtree: true, attributes: true,
      characterData: true });
  }
}""".replace("PAINTED", PAINTED)


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve(folder: str, port: int) -> subprocess.Popen[bytes]:
    """Start a server with an empty memo."""
    env = {**os.environ, "STRATASCOPE_CACHE_DIR": folder, "STRATASCOPE_PORT": str(port)}
    return subprocess.Popen([sys.executable, "-m", "dash_app"], env=env)


def is_callback(request: Any) -> bool:
    """Whether a request calls a callback."""
    return "_dash-update-component" in request.url


def opened(page: Page, url: str) -> dict[str, str]:
    """Open the page and return its size: resources, compressed bytes, elements."""
    received: list[Any] = []

    def note(request: Any) -> None:
        received.append(request)

    page.on("requestfinished", note)
    for _ in range(120):
        try:
            page.goto(url)
            break
        except Exception:  # noqa: BLE001 - the server does not listen yet
            time.sleep(0.5)
    else:
        raise TimeoutError(f"No server answers at {url} after a minute.")
    page.wait_for_selector("#flow-graph .scatterlayer .point", state="attached", timeout=180_000)
    page.wait_for_timeout(3000)
    page.remove_listener("requestfinished", note)
    files = [one for one in received if not is_callback(one)]
    size = sum(one.sizes()["responseBodySize"] for one in files)
    elements = page.evaluate("() => document.querySelectorAll('*').length")
    return {
        "resources": str(len(files)),
        "compressed size": f"{size / 1e6:.2f} MB",
        "elements": f"{elements:,}",
    }


def measure_move(page: Page, key: str) -> tuple[int, float, float]:
    """Return the requests of a move, and the milliseconds to its outline and to the last view."""
    sent: list[Any] = []

    def note(request: Any) -> None:
        sent.append(request)

    page.on("request", note)
    page.keyboard.press(key)
    while True:
        page.wait_for_timeout(50)
        found = page.evaluate("() => ({ ...window.__move, now: performance.now() })")
        if found["now"] - max(found["last"], found["key"]) > QUIET_MS:
            break
    page.remove_listener("request", note)
    start = found["key"]
    return (
        sum(is_callback(one) for one in sent),
        max(found["outline"], start) - start,
        max(found["last"], start) - start,
    )


def measure_moves(page: Page) -> dict[str, str]:
    """Return the medians of 20 moves between memoised cells."""
    page.evaluate(WATCH_MOVES)
    page.evaluate("() => document.activeElement?.blur()")
    for key in KEYS:
        measure_move(page, key)
        page.wait_for_timeout(3000)
    moves = [measure_move(page, key) for _ in range(ROUNDS) for key in KEYS]
    requests, outline, last = (statistics.median(column) for column in zip(*moves, strict=True))
    return {
        "requests for a move": f"{requests:g}",
        "outline of a move": f"{outline:.0f} ms",
        "last view of a move": f"{last:.0f} ms",
    }


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
        arg=list(GRAPHS),
        timeout=120_000,
    )
    drawn = wait_for_drawings(page)
    first = min(at for name, at in drawn if name == "lens-graph")
    last = max(max(at for name, at in drawn if name == graph) for graph in GRAPHS)
    return first / 1000, last / 1000


def measure_runs(page: Page) -> dict[str, str]:
    """Return the times of every prompt, new and memoised."""
    page.evaluate(WATCH, list(GRAPHS))
    found = {}
    for state in ("new", "memoised"):
        for name, words in PROMPTS:
            first, last = measure_run(page, " ".join(words))
            found[f"{name}, {state}, first heatmap"] = f"{first:.2f} s"
            found[f"{name}, {state}, all views"] = f"{last:.2f} s"
    return found


def forward_pass() -> float:
    """Return the seconds of a pass of the default model over the longest prompt, least of five."""
    model = analysis.load_model(Settings().default_model)
    ids = model.tokenizer(" ".join(PROMPTS[-1][1]), return_tensors="pt")["input_ids"]
    times = []
    with torch.no_grad():
        for _ in range(6):
            start = time.perf_counter()
            model.hf(input_ids=ids, use_cache=False)
            times.append(time.perf_counter() - start)
    return min(times[1:])


def show(found: dict[str, str], seconds: float) -> None:
    """Print the figures beside those of the older page, and their bounds.

    ``seconds`` is the time of a forward pass.
    """
    bounds = {**BOUNDS, FIRST_COLUMN: f"at most {1.2 * seconds + 0.4:.2f} s"}
    print(f"{'':36} {'now':>10} {'before':>10}  bound")
    for name, value in found.items():
        print(f"{name:36} {value:>10} {BEFORE.get(name, ''):>10}  {bounds.get(name, '')}")
    print(f"A forward pass of 64 tokens takes {seconds:.2f} s.")


def main() -> None:
    """Start the server, open the page and measure."""
    seconds = forward_pass()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        port = free_port()
        server = serve(folder, port)
        browser = playwright.chromium.launch(
            executable_path=chromium.find(), args=list(chromium.FLAGS)
        )
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            found = opened(page, f"http://127.0.0.1:{port}/")
            show({**found, **measure_moves(page), **measure_runs(page)}, seconds)
        finally:
            browser.close()
            server.terminate()
            server.wait(30)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    main()
