"""Finds a Chromium for the browser tests; ``tools/chromium.py`` installs one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

#: Kept from calling home: its tests must not depend on a network.
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
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find() -> str:
    """Path of a Chromium or Chrome.

    Raises:
        FileNotFoundError: If there is none, saying how to get one.
    """
    named = os.environ.get("STRATASCOPE_CHROMIUM")
    if named:
        if Path(named).is_file():
            return named
        raise FileNotFoundError(f"STRATASCOPE_CHROMIUM names {named}, which does not exist.")
    for name in NAMES:
        if path := shutil.which(name):
            return path
    if own := _playwrights_own():
        return own
    raise FileNotFoundError(
        "No Chromium is here. Run make chromium, or set STRATASCOPE_CHROMIUM to one."
    )


def _playwrights_own() -> str:
    """The browser that ``playwright install chromium`` fetched, or ''."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).is_file() else ""
