"""The opened block and the weights in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.support.workspace import open_pane

pytestmark = [pytest.mark.browser, pytest.mark.real]


@pytest.mark.full
def test_a_block_is_opened_and_a_head_and_a_key_are_chosen(visit: Callable[..., Any]) -> None:
    page = visit("?row=12&pos=4")
    open_pane(page, "block")
    expect(page.locator("#block-subtitle")).to_contain_text("Layer 11 at ' is' (position 4)")
    expect(page.locator("#block-why")).to_contain_text("the model's own score is")
    page.locator("#block-body button", has_text="Head 5").click()
    expect(page.locator("#block-body h3", has_text="Head 5: what it reads")).to_be_visible()
    page.locator("#block-body button", has_text="·capital (1)").click()
    expect(page.locator("#block-why h3")).to_have_text("Why head 5 looks at ' capital' (1)")
    expect(page).to_have_url(re.compile(r"link=attention%3A11%3A1%3A4%3A5"))
    again = visit(page.url.partition("/?")[2].join(["?", ""]))
    expect(again.locator("#block-why h3")).to_have_text("Why head 5 looks at ' capital' (1)")


@pytest.mark.full
def test_neurons_are_ablated_and_their_texts_found(visit: Callable[..., Any]) -> None:
    page = visit("?model=addition-5digit&prompt=12345%2B67890%3D&new=6&row=1&pos=11")
    open_pane(page, "block")
    body = page.locator("#block-body")
    expect(body.locator("h3", has_text="Neurons")).to_be_visible()
    page.locator("#block-own").fill("11111+22222=033333\n\n99999+00001=100000")
    page.locator("#block-texts-start").click()
    texts = page.locator("#block-texts")
    expect(texts).to_contain_text("Layer 0, 2 texts, in the model without edits.")
    expect(texts.locator("mark").first).to_be_visible()
    page.locator("#block-own").fill("")
    page.locator("#menu-suite summary").click()
    page.locator("#menu-suite .menu-option", has_text="Cascades of nines").click()
    expect(page).to_have_url(re.compile("suite=addition-cascade"))
    expect(texts.locator("mark")).to_have_count(0)
    page.locator("#block-texts-start").click()
    expect(texts).to_contain_text("Layer 0, 60 texts")
    page.locator("#menu-blockdecoder summary").click()
    page.locator("#menu-blockdecoder .menu-option[data-go='decoder=linear']").click()
    expect(page.locator("#menu-blockdecoder .menu-value")).to_have_text("Linear")
    expect(page).to_have_url(re.compile("decoder=linear"))
    button = body.locator("th button", has_text="Zero").first
    button.click()
    expect(page).to_have_url(re.compile(r"edits=ablate(:|%3A)neuron"))
    expect(page.locator("[aria-label='Edits of the run']")).to_contain_text("Neuron")


@pytest.mark.full
def test_all_heads_are_measured_and_the_states_of_a_row_read(visit: Callable[..., Any]) -> None:
    page = visit("?model=addition-5digit&prompt=12345%2B67890%3D&new=6&page=model&layer=0")
    report = page.locator("#weights-report")
    expect(page.locator("#weights-circuits .report-sentence")).to_be_visible()  # the run is there
    page.locator("#weights-start").click()
    expect(report.locator("h3", has_text="Strongest heads of each kind")).to_be_visible()
    expect(report).to_contain_text("Composition of random matrices (baseline):")
    expect(report).to_contain_text("With random matrices of the same spectrum")
    expect(report.locator(".js-plotly-plot")).to_have_count(5)
    expect(page.locator("#weights-start")).to_be_disabled()
    report.locator("table button", has_text="layer 1, head").first.click()
    expect(page.locator("#weights-circuits .report-sentence")).to_contain_text("Layer 1, head")
    page.locator("#weights-circuits .segment", has_text="States").click()
    said = page.locator("#weights-circuits .report-sentence")
    expect(said).to_contain_text("reading the states of row")
    page.locator("#menu-row summary").click()
    page.locator("#menu-row .menu-option", has_text="1").click()
    expect(said).to_contain_text("row 1: it promotes")
    expect(said).to_contain_text("These are the states that it reads in the model.")
    expect(page).to_have_url(re.compile("reads=states"))
    again = visit(page.url.partition("/?")[2].join(["?", ""]))
    expect(again.locator("#weights-report")).to_contain_text("Strongest heads of each kind")
    expect(again.locator("#weights-circuits .report-sentence")).to_contain_text(
        "row 1: it promotes"
    )


@pytest.mark.full
def test_the_circuits_of_a_head_are_read(visit: Callable[..., Any]) -> None:
    page = visit("?page=model&layer=3")
    said = page.locator("#weights-circuits .report-sentence")
    expect(said).to_contain_text("Layer 3, head 0: copying score")
    page.locator("#weights-circuits .segment", has_text="4").click()
    expect(said).to_contain_text("Layer 3, head 4: copying score")
    expect(page).to_have_url(re.compile("heads=4"))


@pytest.mark.full
def test_a_search_for_texts_can_be_stopped(visit: Callable[..., Any]) -> None:
    page = visit("?row=12&pos=4&prompts=1000")
    open_pane(page, "block")
    expect(page.locator("#block-body h3", has_text="Neurons")).to_be_visible()
    start, stop = page.locator("#block-texts-start"), page.locator("#block-texts-stop")
    expect(start).to_be_enabled()
    start.click()
    expect(stop).to_be_enabled()
    stop.click()
    expect(start).to_be_enabled()
    expect(page.locator("#block-texts mark")).to_have_count(0)
