"""Edits of the run in a real browser: each kind gives the numbers of the same call in Python."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from playwright.sync_api import expect

import analysis
from analysis.tracing import directions
from analysis.tracing.interventions import (
    Ablate,
    HoldPatterns,
    Inject,
    KnockOut,
    PatchPrompt,
    Steer,
    SteerPrompts,
    SteerTokens,
)
from tests.support.browser_pages import until_at_rest

pytestmark = [pytest.mark.browser, pytest.mark.real]

Revisit = Callable[..., Any]
#: The last row of the heatmap: probabilities of the tokens shown.
LAST_ROW = """() => {
    const chart = document.querySelector("#lens-graph .js-plotly-plot");
    return Array.from(chart._fullData[0].z.at(-1));
}"""
CELL = "?row=12&pos=4&layer=11&heads=3"
ROW, POS, LAYER, HEAD = 12, 4, 11, 3


@pytest.fixture(scope="module")
def python(default_model_dir: Path) -> Callable[..., list[float]]:
    """The last row's probabilities under interventions, by the package alone."""
    model = analysis.load_model("smollm2-135m-instruct")
    ids = analysis.generate(model, "The capital of France is", 2)

    def probabilities(*edits: Any) -> list[float]:
        logits = analysis.trace(model, ids, interventions=edits).logits.astype(np.float64)
        probs = np.exp(logits - np.logaddexp.reduce(logits, -1, keepdims=True))
        found: list[float] = probs.max(-1).tolist()
        return found

    return probabilities


def shown(page: Any) -> list[float]:
    until_at_rest(page)
    found: list[float] = page.evaluate(LAST_ROW)
    return found


def change_sheet(page: Any) -> Any:
    page.click("[data-sheet=sheet-change]")
    sheet = page.locator("#sheet-change")
    expect(sheet).to_be_visible()
    return sheet


def press(name: str) -> Callable[[Any], None]:
    def go(page: Any) -> None:
        group, text = name.split(": ")
        sheet = change_sheet(page)
        sheet.get_by_role("group", name=group, exact=True).get_by_text(text, exact=True).click()

    return go


def fill(form: str, values: dict[str, str], **chosen: str) -> Callable[[Any], None]:
    """Fill a form's fields, choose in its lists, and apply it."""

    def go(page: Any) -> None:
        change_sheet(page)
        for name, value in values.items():
            page.fill(f"#edits-{form}-{name}", value)
        for name, value in chosen.items():
            page.select_option(f"#edits-{form}-{name}", value)
        page.click(f"#edits-{form}")

    return go


ENGLAND = "The capital of England is"


def cut(page: Any) -> None:
    page.click("[data-inspect=link]")
    page.click("#inspect-link >> text=Cut this link")


def steer_by_prompts(page: Any) -> None:
    change_sheet(page)
    page.click("#edits-steer-by >> text=Of two prompts")
    page.fill("#edits-steer-towards", ENGLAND)
    page.fill("#edits-steer-away", "The capital of Spain is")
    page.click("#edits-steer")


LINK = f"{CELL}&link=attention:{LAYER}:3:4:{HEAD}"
KINDS = {
    "zero": (CELL, press("MLP of layer 11: Zero here"), Ablate("mlp_output", LAYER, pos=POS)),
    "mean": (
        CELL,
        press("Head 3 of layer 11: Mean everywhere"),
        Ablate("head_output", LAYER, HEAD, value="mean"),
    ),
    "cut": (LINK, cut, KnockOut(LAYER, HEAD, POS, 3)),
    "inject": (CELL, fill("inject", {"token": " London"}), Inject(ROW, POS, " London")),
    "patch": (
        CELL,
        fill("patch", {"prompt": ENGLAND}),
        PatchPrompt(ROW, POS, ENGLAND),
    ),
    "steer": (
        CELL,
        fill("steer", {"towards": " London", "away": " Paris"}),
        SteerTokens(ROW, POS, " London", " Paris", 10.0),
    ),
    "neuron": (
        CELL,
        fill("neuron", {"number": "1027"}),
        Ablate("neuron", LAYER, neuron=1027, pos=POS),
    ),
    "resample": (
        CELL,
        fill("patch", {"prompt": ENGLAND}, what="head_output"),
        Ablate(
            "head_output", LAYER, HEAD, POS, "resample", prompt=ENGLAND, source_pos=-1
        ),
    ),
    "prompts": (
        CELL,
        steer_by_prompts,
        SteerPrompts(ROW, POS, ENGLAND, "The capital of Spain is", 10.0),
    ),
}  # fmt: skip


#: The others make the same steps in the page.
QUICK = ("zero",)


@pytest.mark.parametrize(
    "kind",
    [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.full) for kind in KINDS],
)
def test_an_edit_gives_the_numbers_of_the_same_call_in_python(
    revisit: Revisit, python: Callable[..., list[float]], kind: str
) -> None:
    query, make, edit = KINDS[kind]
    page = revisit(query)
    make(page)
    expect(page.get_by_role("group", name="Edits of the run")).to_be_visible()
    assert shown(page) == pytest.approx(python(edit), abs=2e-5)
    least = 1e-6 if kind == "neuron" else 1e-4
    assert max(abs(a - b) for a, b in zip(python(edit), python(), strict=True)) > least
    page.keyboard.press("Escape")
    page.get_by_role("button", name=re.compile("^Remove: ")).click()
    expect(page.locator("#edits-cards")).to_be_empty()
    assert shown(page) == pytest.approx(python(), abs=2e-5)


@pytest.mark.full
def test_an_edit_survives_undo_and_a_reload(
    revisit: Revisit, python: Callable[..., list[float]]
) -> None:
    page = revisit(f"{CELL}&edits=ablate:mlp_output:11:all:4:zero")
    edited, plain = python(Ablate("mlp_output", LAYER, pos=POS)), python()
    story = page.locator("#story-text")
    expect(story).to_contain_text("With 1 edit, ' Paris'")
    assert shown(page) == pytest.approx(edited, abs=2e-5)
    page.get_by_role("button", name=re.compile("^On: ")).click()
    expect(story).not_to_contain_text("edit")
    assert shown(page) == pytest.approx(plain, abs=2e-5)
    page.keyboard.press("Control+z")
    expect(story).to_contain_text("With 1 edit, ' Paris'")
    assert shown(page) == pytest.approx(edited, abs=2e-5)
    page.reload()
    expect(story).to_contain_text("With 1 edit, ' Paris'")
    assert shown(page) == pytest.approx(edited, abs=2e-5)
    page.click("#edits-cards >> text=Remove all")
    expect(page.locator("#edits-cards")).to_be_empty()


def test_the_heatmap_shows_baseline_and_difference(
    revisit: Revisit, python: Callable[..., list[float]]
) -> None:
    page = revisit(f"{CELL}&edits=ablate:mlp_output:11:all:4:zero&version=difference")
    expect(page.locator("#lens-state")).to_contain_text("edited run minus baseline")
    low, high = page.evaluate(
        """() => {
            const {zmin, zmax} = document.querySelector("#lens-graph .js-plotly-plot").data[0];
            return [zmin, zmax];
        }"""
    )
    assert low == -high
    edited, plain = python(Ablate("mlp_output", LAYER, pos=POS)), python()
    assert shown(page)[POS] == pytest.approx(edited[POS] - plain[POS], abs=2e-5)
    page.click("#edits-cards >> text=Baseline")
    expect(page.locator("#lens-state")).to_contain_text("the baseline, without the edits")
    assert shown(page) == pytest.approx(plain, abs=2e-5)
    expect(page.locator("[data-edited=lens]")).to_have_text("Baseline")
    expect(page.locator("[data-edited=flow]")).to_have_text("Edited run")


MLP = "ablate:mlp_output:11:all:4:zero"


@pytest.mark.full
def test_a_card_is_changed_in_place_and_patterns_are_held(
    revisit: Revisit, python: Callable[..., list[float]]
) -> None:
    page = revisit(f"{CELL}&edits={MLP}")
    card = page.locator("#edits-cards details")
    card.locator("summary").press("Enter")
    layer = card.get_by_label("Layer", exact=True)
    layer.fill("99")
    card.get_by_text("Apply").click()
    expect(card.get_by_role("alert")).to_contain_text("Layer 99 does not exist.")
    layer.fill("12")
    card.get_by_label("Positions, or “all”").fill("3, 4")
    card.get_by_label("Replaced by").select_option("mean")
    card.get_by_text("Apply").press("Enter")
    expect(page.locator("#edits-cards")).to_contain_text("layer 12 is set to its mean")
    changed = Ablate("mlp_output", 12, pos=(3, 4), value="mean")
    assert shown(page) == pytest.approx(python(changed), abs=2e-5)
    page.get_by_role("button", name="Attention patterns: Held").click()
    story = page.locator("#story-text")
    expect(story).to_contain_text("With 1 edit and held attention patterns,")
    assert shown(page) == pytest.approx(python(changed, HoldPatterns()), abs=2e-5)
    assert "hold" in page.evaluate("window.stratascope.page.address()")
    page.get_by_role("button", name="Attention patterns: Free").click()
    expect(story).not_to_contain_text("held")
    page.keyboard.press("Control+z")
    expect(story).to_contain_text("held")
    page.click("#edits-cards >> text=Remove all")
    expect(page.locator("#edits-cards")).to_be_empty()


@pytest.mark.full
def test_a_saved_direction_steers_and_its_strength_is_changed(
    revisit: Revisit, python: Callable[..., list[float]]
) -> None:
    revisit(CELL)  # the sheet is drawn before the direction is saved
    model = analysis.load_model("smollm2-135m-instruct")
    vector = np.random.default_rng(1).standard_normal(model.info.d_model)
    name = f"test-{uuid4().hex}"
    analysis.save_direction(model, name, vector, row=ROW, source="Made by a test.")
    try:
        page = revisit(CELL)
        change_sheet(page)
        page.click("#edits-steer-by >> text=Saved direction")
        expect(page.locator("#edits-steer-away")).to_be_disabled()
        page.click("#edits-steer")
        expect(page.locator("#edits-steer-problem")).to_contain_text("no name of a direction")
        expect(page.locator(f"#edits-saved option[value={name}]")).to_have_count(1)
        page.fill("#edits-steer-towards", name)
        page.click("#edits-steer")
        cards = page.locator("#edits-cards")
        expect(cards).to_contain_text(f"along the saved direction {name}, with strength 10")
        by_vector = Steer(ROW, POS, 10.0 * vector)
        assert shown(page) == pytest.approx(python(by_vector), abs=2e-5)
        page.keyboard.press("Escape")
        cards.locator("summary").press("Enter")
        cards.get_by_label("Strength", exact=True).fill("-4")
        cards.get_by_text("Apply").press("Enter")
        expect(cards).to_contain_text("with strength -4")
        assert shown(page) == pytest.approx(python(Steer(ROW, POS, -4.0 * vector)), abs=2e-5)
        assert name in page.evaluate("window.stratascope.page.address()")
    finally:
        (directions.folder() / f"{name}.safetensors").unlink()


@pytest.mark.full
def test_a_card_becomes_an_edit_of_another_kind(
    revisit: Revisit, python: Callable[..., list[float]]
) -> None:
    page = revisit(f"?row=3&pos=1&edits={MLP},cut:5:all:4:0")
    other, card = KnockOut(5, None, 4, 0), page.locator("#edits-cards details").first
    sheet, cards = page.locator("#sheet-change"), page.locator("#edits-cards")
    card.locator("summary").press("Enter")
    card.get_by_role("button", name="Another kind").press("Enter")
    expect(sheet).to_contain_text("Replace: The MLP output of layer 11 is set to zero")
    expect(sheet).to_contain_text("Chosen: after layer 11, position 4")
    page.fill("#edits-inject-token", " London")
    page.click("#edits-inject")
    expect(cards).to_contain_text("becomes the input embedding of ' London'")
    expect(cards).not_to_contain_text("MLP")
    expect(page.locator("#sheet-change-title")).to_have_text("Change this")
    assert shown(page) == pytest.approx(python(Inject(12, 4, " London"), other), abs=2e-5)
    page.keyboard.press("Escape")
    expect(sheet).to_be_hidden()
    page.locator("#edits-cards summary").first.press("Enter")
    page.get_by_role("button", name="Another kind").first.press("Enter")
    mlp = sheet.get_by_role("group", name="MLP of layer 11", exact=True)
    mlp.get_by_text("Mean everywhere", exact=True).click()
    expect(cards).not_to_contain_text("London")
    mean = Ablate("mlp_output", 11, value="mean")
    assert shown(page) == pytest.approx(python(mean, other), abs=2e-5)
    page.keyboard.press("Escape")
    page.keyboard.press("Control+z")
    expect(cards).to_contain_text("London")


#: After the menu key, the page takes no menu of the pointer for half a second (edits.js).
KEY_MS = 1000


def test_an_edit_is_made_where_it_is_seen(revisit: Revisit) -> None:
    """The pointer's menu and the menu key choose a cell, head or link, and open the sheet."""
    page = revisit(f"{CELL}&edits={MLP}")
    until_at_rest(page)
    sheet = page.locator("#sheet-change")
    place = page.evaluate(
        """() => {
            const chart = document.querySelector("#lens-graph .js-plotly-plot");
            const {xaxis, yaxis} = chart._fullLayout, {rows, positions} = chart.layout.meta;
            const {left, top} = chart.getBoundingClientRect();
            const at = (axis, index) => axis._offset + axis.d2p(index);
            return [left + at(xaxis, positions.indexOf(3)), top + at(yaxis, rows.indexOf(30))];
        }"""
    )
    page.mouse.click(*place, button="right")
    expect(sheet).to_contain_text("Chosen: after layer 29, position 3")
    page.keyboard.press("Escape")
    expect(sheet).to_be_hidden()
    until_at_rest(page)  # the heads are in another order at another position
    head = page.locator("#attention-heads .head").nth(2)
    number = head.locator(".head-name").inner_text().removeprefix("H")
    head.press("ContextMenu")
    expect(sheet).to_contain_text(f"Head {number} of layer 29")
    page.keyboard.press("Escape")
    expect(sheet).to_be_hidden()
    page.wait_for_timeout(KEY_MS)
    link = page.locator("#flow-canvas .flow-link.is-attention[data-go*=link]").first
    link.dispatch_event("contextmenu", {"bubbles": True})
    expect(sheet).to_contain_text("Cut this link")
    dotted = page.evaluate(
        """() => {
            const {data, layout} = document.querySelector("#lens-graph .js-plotly-plot");
            const line = data.find(({name}) => name === "reachable");
            return [line.x.length > 0, line.line.dash, layout.meta.positions.length];
        }"""
    )
    assert dotted[:2] == [True, "dot"]


@pytest.mark.full
def test_the_answers_stand_side_by_side_from_where_they_part(revisit: Revisit) -> None:
    page = revisit("?row=12&pos=4&edits=inject:12:4: London:replace")
    answer = page.locator("#edits-answer")
    expect(answer).to_contain_text("Answer without the edits:")
    expect(answer).to_contain_text("Paris")
    model = analysis.load_model("smollm2-135m-instruct")
    prompt = model.tokenizer("The capital of France is")["input_ids"]
    ids = analysis.generate(model, prompt, 1, interventions=[Inject(12, 4, " London")])
    other = model.tokenizer.decode([ids[-1]]).strip()
    assert other != "Paris"
    expect(answer).to_contain_text(other)


def test_bad_input_gets_a_sentence_where_it_was_typed(revisit: Revisit) -> None:
    page = revisit(CELL)
    fill("inject", {"token": "London town"})(page)
    expect(page.locator("#edits-inject-problem")).to_contain_text("is 2 tokens")
    page.click("#edits-patch")
    expect(page.locator("#edits-patch-problem")).to_contain_text("The other prompt is empty.")
    page.fill("#edits-patch-prompt", "Hello")
    page.fill("#edits-patch-position", "7")
    page.click("#edits-patch")
    expect(page.locator("#edits-patch-problem")).to_contain_text("Position 7 does not exist.")
    page.click("#edits-neuron")
    expect(page.locator("#edits-neuron-problem")).to_contain_text("number of the neuron is missing")
    page.fill("#edits-neuron-number", "99999")
    page.click("#edits-neuron")
    expect(page.locator("#edits-neuron-problem")).to_contain_text("neuron 99999 does not exist")
    page.click("#edits-steer-by >> text=Of two prompts")
    page.click("#edits-steer")
    expect(page.locator("#edits-steer-problem")).to_contain_text("The other prompt is empty.")
    expect(page.locator("#edits-cards")).to_be_empty()
