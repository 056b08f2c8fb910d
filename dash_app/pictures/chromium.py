"""Draws what only a browser can draw, with an installed Chromium: plotly as SVG, PNG and PDF.

Nothing is fetched: pages are files in a temporary folder, which hold all that they need.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plotly.io.json import to_json_plotly

from analysis.errors import MissingPackageError, StoreError
from dash_app.settings import ASSETS

VARIABLE = "STRATASCOPE_CHROMIUM"
#: The headless shell first: it needs a tenth of the CPU time.
NAMES = (
    "chromium-headless-shell", "chromium", "chromium-browser", "google-chrome",
    "google-chrome-stable", "chrome", "msedge",
)  # fmt: skip
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
#: Seconds that the browser may take, also on a busy machine.
_LIMIT_S = 300
#: Virtual milliseconds that a page's scripts and fonts may take.
_BUDGET_MS = 60_000
_RESULT = re.compile(r'<pre id="result">([A-Za-z0-9+/=]*)</pre>')
_DRAW = """
const figures = JSON.parse(document.getElementById("figures").textContent);
const done = (text) => {
  const bytes = new TextEncoder().encode(text);
  let binary = "";
  bytes.forEach((one) => (binary += String.fromCharCode(one)));
  document.getElementById("result").textContent = btoa(binary);
};
const draw = ({ data, layout, width, height }) =>
  Plotly.toImage({ data, layout }, { format: "svg", width, height, imageDataOnly: true });
Promise.all([...document.fonts].map((font) => font.load()))
  .then(() => Promise.all(figures.map(draw)))
  .then((made) => done(JSON.stringify(made)))
  .catch((error) => done(JSON.stringify({ error: String(error) })));
"""


def find() -> str:
    """Path of a Chromium or Chrome.

    Raises:
        MissingPackageError: If there is none.
    """
    named = os.environ.get(VARIABLE, "")
    found = shutil.which(named) if named else next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise MissingPackageError(
            "This picture needs Chromium or Chrome, which is not installed.",
            f"Install it, set {VARIABLE} to its path, or write an .html file instead.",
        )
    return found


def plotly_svgs(figures: Sequence[tuple[dict[str, Any], int, int]], fonts: str = "") -> list[str]:
    """Plotly figures as SVG texts.

    Args:
        figures: (figure, width, height) in pixels.
        fonts: Rules for ``@font-face``, with which texts are measured.

    Raises:
        MissingPackageError: If there is no Chromium.
        StoreError: If a figure could not be drawn.
    """
    if not figures:
        return []
    sized = [
        {"data": one["data"], "layout": {**one["layout"], "autosize": False, "width": wide,
                                         "height": high}, "width": wide, "height": high}
        for one, wide, high in figures
    ]  # fmt: skip
    plotly = (ASSETS / "plotly" / "plotly-cartesian.min.js").as_uri()
    page = (
        f'<!doctype html><meta charset="utf-8"><style>{fonts}</style><pre id="result"></pre>'
        f'<script type="application/json" id="figures">{script_json(sized)}</script>'
        f'<script src="{plotly}"></script><script>{_DRAW}</script>'
    )
    text = _run(page, "--dump-dom", f"--virtual-time-budget={_BUDGET_MS}")
    match = _RESULT.search(text)
    made = json.loads(base64.b64decode(match[1])) if match and match[1] else {"error": "no answer"}
    if isinstance(made, dict):
        raise StoreError(f"The browser drew no picture: {made['error']}.", "Write an .html file.")
    return [str(one) for one in made]


def png(svg: str, width: float, height: float, scale: float) -> bytes:
    """An SVG as PNG with ``scale`` pixels for each of its own."""
    page = f"<!doctype html><style>html,body{{margin:0}}svg{{display:block}}</style>{svg}"
    size = f"--window-size={int(width + 0.999)},{int(height + 0.999)}"
    return _file(page, "picture.png", "--screenshot", size, f"--force-device-scale-factor={scale}")


def pdf(svg: str, width: str, height: str) -> bytes:
    """An SVG as a PDF of one page of its size; ``width`` and ``height`` have units of CSS."""
    page = (
        "<!doctype html><style>"
        f"@page{{size:{width} {height};margin:0}}html,body{{margin:0}}"
        f"svg{{display:block;width:{width};height:{height};break-inside:avoid}}</style>{svg}"
    )
    return _file(page, "picture.pdf", "--print-to-pdf", "--no-pdf-header-footer")


def script_json(value: Any) -> str:
    """A value as JSON that can stand in a ``script`` element."""
    return str(to_json_plotly(value)).replace("<", "\\u003c")


def _run(page: str, *flags: str, folder: Path | None = None) -> str:
    browser = find()
    with tempfile.TemporaryDirectory(prefix="stratascope-") as made:
        here = folder or Path(made)
        file = here / "page.html"
        file.write_text(page, encoding="utf-8")
        profile = f"--user-data-dir={made}/profile"
        try:
            done = subprocess.run(  # noqa: S603 - the program is the user's own browser
                [browser, *_FLAGS, profile, *flags, file.as_uri()],
                capture_output=True, text=True, check=False, timeout=_LIMIT_S,
                encoding="utf-8", errors="replace", cwd=here,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise StoreError(
                f"{browser} did not draw the picture.", "Write an .html file instead."
            ) from error
    return done.stdout


def _file(page: str, name: str, flag: str, *flags: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="stratascope-") as made:
        file = Path(made) / name
        _run(page, f"{flag}={file}", *flags, folder=Path(made))
        if not file.is_file():
            raise StoreError("The browser wrote no picture.", "Write an .html file instead.")
        return file.read_bytes()
