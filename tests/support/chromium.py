"""Finds a Chromium for the browser tests; ``tools/chromium.py`` installs one."""

from __future__ import annotations

from pathlib import Path

from tests.support.find_program import located

#: No background requests: the tests must not depend on a network.
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
VARIABLE = "STRATASCOPE_CHROMIUM"
#: The headless shell first: it needs a tenth of the CPU time.
NAMES = (
    "chromium-headless-shell",
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
)


def find() -> str:
    """Path of a Chromium or Chrome.

    Raises:
        FileNotFoundError: If there is none, saying how to get one.
    """
    if path := located(VARIABLE, NAMES) or _playwrights_own():
        return path
    raise FileNotFoundError(f"No Chromium is here. Run make chromium, or set {VARIABLE} to one.")


def _playwrights_own() -> str:
    """The browser that ``playwright install chromium`` fetched, or ''."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).is_file() else ""
