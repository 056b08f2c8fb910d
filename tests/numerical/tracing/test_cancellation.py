"""A cancelled forward pass of any kind stops early and leaves the model unchanged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import analysis
from analysis.contract import jobs
from analysis.errors import CancelledError
from analysis.flow_graph import causal_check
from analysis.flow_graph.specs import CausalSpec
from analysis.tasks import batch
from analysis.trajectory.emergence import causal_commit
from tests.numerical.conftest import Case
from tests.support import built

PASSES: dict[str, Callable[[Case], Any]] = {
    "a trace": lambda case: analysis.trace(case.model, case.trace.token_ids),
    "generation": lambda case: analysis.generate(case.model, case.trace.token_ids, 2),
    "cut links": lambda case: causal_check.compute(case.model, case.trace, CausalSpec()),
    "commit rows": lambda case: causal_commit(case.model, case.trace, [3]),
    "a batch of prompts": lambda case: list(batch.states(case.model, [case.trace.token_ids] * 3)),
    "the ledger": lambda case: case.model.check(),
}


@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_cancel_stops_between_two_blocks(
    request: pytest.FixtureRequest, architecture: str, which: str
) -> None:
    case: Case = request.getfixturevalue(architecture)
    before = built.plain_logits(case.model, case.trace.token_ids)
    looks = 0

    def unwanted() -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            raise CancelledError

    with pytest.raises(CancelledError), jobs.listening(None, None, unwanted):
        PASSES[which](case)
    assert looks == 2
    assert np.array_equal(built.plain_logits(case.model, case.trace.token_ids), before)


def test_every_block_of_every_pass_checks_for_a_cancel(llama: Case) -> None:
    looks: list[int] = []
    with jobs.listening(None, None, lambda: looks.append(1)):
        PASSES["a trace"](llama)
        assert len(looks) == llama.model.info.layers
        PASSES["cut links"](llama)
    assert len(looks) > llama.model.info.layers
    assert len(looks) % llama.model.info.layers == 0
