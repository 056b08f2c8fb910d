"""The Compare page in a real browser: a ready-made pair, the form, the link, bad input."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import expect

import analysis
from analysis.interventions import PatchPrompt
from tests.support.browser_pages import until_at_rest

pytestmark = [pytest.mark.browser, pytest.mark.real]
Visit = Callable[..., Any]
SUMS = "?model=addition-5digit&prompt=54328%2B12345%3D&new=6&page=compare"
CLEAN, CORRUPTED = "54328+12345=0666", "54321+12345=0666"
#: The measured cells, as drawn.
CELLS = """() => document.querySelector("#compare-graph .js-plotly-plot")
    .calcdata[0][0].z.map((line) => Array.from(line))"""
#: The middle of a cell of the sweep's heatmap, on the screen.
MIDDLE = """(plot, [x, y]) => {
    const [{xaxis, yaxis}, box] = [plot._fullLayout, plot.getBoundingClientRect()];
    return [box.left + xaxis._offset + xaxis.d2p(x), box.top + yaxis._offset + yaxis.d2p(y)];
}"""
CAPTION, ALL = "#compare-caption", "All cells are measured."


def test_a_pair_is_estimated_measured_and_opened(visit: Visit) -> None:
    page = visit(SUMS)
    expect(page.get_by_role("button", name="A fact")).to_be_disabled()
    page.get_by_role("button", name="Compare: Sum with a carry").click()
    expect(page.locator("#compare-clean")).to_have_value(CLEAN)
    expect(page.locator(CAPTION)).to_contain_text(ALL)
    expect(page.locator("#compare-rest")).to_be_hidden()
    drawn = page.evaluate(CELLS)
    model = analysis.load_model("addition-5digit")
    found = analysis.sweep(model, CLEAN, CORRUPTED, answer="7", foil="6")
    for line, wanted in zip(drawn, found.effect.tolist(), strict=True):
        assert line == pytest.approx(wanted, abs=1e-5)
    page.locator("#compare-strongest button").first.click()
    expect(page.locator("#page-explore")).to_be_visible()
    expect(page).to_have_url(re.compile(r"edits=patch%3A\d+%3A\d+%3A"))


@pytest.mark.full
def test_a_sweep_survives_in_the_link(visit: Visit) -> None:
    page = visit(SUMS)
    page.locator("#compare-clean").fill(CLEAN)
    page.locator("#compare-corrupted").fill(CORRUPTED)
    page.locator("#compare-answer").fill("7")
    page.locator("#compare-answer").press("Enter")
    expect(page.locator(CAPTION)).to_contain_text(ALL)
    page.get_by_role("button", name="Patch: Layer and head").click()
    page.get_by_role("button", name="Direction: Noise").click()
    expect(page).to_have_url(re.compile("axes=head&way=noise"))
    expect(page.locator(CAPTION)).to_contain_text(ALL)
    shown = page.locator(CAPTION).inner_text()
    again = visit("?" + page.url.partition("?")[2])
    expect(again.locator(CAPTION)).to_have_text(shown)
    expect(again.locator("#compare-corrupted")).to_have_value(CORRUPTED)
    expect(again.locator("#compare-answer")).to_have_value("7")
    expect(visit(SUMS).locator("#compare-clean")).to_have_value("")


@pytest.mark.full
def test_the_difference_of_the_two_runs_is_shown(visit: Visit) -> None:
    page = visit(f"{SUMS}&clean={CLEAN}&corrupted={CORRUPTED}&answer=7".replace("+", "%2B"))
    page.locator("[data-pane=difference]").click()
    expect(page.locator("#apart-caption")).to_contain_text("16 tokens are aligned")
    page.get_by_role("button", name="Show: Probability").click()
    expect(page.locator("#apart-caption")).to_contain_text("corrupted minus clean")
    expect(page).to_have_url(re.compile("apart=probability"))
    again = visit("?" + page.url.partition("?")[2])
    expect(again.locator("#apart-graph .heatmaplayer image")).to_be_visible()


def test_bad_input_gets_a_sentence_where_it_was_typed(visit: Visit) -> None:
    page = visit(SUMS)
    page.get_by_role("button", name="Compare: Sum with a carry").click()
    expect(page.locator(CAPTION)).to_contain_text(ALL)
    page.locator("#compare-answer").fill("77")
    page.locator("#compare-patch").click()
    expect(page.locator("#compare-message")).to_contain_text("The answer '77' is 2 tokens")
    expect(page.locator("#compare-answer")).to_have_class(re.compile("is-invalid"))
    page.locator("#compare-answer").fill("7")
    page.locator("#compare-corrupted").fill("5432+12345=0666")
    page.locator("#compare-patch").click()
    expect(page.locator("#compare-answer")).not_to_have_class(re.compile("is-invalid"))
    expect(page.locator("#compare-message")).to_contain_text("do not correspond")
    page.get_by_role("button", name="Align: By token").click()
    expect(page.locator(CAPTION)).to_contain_text(ALL)
    expect(page.locator("#compare-message")).to_have_text("")


@pytest.mark.full
def test_the_menu_of_models_acts_at_once(visit: Visit) -> None:
    page = visit("?page=compare")
    menu, message = page.locator("#run-model"), page.locator("#compare-message")
    fact = page.get_by_role("button", name="A fact")
    expect(fact).to_be_enabled()
    menu.select_option("addition-5digit")
    expect(fact).to_be_disabled()
    expect(page).to_have_url(re.compile("model=addition-5digit"))
    page.get_by_role("button", name="Compare: Sum with a carry").click()
    expect(page.locator(CAPTION)).to_contain_text(ALL)
    page.locator("#compare-corrupted").fill("5432+12345=0666")
    page.locator("#compare-patch").click()
    expect(message).to_contain_text("The prompts have 16 and 15 tokens")
    page.locator(".nav-link[data-page-link=model]").click()
    expect(page).to_have_url(re.compile("page=model"))  # else page and model are one entry
    expect(page.locator("#run-chips")).not_to_contain_text("30 layers")
    menu.select_option("smollm2-135m-instruct")
    expect(page.locator("#run-chips")).to_contain_text("30 layers")
    expect(page).to_have_url(re.compile(r"^(?!.*addition-5digit).*page=model"))
    page.go_back()
    expect(menu).to_have_value("addition-5digit")
    expect(page.locator("#run-chips")).not_to_contain_text("30 layers")
    expect(page).to_have_url(re.compile("page=model"))


def click_cell(page: Any, pos: int, row: int) -> None:
    plot = page.locator("#compare-graph .js-plotly-plot")
    plot.scroll_into_view_if_needed()
    x, y = plot.evaluate(MIDDLE, [pos, row])
    page.mouse.move(x - 2, y)
    page.mouse.click(x, y)


@pytest.mark.full
def test_the_alignment_is_changed_and_a_cell_becomes_an_edit(visit: Visit) -> None:
    shorter = CORRUPTED[:4] + CORRUPTED[5:]
    link = f"{SUMS}&clean={CLEAN}&corrupted={shorter}&answer=7&against=6&align=token"
    page = visit(link.replace("+", "%2B"))
    expect(page.locator(CAPTION)).to_contain_text(ALL)
    page.get_by_text("Alignment: which tokens are partners").click()
    expect(page.locator("#compare-aligned [title='no partner']")).to_have_count(1)
    page.locator("#compare-pair-clean").fill("0")
    page.locator("#compare-pair").click()
    expect(page).to_have_url(re.compile("pairs=0-&"))
    expect(page.locator("#compare-aligned [title='no partner']")).to_have_count(3)
    page.get_by_role("button", name="0- ×: take back").click()
    expect(page.locator("#compare-aligned [title='no partner']")).to_have_count(1)
    expect(page.locator(CAPTION)).to_contain_text(ALL)
    expect(page.locator("#compare-progress")).to_have_class(re.compile("is-idle"))
    click_cell(page, 8, 1)
    expect(page.locator("#page-explore")).to_be_visible()
    expect(page).to_have_url(re.compile("edits=patch%3A1%3A8%3A"))
    expect(page.locator("#story-text")).to_contain_text("With 1 edit")
    page.locator(".alternative").first.click()
    expect(page).to_have_url(re.compile("branch="))
    expect(page.locator("[data-branch]")).to_have_count(2)
    expect(page.locator("[data-branch]").last).to_have_attribute("aria-pressed", "true")
    page.locator("body").press("[")
    expect(page.locator("[data-branch]").first).to_have_attribute("aria-pressed", "true")


@pytest.mark.full
def test_a_branch_is_compared_with_the_own_answer(visit: Visit) -> None:
    page = visit("?model=addition-5digit&prompt=54321%2B12345%3D&new=4")
    page.locator(".alternative").first.click()
    compare = page.get_by_role("button", name="compare the own answer with this branch")
    compare.click()
    expect(page.locator("#page-compare")).to_be_visible()
    expect(page.locator(CAPTION)).to_contain_text(ALL)
    model = analysis.load_model("addition-5digit")
    prompt, texts = "54321+12345=", []
    ids = tuple(model.tokenizer(prompt)["input_ids"])
    own = analysis.generate(model, ids, 4)
    logits = analysis.trace(model, ids).logits[-1]
    branch = analysis.generate(model, (*ids, int(logits.argsort()[-2])), 4)[: len(own)]
    for answer in (own, branch):
        tokens = analysis.trace(model, answer).tokens[len(ids) :]
        texts.append(prompt + "".join(token.text for token in tokens))
    expect(page.locator("#compare-clean")).to_have_value(texts[0])
    expect(page.locator("#compare-corrupted")).to_have_value(texts[1])
    assert analysis.trace(model, texts[1]).token_ids == branch
    found = analysis.sweep(model, *texts, metric="kl")
    for line, wanted in zip(page.evaluate(CELLS), found.effect.tolist(), strict=True):
        assert line == pytest.approx(wanted, abs=1e-5)
    again = visit("?" + page.url.partition("?")[2])
    expect(again.locator("#compare-corrupted")).to_have_value(texts[1])


@pytest.mark.full
def test_a_cell_is_dragged_to_another_position(visit: Visit) -> None:
    page = visit(
        f"{SUMS}&clean={CLEAN}&corrupted={CORRUPTED}&answer=7&against=6".replace("+", "%2B")
    )
    expect(page.locator(CAPTION)).to_contain_text(ALL)
    expect(page.locator("#compare-progress")).to_have_class(re.compile("is-idle"))
    plot = page.locator("#compare-graph .js-plotly-plot")
    plot.scroll_into_view_if_needed()
    (x, y), (to, low) = (plot.evaluate(MIDDLE, cell) for cell in ([4, 2], [15, 1]))
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move((x + to) / 2, y)
    page.mouse.move(to, low)
    expect(page.get_by_text("patch position 15 from 4")).to_be_visible()
    page.mouse.up()
    expect(page.locator("#page-explore")).to_be_visible()
    expect(page.get_by_text("patch position 15 from 4")).to_have_count(0)
    expect(page).to_have_url(re.compile(r"edits=patch%3A2%3A15%3A.*%3A4"))
    expect(page.locator("#story-text")).to_contain_text("With 1 edit")
    until_at_rest(page)
    drawn = page.evaluate(
        """() => Array.from(document.querySelector("#lens-graph .js-plotly-plot")
            ._fullData[0].z.at(-1))"""
    )
    model = analysis.load_model("addition-5digit")
    ids = analysis.generate(model, CORRUPTED, 1)
    logits = analysis.trace(model, ids, [PatchPrompt(2, 15, CLEAN, 4)]).logits.astype(np.float64)
    probs = np.exp(logits - np.logaddexp.reduce(logits, -1, keepdims=True)).max(-1)
    assert drawn == pytest.approx(probs.tolist(), abs=2e-5)


@pytest.mark.full
def test_a_newcomer_patches_a_fact_ablates_a_head_and_compares(visit: Visit) -> None:
    page = visit("")
    page.locator(".nav-link[data-page-link=compare]").click()
    expect(page.locator("#compare-strongest")).to_contain_text("Corrupted prompt")
    page.get_by_role("button", name="Compare: A fact").click()
    expect(page.locator(CAPTION)).to_contain_text(ALL)
    expect(page.locator("#compare-progress")).to_have_class(re.compile("is-idle"))
    click_cell(page, 3, 5)
    expect(page.locator("#run-prompt")).to_have_value("The capital of Italy is")
    expect(page.locator("#story-text")).to_contain_text("With 1 edit")
    page.locator("[data-go='heads=1'], [data-go*='with=heads:1']").first.click()
    page.click("[data-sheet=sheet-change]")
    sheet = page.locator("#sheet-change")
    head = sheet.get_by_role("group", name=re.compile(r"^Head 1 of layer"))
    head.get_by_text("Zero everywhere", exact=True).click()
    expect(page.locator("#story-text")).to_contain_text("With 2 edits")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Heatmap: Difference").click()
    expect(page).to_have_url(re.compile("version=difference"))
    expect(page.locator("#lens-graph .heatmaplayer image").first).to_be_visible()
