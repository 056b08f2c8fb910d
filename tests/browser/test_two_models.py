"""Model B on the page Compare: the numbers of ``analysis.compare``, the link, and other tokens."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import expect

import analysis
from tests.support import tiny
from tests.support.browser_pages import new_context, new_page
from tests.support.servers import Servers, loaded
from tests.support.time_limits import PATIENCE_S

pytestmark = [pytest.mark.browser, pytest.mark.full]
PROMPT = "12345+67890="
CAPTION = "#apart-caption"
CELLS = """() => document.querySelector("#apart-graph .js-plotly-plot")
    .calcdata.map(([one]) => one.z.map((line) => Array.from(line)))"""


@pytest.fixture(scope="module")
def offered(tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of two models with one tokenizer, and of the built-in ones."""
    other = tiny.save(tiny.tiny_llama(seed=1), tmp_path_factory.mktemp("two"))
    models = f"one={tiny_llama_dir},two={other}"
    with (
        pytest.MonkeyPatch.context() as patch,
        Servers(tmp_path_factory.mktemp("served"), MODELS=models, DEFAULT_MODEL="one") as running,
    ):
        patch.setenv("STRATASCOPE_MODELS", models)
        loaded(running.url, running.log)
        yield running.url


def require_cells(page: Any, wanted: Any, heatmap: int = 0) -> None:
    """Wait until a heatmap shows these values; plotly draws after the caption."""
    late = time.monotonic() + PATIENCE_S
    while True:
        drawn = page.evaluate(CELLS)
        now = np.array(drawn[heatmap]) if len(drawn) > heatmap else np.zeros(0)
        if now.shape == wanted.shape and np.allclose(now, wanted, rtol=0, atol=1e-5):
            return
        assert time.monotonic() < late, f"{drawn} is not {wanted.tolist()}"
        page.wait_for_timeout(100)


def choose(page: Any, name: str) -> None:
    page.locator("#menu-other > summary").click()
    page.locator(f"#menu-other [data-go^='other={name}&']").click()
    expect(page).to_have_url(re.compile(f"other={name}&.*panes=difference"))


def test_model_b_shows_the_numbers_of_compare_and_survives_in_the_link(
    browser: Any, offered: str
) -> None:
    console: list[str] = []
    context = new_context(browser)
    page = new_page(context, console)
    page.goto(offered + "?page=compare")
    page.locator("#compare-clean").fill(PROMPT)
    page.locator("#compare-clean").press("Enter")
    expect(page).to_have_url(re.compile("clean=12345"))
    choose(page, "two")
    expect(page.locator(CAPTION)).to_contain_text("A is one, B is two. KL(A ‖ B)")
    expect(page.locator("#compare-message")).to_have_text("")
    models = [analysis.load_model(name) for name in ("one", "two")]
    found = analysis.compare(models[0], PROMPT, other=models[1], alignment="position")
    require_cells(page, found.kl)
    page.get_by_role("button", name="Show: Model B").click()
    expect(page.locator(CAPTION)).to_contain_text("in model B")
    require_cells(page, found.b_probs[..., 0])
    shown = page.locator(CAPTION).inner_text()
    page.reload()
    expect(page.locator(CAPTION)).to_have_text(shown)
    expect(page.locator("#menu-other .menu-value")).to_have_text("two")
    choose(page, "addition-5digit")
    expect(page.locator(CAPTION)).to_contain_text("one has 3 layers and addition-5digit has 2.")
    adder = analysis.load_model("addition-5digit")
    grid = analysis.decode(adder, analysis.trace(adder, PROMPT))
    require_cells(page, grid.probs[..., 0], 1)
    page.locator("#compare-clean").fill("the capital")
    page.locator("#compare-clean").press("Enter")
    expect(page.locator("#compare-message")).to_contain_text("Model B can't be used. Prompt A has")
    context.close()
    assert console == []
