"""Every identity of the ledger can fail, with an error as large as the damage."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import analysis
from analysis import ledger
from analysis.contract.ledger import LedgerSpec
from analysis.tracing.capture import Trace
from tests.numerical import reference
from tests.numerical.conftest import Case
from tests.numerical.lens.test_grid import matrices, slow_norm
from tests.support import built

AT = 5


def errors(case: Case, trace: Trace) -> dict[int, float]:
    """Identity -> error, on a run."""
    found = ledger.check_run(case.model, trace, LedgerSpec(AT))
    return {entry.number: entry.error for entry in found.entries}


def changed(case: Case, name: str, edit: Any) -> Trace:
    """The run with one of its arrays edited in place."""
    array = getattr(case.trace, name).copy()
    edit(array)
    return replace(case.trace, **{name: array}, scratch={})


def test_the_identities_hold_on_a_correct_model(small: Case) -> None:
    found = errors(small, small.trace)
    assert sorted(found) == [1, 2, 3, 4, 5, 6, 7]
    assert max(found.values()) < 1e-4


def test_a_wrong_sum_of_the_stream_fails(small: Case) -> None:
    push = np.linspace(-1.0, 1.0, small.model.info.d_model)
    broken = changed(small, "mlp_out", lambda array: array[1].__setitem__(AT, array[1, AT] + push))
    parts = (small.trace.resid[1], small.trace.attn_out[1], broken.mlp_out[1])
    largest = max(np.sqrt((part.astype(np.float64) ** 2).sum())
                  for part in (*parts, small.trace.resid[2]))  # fmt: skip
    assert errors(small, broken)[2] == pytest.approx(np.sqrt((push**2).sum()) / largest, rel=1e-3)


def test_a_wrong_last_row_fails(small: Case) -> None:
    broken = changed(small, "resid", lambda array: array[-1].__setitem__(AT, array[-1, AT - 1]))
    wanted = small.trace.logits.astype(np.float64)
    told = matrices(small)[1] @ slow_norm(small, small.trace.resid[-1, AT - 1], "full")
    error = np.sqrt(((told - wanted[AT]) ** 2).sum()) / np.sqrt((wanted**2).sum())
    assert errors(small, broken)[3] == pytest.approx(error, rel=1e-3)


@pytest.mark.parametrize(
    ("where", "value", "error"), [((1, 0, 2, 5), 0.3, 0.3), ((2, 3, 4, slice(None)), 0.0, 1.0)]
)
def test_a_pattern_that_is_not_causal_or_not_normalised_fails(
    small: Case, where: Any, value: float, error: float
) -> None:
    broken = changed(small, "pattern", lambda array: array.__setitem__(where, value))
    assert errors(small, broken)[4] == pytest.approx(error, abs=1e-5)


def test_wrong_heads_fail(small: Case) -> None:
    slow = reference.forward(small.model.hf, small.trace.token_ids)
    broken = changed(small, "attn_out", lambda array: array[2].__imul__(1.5))
    whole = 1.5 * slow.attn[2]
    bias = np.broadcast_to(slow.biases[2], whole.shape)
    heads = [head.sum(1) for head in slow.vectors[2]]
    largest = max(np.linalg.norm(part) for part in (whole, bias, *heads))
    wanted = np.linalg.norm(0.5 * slow.attn[2]) / largest
    assert errors(small, broken)[5] == pytest.approx(wanted, rel=1e-3)


def test_a_wrong_attribution_fails(small: Case) -> None:
    choice = int(small.trace.logits[AT].argmax())
    broken = changed(small, "logits", lambda array: array.__setitem__((AT, choice), 9.0))
    parts = analysis.attribute(small.model, small.trace, AT, choice)
    sizes = [9.0, abs(parts.embedding), np.abs(parts.heads).max(), np.abs(parts.mlps).max()]
    missing = 9.0 - float(small.trace.logits[AT, choice])
    assert errors(small, broken)[6] == pytest.approx(missing / max(sizes), rel=1e-3)


def test_a_graph_that_loses_mass_fails(small: Case) -> None:
    graph = analysis.flow(small.model, small.trace, position=AT, method="proximity")
    assert ledger.graph_error(graph) < 1e-5
    tokens = (graph.node_kind == 0) & (graph.node_depth == 0)
    lost = replace(graph, node_flow=np.where(tokens, 0.75, 1.0) * graph.node_flow)
    arrived = float(graph.node_flow[tokens].sum())
    assert ledger.shown_and_hidden(lost) == pytest.approx(0.25 * arrived, abs=1e-5)
    share = graph.link_share.copy()
    share[3] += 0.2
    assert ledger.graph_error(replace(graph, link_share=share)) == pytest.approx(0.2, abs=1e-5)


@pytest.mark.parametrize("number", [1, 8])
def test_a_run_that_the_model_does_not_repeat_fails(small: Case, number: int) -> None:
    """Capture and patching are compared with the logits; changed logits fail."""
    measure = {entry[0]: entry[2] for entry in ledger.IDENTITIES}[number]
    other = analysis.trace(small.model, built.ids(small.model, 9, seed=77))
    assert measure((small.model, small.trace, other))[0] < 1e-5
    push = np.zeros_like(small.trace.logits)
    push[AT, 3] = 2.0
    broken = replace(small.trace, logits=small.trace.logits + push, scratch={})
    largest = max(np.linalg.norm(small.trace.logits), np.linalg.norm(broken.logits))
    error = measure((small.model, broken, other))[0]
    assert error == pytest.approx(2.0 / largest, rel=0.1)
