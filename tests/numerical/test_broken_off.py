"""Long work that breaks off a pass when a click comes gives the same result as undisturbed work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import analysis
from analysis.contract import jobs
from analysis.model.handle import Model
from analysis.tasks import batch
from tests.numerical.experiments.edges_by_hand import ANSWER, CLEAN, CORRUPTED, FOIL, make
from tests.support import built

#: The blocks at which a click comes, counted over all passes that can be broken off.
CLICKS = (2, 9, 20)
PAIR = {"answer": ANSWER, "foil": FOIL}


def sweep(model: Model) -> list[np.ndarray]:
    return [analysis.sweep(model, CLEAN, CORRUPTED, **PAIR).effect]


def edges(model: Model) -> list[np.ndarray]:
    found = analysis.component_graph(model, CLEAN, CORRUPTED, edges=20, **PAIR)
    return [found.edge_effect, found.kept, found.random, np.array(found.passes)]


def suite(model: Model) -> list[np.ndarray]:
    asked = [tuple(CLEAN), tuple(CORRUPTED), tuple(CLEAN[1:])]
    return [one.resid for one in batch.states(model, asked, most=1)]


@pytest.mark.parametrize("work", [sweep, edges, suite])
def test_a_click_breaks_off_a_pass_of_long_work(work: Callable[[Model], list[Any]]) -> None:
    model = built.understood(make("llama"), "llama")
    run = analysis.trace(model, CLEAN)
    expected = work(model)
    others: list[np.ndarray] = []
    checks, waiting = 0, False

    def check() -> None:
        """Three clicks come, the first at the second block of the first pass."""
        nonlocal checks, waiting
        checks += jobs._can_repeat.get()
        if jobs._can_repeat.get() and checks in CLICKS:
            waiting = True
            jobs.give_way()

    def pause() -> None:
        nonlocal waiting
        if waiting:
            waiting = False
            others.append(analysis.trace(model, CLEAN).logits)

    with jobs.listening(None, pause, check):
        found = work(model)
    assert others, "no pass was broken off"
    for logits in others:
        np.testing.assert_array_equal(logits, run.logits)
    for own, undisturbed in zip(found, expected, strict=True):
        np.testing.assert_array_equal(own, undisturbed)
