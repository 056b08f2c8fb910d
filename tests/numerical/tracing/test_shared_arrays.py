"""Traces that go on from each other share their arrays, and none changes another."""

from __future__ import annotations

import numpy as np
import pytest

import analysis
from analysis.tracing import prefix
from analysis.tracing.capture import Trace
from tests.numerical.conftest import Case
from tests.numerical.tracing.test_reused_prefix import arrays, assert_same_states
from tests.support import built


def shares(one: Trace, other: Trace) -> bool:
    """Whether two traces hold their states in the same memory; all arrays must agree on it."""
    pairs = (
        (one.resid, other.resid), (one.mlp_out, other.mlp_out), (one.logits, other.logits),
        (one.pattern_of(0), other.pattern_of(0)), (one.value_of(0), other.value_of(0)),
        (one.keys[0].numpy(), other.keys[0].numpy()),
    )  # fmt: skip
    (found,) = {np.shares_memory(*pair) for pair in pairs}
    return found


def test_longer_traces_share_memory_and_no_trace_changes(small: Case) -> None:
    model, ids = small.model, built.ids(small.model, 30 + prefix._SPARE)
    traces = [analysis.trace(model, ids[:20])]
    for length in (21, 24, 25):
        traces.append(analysis.trace(model, ids[:length], after=traces[-1]))
    kept = [{name: array.copy() for name, array in arrays(one).items()} for one in traces]
    first, second, third, fourth = traces
    assert not shares(first, second)
    assert shares(second, third)
    assert shares(second, fourth)
    branch = analysis.trace(model, (*ids[:21], 3, 4), after=second)
    assert branch.reused == 21
    assert not shares(branch, second), "the positions after the prefix are taken"
    beyond = analysis.trace(model, ids, after=fourth)
    assert not shares(beyond, fourth), "there is no room for so many positions"
    half = analysis.trace(model, ids[:26], after=fourth, pattern_dtype="float16")
    assert half.pattern_error > 0.0
    for found, wanted in zip(traces, kept, strict=True):
        for name, array in arrays(found).items():
            np.testing.assert_array_equal(array, wanted[name], err_msg=name)
    for found in (*traces, branch, beyond):
        assert found.pattern_of(0).shape[-2:] == (len(found.tokens),) * 2
        assert_same_states(found, analysis.trace(model, found.token_ids))


def test_without_memory_for_free_positions_a_longer_trace_has_none(
    small: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ids = small.model, built.ids(small.model, 23)
    monkeypatch.setattr(prefix, "fits", lambda *_: False)
    second = analysis.trace(model, ids[:21], after=analysis.trace(model, ids[:20]))
    third = analysis.trace(model, ids, after=second)
    assert third.reused == 21
    assert not shares(second, third)
    assert_same_states(third, analysis.trace(model, ids))
