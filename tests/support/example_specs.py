"""A spec of each technique, for tests that go through the registry.

They suit a model with three layers and a prompt of four tokens. A technique whose spec has fields
without defaults needs a row here.
"""

from __future__ import annotations

from typing import Any

from analysis.contract.specs import Spec
from analysis.experiments.component_specs import ComponentGraphSpec
from analysis.experiments.specs import PromptSpec, SweepSpec
from analysis.flow_graph.specs import LinkSpec, NeuronSpec
from analysis.inside_block.specs import BlockSpec, ExpertSpec, ScoreSpec
from analysis.lens.specs import PromotedSpec
from analysis.tasks.neuron_text_specs import NeuronTextSpec
from analysis.tasks.suite_effects import SuiteEffectSpec
from analysis.tracing.specs import PatternSpec
from analysis.weights.specs import CircuitSpec, StateCircuitSpec

REQUIRED: dict[type[Spec[Any]], dict[str, Any]] = {
    PatternSpec: {"layer": 1},
    LinkSpec: {"kind": "attention", "layer": 1, "source_pos": 1, "target_pos": 3, "head": 1},
    NeuronSpec: {"layer": 1, "position": 2},
    BlockSpec: {"layer": 1, "position": 2},
    ExpertSpec: {"layer": 1, "position": 2},
    ScoreSpec: {"layer": 1, "head": 1, "query": 3, "key": 1},
    StateCircuitSpec: {"layer": 1, "head": 1},
    SuiteEffectSpec: {"model": "fake", "suite": "induction", "size": 2, "limit": 4},
    NeuronTextSpec: {"model": "fake", "layer": 1, "texts": "abcd\nabed"},
    CircuitSpec: {"layer": 1, "head": 1},
    PromotedSpec: {"component": "head_output", "layer": 1, "position": 2, "head": 1},
    PromptSpec: {"model": "fake", "a": "abcd", "b": "abed"},
    ComponentGraphSpec: {"model": "fake", "clean": "abcd", "corrupted": "abed"},
    SweepSpec: {"model": "fake", "clean": "abcd", "corrupted": "abed"},
}


def example_spec(kind: type[Spec[Any]]) -> Any:
    """A spec with the defaults, and the values of ``REQUIRED``."""
    return kind.from_options(**REQUIRED.get(kind, {}))
