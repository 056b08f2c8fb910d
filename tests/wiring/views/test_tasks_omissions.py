"""Pictures and lists of the tasks state what they omit, with number and size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from analysis.tasks.suite_specs import AnswerPair, FailureReport
from analysis.tasks.sum_specs import ContributionReport
from dash_app.views.tasks import actions, failure_figures, suite, sum_figures
from tests.support.components import text
from tests.wiring.views.test_tasks import FORM, MADE, Service, failure, figures, finished

RNG = np.random.default_rng(4)
TOKENS, LAYERS, HEADS = 50, 10, 4


def shown(report: Any, name: str, options: Any = None, **changes: Any) -> str:
    ready = finished(name, **changes)
    drawn = actions.draw(Service(report), name, ready, options or {}, "light")
    assert drawn is not None
    return text([drawn.summary, *drawn.figures])


def large() -> ContributionReport:
    """Fifty-one parts and a prompt of fifty tokens."""
    shape = (2, 2)
    attention = RNG.random((2, LAYERS, HEADS, TOKENS)) ** 8
    attention[..., 48:] = 0.0
    attention /= attention.sum(-1, keepdims=True)
    return ContributionReport(
        np.arange(2), tuple(f"t{n}" for n in range(TOKENS)), np.array([[9, 0], [4, 5]]),
        RNG.normal(size=(*shape, LAYERS, HEADS)), RNG.normal(size=(*shape, LAYERS)),
        RNG.normal(size=shape), np.ones((*shape, LAYERS, HEADS)), attention, np.array([47, 46]),
        ("1+1=",) * 9, np.zeros((9, 2), np.int64), 2,
    )  # fmt: skip


def test_the_map_states_the_parts_it_omits() -> None:
    report = large()
    heat = sum_figures.contributions(report, lambda *_: "", theme="light")["data"][0]
    assert len(heat["y"]) == sum_figures.MOST_ROWS == 40
    everything = [report.embedding.reshape(-1)]
    for layer in range(LAYERS):
        everything += [report.heads[:, :, layer, head].reshape(-1) for head in range(HEADS)]
        everything.append(report.mlps[:, :, layer].reshape(-1))
    size = np.sort([np.abs(row).max() for row in everything])
    share = 1 - np.abs(heat["z"]).sum(0) / np.abs(np.stack(everything)).sum(0)
    said = sum_figures.left_out(report)
    assert "The 40 strongest of 51 components" in said
    assert f"at most {size[10]:.2f} logits" in said
    assert f"at most {share.max():.0%} of" in said
    assert said in shown(report, "contributions")
    assert sum_figures.left_out(MADE["contributions"]()) == ""


def test_the_figure_states_the_tokens_it_omits() -> None:
    report = large()
    figure = sum_figures.attention(report, 3, 1, lambda *_: "", theme="light")
    drawn = figure["data"][0]["z"]
    assert drawn.shape == (2, sum_figures.MOST_READ) == (2, 30)
    rest = (1 - drawn.sum(1)).max()
    said = sum_figures.unread(report, 3, 1)
    assert (
        f"The 18 tokens with the least attention are omitted. Together they get at most {rest:.0%}"
        in said
    )
    assert said in shown(report, "contributions", {"head": "3.1"})
    assert "left out" not in shown(MADE["contributions"](), "contributions")


def parting(first: int) -> AnswerPair:
    """A pair of sixty tokens that differ at ``first``."""
    (pair,) = failure().pairs
    assert pair.flows is not None
    right = tuple("x" * 60)
    wrong = (*right[:first], "y", *right[first + 1 :])
    rows = RNG.random((3, 60)).astype(np.float32)
    rows[:, :first] = 0.0
    flow = RNG.random((3, 60)).astype(np.float32) / 60
    flows = replace(pair.flows, right=flow, wrong=flow[::-1].copy())
    return replace(pair, rows=rows, flows=flows, right_tokens=right, wrong_tokens=wrong)


@pytest.mark.parametrize(("first", "equal", "more"), [(45, 44, 0), (8, 8, 12), (0, 0, 20)])
def test_a_failure_states_the_positions_it_omits(first: int, equal: int, more: int) -> None:
    pair = parting(first)
    said = failure_figures.left_out(pair)
    assert (f"The first {equal} positions are omitted: their states are equal" in said) == (
        equal > 0
    )
    most = pair.rows[:, :20].max()
    assert (
        f"{more} more positions are omitted; their states differ by up to {most:.2f}" in said
    ) == (more > 0)
    left = equal + more
    assert failure_figures.shown(pair) == range(left, 60)
    assert pair.flows is not None
    passing = pair.flows.right[:, :left].sum(1).max()
    whole = shown(FailureReport((pair,), 3, 1, 0, 1), "failure")
    assert f"At most {passing:.0%} of the right run's flow" in whole
    assert f"through the {left} omitted positions" in whole
    assert said in whole


def test_a_failure_states_the_pairs_and_links_it_omits() -> None:
    (pair,) = failure().pairs
    whole = shown(FailureReport((pair, pair), 30, 20, 4, 13), "failure")
    assert (
        "30 right, 20 wrong on m; the 2 most similar of 13 pairs are listed; 4 wrong ones" in whole
    )
    assert "3 are wrong only after the answer." in whole
    assert "2 of 2 links; the CSV has all" in whole
    assert "3 right, 1 wrong on m." in shown(failure(), "failure")


def test_the_column_can_be_chosen_where_each_state_was_patched() -> None:
    report = MADE["patching"]()
    for how, off in (("written", True), ("all", False)):
        drawn = actions.draw(
            Service(report), "patching", finished("patching", positions=how), {}, "light"
        )
        assert drawn is not None
        ((options, value),) = drawn.lists.values()
        assert bool(options[0].get("disabled")) == off
        assert value == ("" if off else "1")
        assert len(drawn.figures) == 1 + (how == "all")


def test_the_control_is_shown_at_each_state_too() -> None:
    measured, control = (figures("patching", control=how)[1] for how in ("no", "yes"))
    np.testing.assert_allclose(measured["data"][0]["z"], 2 * control["data"][0]["z"])
    assert "(control)" in control["layout"]["title"]["text"]


def test_a_report_states_what_was_not_patched_or_probed() -> None:
    report = MADE["patching"]()
    assert "Heads are not patched" in shown(report, "patching")
    assert "fewer than five pairs nothing" not in shown(report, "patching")
    two = replace(
        report, components=("row 0", "head 0.1"), columns=np.array([1, 2]),
        effect=np.stack([report.effect[0], np.full((2, 4), np.nan)]),
        control=np.stack([report.control[0], np.full((2, 4), np.nan)]), pairs=np.array([9, 3]),
        positions=np.array([2, 2]), receivers=("a",) * 2, donors=("b",) * 2, controls=("c",) * 2,
    )  # fmt: skip
    assert "Heads are not patched" not in shown(two, "patching")
    assert "Empty: fewer than five pairs" in shown(two, "patching")
    assert "With 9 pairs, the fewest of any column, the error of 50 % is ± 33%" in shown(
        two, "patching"
    )
    both = replace(two, effect=np.full((2, 2, 4), 0.5), pairs=np.array([64, 16]))
    assert "With 16 pairs, the fewest of any column" in shown(both, "patching")
    probed = MADE["probes"]()
    assert "its rows are probed" not in shown(probed, "probes")
    assert "its residual states are probed" in shown(
        replace(probed, components=("row 0", "row 1")), "probes"
    )


def test_a_suite_states_the_prompts_it_did_not_run() -> None:
    def said(**form: Any) -> str:
        return text(suite.suite(MADE["suite"](), {**FORM, **form}, {}, "light").summary)

    own = {"suite": "own", "size": 3}
    whole = said(list={"count": 500}, **own)
    assert "The list has 500 prompts. The first 3 were run." in whole
    assert "were run" not in said(list={"count": 3}, **own)
    assert "The suite has only 3 prompts." in said(size=60)
    assert "There are only" not in said(size=3)


def test_the_drawn_tokens_are_those_with_most_attention() -> None:
    report = large()
    figure = sum_figures.attention(report, 3, 1, lambda *_: "", theme="light")
    drawn = [int(name[1:]) for name in figure["layout"]["xaxis"]["ticktext"]]
    most = report.attention[:, 3, 1].max(0)
    rest = sorted(set(range(48)) - set(drawn))
    assert len(rest) == 18
    assert most[rest].max() <= most[drawn].min()


def test_each_state_is_patched_up_to_the_one_that_writes() -> None:
    report = replace(MADE["patching"](), effect=np.arange(8, dtype=np.float32).reshape(1, 2, 4) / 8)
    figure = sum_figures.patch_positions(report, 0, lambda *_: "", theme="light")
    assert figure["layout"]["xaxis"]["ticktext"] == ["a0", "plus", "b0"]
    np.testing.assert_allclose(figure["data"][0]["z"], report.effect[0, :, :3])


@pytest.mark.parametrize(("kind", "axis"), [("carry", "Balanced accuracy"), ("sum", "Accuracy")])
def test_lines_of_probes_are_named_and_compared_with_the_best_control(kind: str, axis: str) -> None:
    report = MADE["probes"]()
    figure = sum_figures.probe_lines(report, lambda *_: "", kind=kind, theme="light")
    *lines, control = figure["data"]
    chosen = [n for n, name in enumerate(report.targets) if name.startswith(kind)]
    first = {"carry": "carry into column 1", "sum": "sum of column 0"}[kind]
    assert lines[0]["name"] == first
    places = report.written[chosen]
    for line, target, place in zip(lines, chosen, places, strict=True):
        np.testing.assert_allclose(line["y"], report.accuracy[target, :, place])
    best = [report.control[target, :, place] for target, place in zip(chosen, places, strict=True)]
    np.testing.assert_allclose(control["y"], np.max(best, 0))
    assert figure["layout"]["yaxis"]["title"]["text"] == axis
    low, high = figure["layout"]["yaxis"]["range"]
    assert low < 0.5 * (kind == "carry") + 0.01
    assert high > 1.0


def test_axes_show_their_variance_and_a_row_opens_a_prompt() -> None:
    by_sum, by_carry = figures("projection")
    for figure in (by_sum, by_carry):
        said = [figure["layout"][name]["title"]["text"] for name in ("xaxis", "yaxis")]
        assert said == ["axis 1 (70 % of the variance)", "axis 2 (20 % of the variance)"]
    report = MADE["suite"]()
    right = report.emergence.curves[0]
    assert (right.rows.tolist(), right.prompts.tolist()) == ([1, 2, 2], [0, 0, 2])
    (drawn,) = (line for line in figures("suite")[2]["data"] if "right answers (" in
                line.get("name", ""))  # fmt: skip
    assert drawn["customdata"][0] == ""  # no token has emerged yet
    assert all(drawn["customdata"][1:])


def test_the_weights_name_the_head_whose_shares_multiply_most() -> None:
    shares, steps = figures("circuits")
    np.testing.assert_allclose(shares["data"][0]["z"], [[0, 0.5, 0], [0.75, 0.1, 0.075]])
    assert "head 0.1" in steps["layout"]["title"]["text"]
    drawn = actions.draw(Service(MADE["circuits"]()), "circuits", finished("circuits"), {}, "light")
    assert drawn is not None
    said = text(drawn.summary)
    assert "head 0.1 comes closest, but does not make carries by itself" in said
    assert "0.08 of 1. The next is head 0.0: 0.00." in said
    chosen = figures("circuits", head="0.0")[1]
    assert "head 0.0" in chosen["layout"]["title"]["text"]
    np.testing.assert_allclose(chosen["data"][0]["y"], MADE["circuits"]().outputs[0, 0])
