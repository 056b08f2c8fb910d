"""A small suite in a real browser on the shipped adder: run it, see it, open a prompt of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.real]


def test_a_suite_is_run_seen_and_opened(visit: Callable[..., Any]) -> None:
    page = visit("?model=addition-5digit&prompt=99999%2B00001%3D&new=7")
    page.locator("#tasks-size").fill("8")
    page.locator("#tasks-size").press("Tab")
    page.locator("#tasks-run").click()
    expect(page.locator("#tasks-summary")).to_contain_text("8 of 8 right", timeout=120_000)
    dots = page.locator("#tasks-prompts .points path")
    expect(dots).to_have_count(8)
    page.locator("#tasks-prompts").scroll_into_view_if_needed()
    box = dots.nth(3).bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator("#tasks-prompts .hoverlayer")).to_contain_text("says")
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page).to_have_url(re.compile(r"prompt=\d{5}%2B\d{5}%3D"), timeout=30_000)
    expect(page).not_to_have_url(re.compile("99999"), timeout=30_000)
