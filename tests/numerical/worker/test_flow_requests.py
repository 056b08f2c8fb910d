"""Every request for a flow graph goes through the worker's engine and the codec."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from analysis import codec
from analysis.contract.specs import cache_key
from analysis.flow_graph.results import CausalCheck, CausalComparison, Graph, LinkReading, Neurons
from analysis.flow_graph.specs import CausalSpec, ComparisonSpec, FlowSpec, LinkSpec, NeuronSpec
from analysis.tracing.specs import TraceSpec
from analysis.worker.engine import Engine
from analysis.worker.messages import Limits, Request

FLOW = FlowSpec(position=3, top_k=2)
ASKED = [
    ("flow", FlowSpec((2, 3), method="norm"), Graph),
    ("flow", FlowSpec(0, 0, direction="up"), Graph),
    ("flow", FlowSpec(method="signed"), Graph),
    ("causal", CausalSpec(FLOW, limit=3), CausalCheck),
    ("comparison", ComparisonSpec(CausalSpec(FLOW, limit=3), ("norm", "signed")), CausalComparison),
    ("link", LinkSpec("attention", 1, 0, 2), LinkReading),
    ("neurons", NeuronSpec(1), Neurons),
]


@pytest.mark.parametrize(("kind", "spec", "wanted"), ASKED)
def test_every_request_has_a_result(
    tiny_llama_dir: Path, kind: str, spec: Any, wanted: type[Any]
) -> None:
    engine = Engine(Limits())
    ids = TraceSpec(str(tiny_llama_dir), (5, 9, 33, 2, 8))
    answer = engine.perform(Request(kind, str(tiny_llama_dir), "f", (ids, spec)))
    assert isinstance(codec.decode(answer.data), wanted)


def test_every_request_has_its_own_key() -> None:
    keys = {cache_key("f", spec) for _, spec, _ in ASKED}
    assert len(keys) == len(ASKED)
    assert all(json.dumps(asdict(spec)) for _, spec, _ in ASKED)
    assert all(hash(spec) == hash(spec) for _, spec, _ in ASKED)
