"""The arrangement of the page in a browser test: side sheets, panes and pages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import expect


def open_sheet(page: Any, pane: str) -> Any:
    """Open the options of a pane, unless they are open; returns the side sheet."""
    sheet = page.locator(f"#sheet-{pane}")
    if sheet.count() == 0:
        page.locator(f"[data-sheet=sheet-{pane}]").click()
    expect(sheet).to_have_css("transform", "none")  # it slides in
    return sheet


def close_sheet(page: Any) -> None:
    """Close the side sheet."""
    page.locator(".offcanvas.show .btn-close").click()
    expect(page.locator(".offcanvas")).to_have_count(0)


@contextmanager
def sheet_of(page: Any, pane: str) -> Iterator[Any]:
    """The open side sheet of a pane, which is closed at the end."""
    yield open_sheet(page, pane)
    close_sheet(page)


def open_pane(page: Any, pane: str) -> None:
    """Put a pane on top of its panel."""
    page.locator(f"[data-pane={pane}]").click()
    expect(page.locator(f"#pane-{pane}")).to_be_visible()


def inspect(page: Any, name: str) -> None:
    """Show a part of the inspector: "cell", "link" or "promoted"."""
    page.locator(f"[data-inspect={name}]").click()
    expect(page.locator(f"#inspect-{name}")).to_be_visible()
