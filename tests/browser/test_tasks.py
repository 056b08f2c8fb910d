"""The tasks panel in a real browser on the shipped adder: run, look, click through, upload."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from analysis.tasks.sum_specs import ContributionSpec

pytestmark = [pytest.mark.browser, pytest.mark.real]
START = "?model=addition-5digit&prompt=99999%2B00001%3D&new=7&page=tasks"
BAD = "prompt,answer\n12345+11111=,023456\n,x\n11111+22222=,\n"
GOOD = "prompt,answer,kind\n12345+11111=,023456,right\n12346+11111=,023999,wrong\n"


def opened(revisit: Callable[..., Any]) -> Any:
    """The page with the panel's own controls set for the adder."""
    page = revisit(START)
    expect(page.locator("#run-model")).to_have_value("addition-5digit")
    expect(page.locator("#tasks-projection-component")).to_have_value("row 1")
    return page


def still(page: Any) -> None:
    """Wait until no progress bar will disappear and move the elements below it."""
    page.wait_for_selector(".job.is-busy", state="detached")


def ready(page: Any, report: str) -> Any:
    """Wait for a report's figures."""
    name = "tasks" if report == "suite" else f"tasks-{report}"
    figures = page.locator(f"#{name}-figures .js-plotly-plot .main-svg")
    expect(figures.first).to_be_attached()
    return page.locator(f"#{name}-figures")


def fill(page: Any, name: str, value: int) -> None:
    page.locator(f"#{name}").fill(str(value))
    page.locator(f"#{name}").press("Tab")


def test_a_suite_runs_is_drawn_and_opens_a_prompt(revisit: Callable[..., Any]) -> None:
    page = opened(revisit)
    expect(page.locator("#tasks-sum")).to_contain_text("30912+91989=")
    fill(page, "tasks-size", 8)
    page.locator("#tasks-run").click()
    expect(page.locator("#tasks-summary")).to_contain_text("8 of 8 right")
    page.wait_for_url("**prompts=8*")
    page.reload()  # the address names the report, and the server still has it
    expect(page.locator("#tasks-summary")).to_contain_text("8 of 8 right")
    expect(page.locator("#tasks-size")).to_have_value("8")
    dots = page.locator("#tasks-prompts .points path")
    expect(dots).to_have_count(8)
    still(page)
    page.locator("#tasks-prompts").scroll_into_view_if_needed()
    box = dots.nth(3).bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator("#tasks-prompts .hoverlayer")).to_contain_text("answer: ")
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page).to_have_url(re.compile(r"prompt=\d{5}%2B\d{5}%3D"))
    expect(page).not_to_have_url(re.compile("99999"))
    expect(page.locator("#page-explore")).to_be_visible()
    expect(page.locator("#lens-graph-box")).to_be_focused()


def test_reports_on_sums_are_drawn_clicked_and_downloaded(revisit: Callable[..., Any]) -> None:
    page = opened(revisit)
    for report, size in (("contributions", 8), ("probes", 60), ("projection", 30), ("patching", 5)):
        fill(page, f"tasks-{report}-size", size)
        page.locator(f"#tasks-{report}-run").click()
        ready(page, report)
    page.locator("#tasks-circuits-run").click()
    ready(page, "circuits")
    expect(page.locator("#tasks-circuits-summary")).to_contain_text("head 0.0 makes carries")
    with page.expect_download() as told:
        page.locator("[data-report='contributions:csv-logits']").click()
    rows = list(csv.DictReader(io.StringIO(Path(told.value.path()).read_text())))
    assert {row["part"] for row in rows} >= {"head 0.0", "mlp 1", "embedding"}
    assert {row["sums"] for row in rows if row["column"] == "0"} == {
        str(ContributionSpec("m", sums=8).sums), "0",
    }  # fmt: skip
    still(page)
    cells = page.locator("#tasks-contributions-figures .nsewdrag").first
    cells.scroll_into_view_if_needed()
    box = cells.bounding_box()  # the last row is MLP 1, the last column the first digit's carry
    page.mouse.click(box["x"] + 10, box["y"] + box["height"] - 8)
    expect(page).to_have_url(re.compile(r"row=2&pos=16&layer=1"))
    expect(page.locator("#page-explore")).to_be_visible()


@pytest.mark.full
def test_a_bad_list_is_refused_line_by_line_and_a_good_one_runs(
    revisit: Callable[..., Any],
) -> None:
    page = opened(revisit)
    fill(page, "tasks-size", 8)
    page.locator("#tasks-run").click()
    expect(page.locator("#tasks-summary")).to_contain_text("8 of 8 right")
    file = page.locator("#tasks-upload input[type=file]")
    file.set_input_files({"name": "bad.csv", "mimeType": "text/csv", "buffer": BAD.encode()})
    said = page.locator("#tasks-upload-said")
    expect(said).to_contain_text("Line 3: the prompt is empty")
    expect(said).to_contain_text("Line 4: the answer is empty")
    expect(page.locator("#tasks-summary")).to_contain_text("8 of 8 right")
    expect(page.locator("#tasks-prompts .points path")).to_have_count(8)
    file.set_input_files({"name": "good.csv", "mimeType": "text/csv", "buffer": GOOD.encode()})
    expect(said).to_contain_text("good.csv: 2 prompts")
    expect(page.locator("#tasks-suite option:checked")).to_contain_text("Own list: good.csv")
    page.locator("#tasks-run").click()
    expect(page.locator("#tasks-summary")).to_contain_text("1 of 2 right")
    page.locator("#tasks-failure-run").click()
    expect(page.locator("#tasks-failure-summary")).to_contain_text("answer '0234'")
    expect(ready(page, "failure")).to_contain_text("Links whose flow differs most")
