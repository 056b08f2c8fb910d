"""Edits of the run in a real browser: each kind gives the numbers of the same call in Python."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import expect

import analysis
from analysis.tracing.interventions import Ablate, Inject, KnockOut, PatchPrompt, SteerTokens
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


def fill(form: str, values: dict[str, str]) -> Callable[[Any], None]:
    def go(page: Any) -> None:
        change_sheet(page)
        for name, value in values.items():
            page.fill(f"#edits-{form}-{name}", value)
        page.click(f"#edits-{form}")

    return go


def cut(page: Any) -> None:
    page.click("[data-inspect=link]")
    page.click("#inspect-link >> text=Cut this link")


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
        fill("patch", {"prompt": "The capital of England is"}),
        PatchPrompt(ROW, POS, "The capital of England is"),
    ),
    "steer": (
        CELL,
        fill("steer", {"towards": " London", "away": " Paris"}),
        SteerTokens(ROW, POS, " London", " Paris", 10.0),
    ),
}


#: The others make the same steps in the page.
QUICK = ("zero", "patch")


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
    expect(page.locator("#edits-cards [role=group]")).to_be_visible()
    assert shown(page) == pytest.approx(python(edit), abs=2e-5)
    assert max(abs(a - b) for a, b in zip(python(edit), python(), strict=True)) > 1e-3
    page.keyboard.press("Escape")
    page.get_by_role("button", name=re.compile("^Remove: ")).click()
    expect(page.locator("#edits-cards")).to_be_empty()
    assert shown(page) == pytest.approx(python(), abs=2e-5)


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
    expect(page.locator("#lens-state")).to_contain_text("minus that in the baseline")
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
    expect(page.locator("#edits-cards")).to_be_empty()
