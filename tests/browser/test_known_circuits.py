"""A model with a known circuit in a real browser: the component graph, and the check of a suite."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

import analysis

pytestmark = [pytest.mark.browser, pytest.mark.full]
Visit = Callable[..., Any]
NAME = "induction-by-hand"
CAPTION = "#components-caption"


def choose(page: Any, option: str) -> None:
    """Press a switch of the pane."""
    page.get_by_role("button", name=option, exact=True).click()


@pytest.mark.parametrize("dark", [False, True])
def test_the_component_graph_and_its_options(visit: Visit, dark: bool) -> None:
    circuit = analysis.known_circuit(NAME)
    pair = f"clean={circuit.clean}&corrupted={circuit.corrupted}&answer={circuit.answer}"
    page = visit(f"?model={NAME}&page=compare&{pair}&against={circuit.foil}", dark=dark)
    page.locator("[data-pane=components]").click()
    expect(page.locator(CAPTION)).to_contain_text("9.93 with all edges")
    expect(page.locator(CAPTION)).to_contain_text("edges keep 100 %")
    choose(page, "Measured edges: 10")
    expect(page).to_have_url(re.compile("measured=10"))
    expect(page.locator(CAPTION)).to_contain_text("10 are measured")
    expect(page.locator(CAPTION)).to_contain_text("edges keep 100 %")
    choose(page, "Positions: Summed")
    expect(page.locator(CAPTION)).to_contain_text("of 46 edges")
    choose(page, "Score: Integrated gradient")
    expect(page).to_have_url(re.compile("edge_score=integrated"))
    expect(page.locator(CAPTION)).to_contain_text("edges keep 100 %")
    shown = page.locator(CAPTION).inner_text()
    again = visit("?" + page.url.partition("?")[2])
    expect(again.locator(CAPTION)).to_have_text(shown)
    choose(again, "Cut edges carry: Mean")
    expect(again).to_have_url(re.compile("cut_by=mean"))
    expect(again.locator(CAPTION)).not_to_have_text(shown)


def test_the_links_of_a_suite_are_checked_and_exported(visit: Visit) -> None:
    page = visit("?model=addition-5digit&page=tasks&suite=addition&prompts=6")
    page.locator("#tasks-effects-run").click()
    expect(page.locator("#tasks-effects-summary")).to_contain_text("6 prompts on addition-5digit")
    expect(page.locator("#tasks-effects-figures .js-plotly-plot")).to_have_count(2)
    with page.expect_download() as loading:
        page.locator("[data-report='effects:csv-methods']").click()
    assert loading.value.suggested_filename.endswith("methods.csv")
    assert loading.value.path().read_text().startswith("method,prompt,prompts,correlation")
