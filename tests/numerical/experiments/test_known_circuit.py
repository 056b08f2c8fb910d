"""An induction circuit built by hand is found, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

import analysis
from tests.support import built
from tests.support.induction import induction_model

#: A pair of tokens, others, and the first of the pair again; the second prompt has another pair.
CLEAN = (1, 7, 2, 3, 9, 7)
CORRUPTED = (1, 4, 2, 3, 9, 7)
LAST = 5
CIRCUIT = {
    ("embedding", "head 0.0 value", 1),  # the first of the pair
    ("head 0.0", "head 1.0 key", 2),  # at the second, what came before it
    ("head 1.0", "answer", LAST),
}


@pytest.mark.parametrize("score", ["gradient", "integrated"])
def test_the_edges_of_an_induction_head_are_found(score: str) -> None:
    model = built.understood(induction_model(), "induction")
    graph = analysis.component_graph(
        model, CLEAN, CORRUPTED, answer=2, foil=3, score=score, measured=3, draws=2, edges=40
    )
    assert graph.full_value > 5 > abs(graph.empty_value)
    first = {
        (graph.senders[s], graph.receivers[r], int(p))
        for s, r, p in zip(
            graph.edge_sender[:3], graph.edge_receiver[:3], graph.edge_pos[:3], strict=True
        )
    }
    assert first == CIRCUIT
    assert (graph.edge_size[:3] == 3).all()
    assert graph.edge_measured[:3].all()
    lead = graph.full_value - graph.empty_value
    np.testing.assert_allclose(graph.edge_effect[:3], lead, rtol=0.02)
    assert np.abs(graph.edge_effect[3:]).max() < 0.01 * lead
    assert graph.kept[0] == pytest.approx(1.0, abs=0.02)
    assert graph.removed[0] == pytest.approx(0.0, abs=0.02)
    assert np.abs(graph.random[0]).max() < 0.02
