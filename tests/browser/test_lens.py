"""The lens panel and its neighbours in a real browser: every control, once, and what it changes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import expect

from analysis.learned import library
from analysis.lens.options import COLOURS, COMPONENTS, SHARE_METHODS
from tests.support.time_limits import PATIENCE_S
from tests.support.workspace import close_sheet, inspect, open_pane, open_sheet, sheet_of

pytestmark = [pytest.mark.browser, pytest.mark.real]

Visit = Callable[..., Any]
SUM = {"model": "addition-5digit", "prompt": "12345+54321=", "new": 6, "pos": 11, "row": 2}
FOX = "The quick brown fox jumps over the lazy dog and runs on to the river. "
#: All text of the heatmap's panel.
SAID = """() => {
    const plot = document.querySelector("#lens-graph .js-plotly-plot");
    const bar = plot.data[0].colorbar;
    const said = (id) => document.querySelector(id).textContent;
    return JSON.stringify([
        bar.title.text, bar.ticktext, plot.layout.meta, plot.data[0].customdata,
        Array.from(plot.data[0].z, (row) => Array.from(row)),
        said("#lens-state"), said("#lens-inspector"), said("#lens-adds"),
    ]);
}"""
#: One change of every menu: (field, value).
ONCE = (
    ("decoder", "max_probability"), ("norm", "unit"), ("similarity", "cosine"),
    ("similarity", "dot"), ("candidates", "matching_pursuit"), ("fold", "2"),
    ("colour", "token_rank"), ("asked", "*"), ("colour", "share"), ("part", "mlp"),
    ("by", "proximity"), ("component", "source_output"), ("head", "2"), ("source", "3"),
    ("show", "answer"),
)  # fmt: skip
#: Components that the model of these tests does not have.
MISSING = ("ssm_output", "per_layer_embedding_output")
#: Every option of every menu; each differs from the one before.
MENUS = (
    ("decoder", ("input", "linear", "quadratic", "midpoint", "max_probability", "output")),
    ("norm", ("unit", "none", "full")),
    ("similarity", ("cosine", "euclidean", "dot")),
    ("candidates", ("subtraction", "matching_pursuit", "top_k")),
    ("colour", tuple(COLOURS)[3:]),
    ("colour", ("token_rank", "token_probability")),
    ("asked", ("*",)),
    ("colour", ("share",)),
    ("part", ("mlp", "residual", "attention")),
    ("by", tuple(SHARE_METHODS)[1:]),
    ("colour", ("probability",)),
    ("component", tuple(name for name in tuple(COMPONENTS)[1:-2] if name not in MISSING)),
    ("component", ("head_output",)),
    ("head", ("2",)),
    ("component", ("source_output",)),
    ("source", ("3",)),
    ("component", ("block_output",)),
    ("fold", ("2", "1")),
    ("show", ("answer", "")),
)


def until(page: Any, true: Callable[[], bool], what: str) -> None:
    """Wait from outside: the page forbids eval."""
    ends = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < ends, f"never true: {what}"
        page.wait_for_timeout(100)


def open_page(visit: Visit, **values: Any) -> Any:
    page = visit(f"?{urlencode(values)}")
    page.wait_for_selector("#lens-graph .heatmaplayer image")
    page.wait_for_selector("#lens-adds .segment", state="attached")
    expect(page.locator("#lens-graph .cell-text").first).to_be_attached()
    return page


def computed(page: Any) -> bool:
    return page.locator(".lens-partial").count() == 0


def still(page: Any) -> None:
    """Wait until no progress bar will disappear and move the elements below it."""
    page.wait_for_selector(".job.is-busy", state="detached")


def pick(page: Any, name: str, value: str) -> None:
    """Choose from a menu; "*" is any value that is not chosen."""
    open_sheet(page, "lens")
    page.locator(f"#menu-{name} > summary").click()
    wanted = '[aria-pressed="false"]' if value == "*" else f'[data-go="{urlencode({name: value})}"]'
    button = page.locator(f"#menu-{name} {wanted}").first
    to = button.get_attribute("data-go")
    button.click()
    chosen = page.locator(f'#menu-{name} [aria-pressed="true"]')
    expect(chosen).to_have_attribute("data-go", to)


EVERY = tuple((name, value) for name, values in MENUS for value in values)


@pytest.mark.full
@pytest.mark.parametrize("changes", [ONCE, EVERY])
def test_every_menu_of_the_lens_changes_what_is_shown(
    revisit: Visit, changes: tuple[tuple[str, str], ...]
) -> None:
    page = open_page(revisit, **SUM)
    for name, value in changes:
        before = page.evaluate(SAID)
        pick(page, name, value)
        changed = lambda was=before: computed(page) and page.evaluate(SAID) != was  # noqa: E731
        until(page, changed, f"{name}={value}")
        assert page.locator(f"#menu-{name}").get_attribute("open") is None


def options_say_their_formula(page: Any) -> None:
    sheet = open_sheet(page, "lens")
    options = sheet.locator(".menu-list:not(.menu-list--short) .menu-option")
    helps = options.locator(".menu-help").all_text_contents()
    assert len(helps) == options.count() > 30
    assert all(len(text) > 10 for text in helps)
    learned = (
        library.available("addition-5digit") is not None
    )  # all other decoders are available: the model is untied
    off = page.locator("#menu-decoder .menu-option:disabled")
    expect(off).to_have_count(0 if learned else 1)
    page.locator("#menu-decoder > summary").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#menu-decoder .menu-list")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#menu-decoder .menu-list")).to_be_hidden()
    expect(page.locator("#menu-decoder > summary")).to_be_focused()
    expect(sheet).to_have_class(re.compile(r"\bshow\b"))  # Escape closed the menu only


def other_controls_change_their_views(page: Any) -> None:
    page.locator("#lens-find input, input#lens-find").fill("5")
    page.keyboard.press("Enter")
    expect(page.locator("#lens-state")).to_contain_text("'5' is in ")
    expect(page.locator("#lens-graph .find-marks path").first).to_be_attached()
    count = page.locator("[data-find-count]")
    expect(count).to_contain_text("1 of ")
    page.keyboard.press("Enter")
    expect(count).to_contain_text("2 of ")
    page.keyboard.press("Shift+Enter")
    expect(count).to_contain_text("1 of ")
    expect(page.locator("#lens-state")).to_contain_text("all 18 positions")  # none is hidden
    page.locator("#lens-find input, input#lens-find").fill("")
    page.keyboard.press("Enter")
    expect(page.locator("#lens-state")).to_contain_text("all 18 positions")
    close_sheet(page)
    still(page)
    click_cell(page, "#lens-graph", 2, 11)  # the search has chosen another row
    inspect(page, "promoted")
    for value in ("attention_output", "mlp_output", "block_increment", "head_output"):
        before = page.locator("#lens-adds").inner_text()
        page.locator(f'#lens-adds [data-go="adds={value}"]').click()
        expect(page.locator("#lens-adds")).to_contain_text("Suppresses")
        expect(page.locator("#lens-adds")).not_to_have_text(before)
    before = page.locator("#lens-adds .promoted").inner_text()
    page.locator('#lens-adds [data-go$="adder=3"]').click()
    expect(page.locator("#lens-adds .promoted")).not_to_have_text(before)
    for curve, said in (
        ("log_probability", "ln p"), ("rank", "rank"), ("entropy", "entropy"), ("kl", "KL"),
        ("probability", "probability"),
    ):  # fmt: skip
        with sheet_of(page, "curves"):
            page.locator(f'#curves-quantity [data-go="curve={curve}"]').click()
            expect(page.locator("#curves-graph .ytitle")).to_contain_text(said)


def emergence_is_shown_and_chooses(page: Any) -> None:
    expect(page.locator(".steps-of-tokens")).to_contain_text("nats")
    open_pane(page, "emergence")
    expect(page.locator("#emergence-graph .heatmaplayer image")).to_be_attached()
    page.locator("#emergence-commit").click()
    expect(page.locator("#emergence-commit")).to_be_disabled()
    rows = "plot => plot.layout.meta.values"
    plot = page.locator("#emergence-graph .js-plotly-plot")
    until(page, lambda: None not in plot.evaluate(rows)[3], "commits are drawn")
    still(page)
    values = plot.evaluate(rows)
    click_cell(page, "#emergence-graph", 2, 5)
    expect(page.locator(".token.is-selected .token-pos")).to_have_text("5")
    expect(page.locator("#lens-inspector")).to_contain_text(f"after layer {values[2][5] - 1}")


def disagreement_is_shown_and_linked(page: Any) -> None:
    open_pane(page, "disagreement")
    page.locator("#disagreement-start").click()
    expect(page.locator("#disagreement-note")).to_contain_text("of pairs have the same best token")

    def title() -> str:
        plot = page.locator("#disagreement-graph .js-plotly-plot")
        return str(plot.evaluate("plot => plot.data[0].colorbar.title.text"))

    until(page, lambda: "Jensen-Shannon" in title(), "divergence")
    with sheet_of(page, "disagreement"):
        page.locator('#disagreement-options [data-go="differ=top1"]').click()
        until(page, lambda: "best tokens differ" in title(), "top1")
        page.locator("#disagreement-options .segment", has_text="Linear").click()
        expect(page.locator("#disagreement-note")).to_contain_text("Press Compare")
    page.locator("#disagreement-start").click()
    expect(page.locator("#disagreement-note")).to_contain_text("Output, input, full norm")
    still(page)
    click_cell(page, "#disagreement-graph", 2, 4)
    expect(page.locator(".token.is-selected .token-pos")).to_have_text("4")
    expect(page.locator("#lens-inspector")).to_contain_text("after layer 1")


def embeddings_and_norms_are_told(page: Any) -> None:
    page.locator("nav [data-page-link=model]").click()
    page.locator("#model-start").click()
    expect(page.locator(".report-embeddings")).to_contain_text("differ (untied)")
    expect(page.locator(".report-norms")).to_contain_text("LayerNorm")
    expect(page.locator(".report-similarities")).to_contain_text("unit ball")
    expect(page.locator("#model-start")).to_be_disabled()
    expect(page.locator(".report-embeddings .barlayer .point").first).to_be_attached()
    expect(page.locator(".report-similarities .scatterlayer .trace").first).to_be_attached()


def click_cell(page: Any, graph: str, row: int, column: int, count: int = 1) -> None:
    """Click a cell in view, where no row name and no token covers it."""
    at = page.locator(f"{graph} .js-plotly-plot").evaluate(
        """(plot, [row, column]) => {
            plot.scrollIntoView({block: "center"});
            const {xaxis, yaxis} = plot._fullLayout;
            const scroller = plot.closest(".scroll-x");
            scroller.scrollLeft = xaxis.d2p(column) - (scroller.clientWidth - xaxis._offset) / 2;
            scroller.scrollTop = yaxis.d2p(row) - scroller.clientHeight / 2;
            const box = plot.getBoundingClientRect();
            return [box.left + xaxis._offset + xaxis.d2p(column),
                    box.top + yaxis._offset + yaxis.d2p(row)];
        }""",
        [row, column],
    )
    page.mouse.move(at[0] - 2, at[1])
    page.mouse.move(*at)
    page.wait_for_selector(f"{graph} .hoverlayer .hovertext")  # then it is under the pointer
    page.mouse.click(*at, click_count=count)


def a_double_click_pins(page: Any) -> None:
    click_cell(page, "#lens-graph", 0, 3, count=2)
    expect(page.locator("#lens-inspector")).to_contain_text("embedding")
    page.wait_for_url("**pins=*")
    ids = page.locator("#lens-graph .js-plotly-plot").evaluate("plot => plot.layout.meta.ids")
    assert str(ids[0][3]) in page.url.partition("pins=")[2].partition("&")[0].split(",")


@pytest.mark.full
def test_the_panels_beside_the_heatmap(revisit: Visit) -> None:
    """One page for all tests: opening it takes longer than a test."""
    page = open_page(revisit, **SUM)
    options_say_their_formula(page)
    other_controls_change_their_views(page)
    a_double_click_pins(page)
    emergence_is_shown_and_chooses(page)
    disagreement_is_shown_and_linked(page)
    embeddings_and_norms_are_told(page)


@pytest.mark.full
def test_a_new_grid_shows_the_chosen_column_first_and_can_be_cancelled(revisit: Visit) -> None:
    page = open_page(revisit, prompt=FOX * 4, new=0)
    open_sheet(page, "lens")
    assert "tied" in page.locator("#menu-decoder .menu-option:disabled").first.text_content()
    pick(page, "norm", "unit")
    expect(page.locator("#lens-state")).to_contain_text("N₁(h)")
    until(page, lambda: computed(page), "the unit norm")

    # Seconds to minutes: the page polls more than once, and there is time to cancel.
    pick(page, "candidates", "matching_pursuit")
    expect(page.locator("#lens-state")).to_contain_text("Computed: 1 of")
    expect(page.locator("#lens-inspector")).to_contain_text("explained so far")
    close_sheet(page)
    page.locator("#lens-stop").click()
    expect(page.locator("#lens-resume")).to_be_visible()
    assert not computed(page)
    waiting = page.locator("#lens-graph .cell-text.is-waiting")  # one element has all their texts
    until(page, lambda: waiting.count() and len(waiting.text_content()) > 100, "cells that wait")

    pick(page, "candidates", "top_k")  # it was computed before: shown at once, without a job
    until(page, lambda: computed(page), "what is memoised")
    expect(page.locator("#lens-progress")).to_have_class("job is-idle")
    expect(page.locator("#lens-resume")).to_be_hidden()
