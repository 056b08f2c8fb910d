"""A spec of each technique, for tests that go through the registry.

They suit a model with three layers and a prompt of four tokens. A technique whose spec has fields
without defaults needs a row here.
"""

from __future__ import annotations

from typing import Any

from analysis.contract.specs import Spec
from analysis.flow_graph.specs import LinkSpec, NeuronSpec
from analysis.lens.specs import PromotedSpec
from analysis.tracing.specs import PatternSpec

REQUIRED: dict[type[Spec[Any]], dict[str, Any]] = {
    PatternSpec: {"layer": 1},
    LinkSpec: {"kind": "attention", "layer": 1, "source_pos": 1, "target_pos": 3, "head": 1},
    NeuronSpec: {"layer": 1, "position": 2},
    PromotedSpec: {"component": "head_output", "layer": 1, "position": 2, "head": 1},
}


def example_spec(kind: type[Spec[Any]]) -> Any:
    """A spec with the defaults, and the values of ``REQUIRED``."""
    return kind.from_options(**REQUIRED.get(kind, {}))
