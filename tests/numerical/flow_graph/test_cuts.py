"""Cuts that leave out the positions before them, against cuts of the whole prompt."""

from __future__ import annotations

import numpy as np
import pytest

import analysis
from analysis.attribution.direct import target_of
from analysis.contract import jobs
from analysis.flow_graph import cuts
from tests.numerical.cut_reference import make
from tests.numerical.flow_graph.test_effect import (
    DIFFERS,
    FOIL,
    SECOND,
    TOKEN,
    TOKENS,
    both_prompts,
)
from tests.support import built


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
@pytest.mark.parametrize("value", ["mean", "resample"])
def test_cuts_that_leave_out_earlier_positions_have_the_same_effect(
    family: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = built.understood(make(family), family)
    tokens, first = both_prompts(model)
    run = analysis.trace(model, first)
    target = target_of(model, run, -1, TOKEN, FOIL)
    baseline = cuts.baseline_of(model, run, len(first), value, (SECOND,))
    last = len(tokens) - 1
    places = [("mlp", 0, -1, pos, pos) for pos in (last, DIFFERS, last - 1)]
    places += [("attention", 1, 1, 1, last), ("attention", 0, -1, 2, 4)]
    links = [cuts.Cut(*place) for place in places]
    sizes: list[tuple[int, ...]] = []
    monkeypatch.setattr(cuts, "_LEAST_TOKENS", 0)
    watched = model.hf.register_forward_pre_hook(
        lambda _module, _args, named: sizes.append(tuple(named["input_ids"].shape)),
        with_kwargs=True,
    )
    short, _ = cuts.effects(model, run, links, target, baseline)
    watched.remove()
    assert sizes[1:] == [(3, 1), (3, 2), (2, 3)]  # one of each with nothing cut
    monkeypatch.setattr(cuts, "_prefix", lambda *_: None)
    whole, passes = cuts.effects(model, run, links, target, baseline)
    assert passes == 1
    np.testing.assert_allclose(short, whole, rtol=1e-3, atol=1e-5)
    assert np.abs(whole).min() > 1e-5


@pytest.mark.parametrize("family", ["gptj", "granite_swa", "qwen3_next"])
def test_models_without_a_cache_of_all_positions_are_cut_whole(family: str) -> None:
    """Hooks need all queries; a window or a state has no key for each position."""
    model = built.understood(make(family), family)
    run = analysis.trace(model, TOKENS)
    assert cuts._prefix(model, run, TOKENS) is None


def test_a_click_breaks_off_a_pass_which_is_then_run_again() -> None:
    """The other work gets a clean model, and the effects are those of an undisturbed run."""
    model = built.understood(make("llama"), "llama")
    run = analysis.trace(model, TOKENS)
    target = target_of(model, run, -1, TOKEN, FOIL)
    baseline = cuts.baseline_of(model, run, len(TOKENS), "mean")
    links = [cuts.Cut("mlp", 0, -1, 1, 1), cuts.Cut("attention", 1, 1, 1, len(TOKENS) - 1)]
    expected, _ = cuts.effects(model, run, links, target, baseline)
    checks: list[bool] = []
    others: list[np.ndarray] = []
    waiting = False

    def check() -> None:
        """A click comes in the second block of the first pass that can be broken off."""
        nonlocal waiting
        checks.append(jobs._can_repeat.get())
        if sum(checks) == 2:
            waiting = True
            jobs.give_way()

    def pause() -> None:
        nonlocal waiting
        if waiting:
            waiting = False
            others.append(analysis.trace(model, TOKENS).logits)

    with jobs.listening(None, pause, check):
        found, _ = cuts.effects(model, run, links, target, baseline)
    np.testing.assert_array_equal(others, [run.logits])
    np.testing.assert_array_equal(found, expected)
