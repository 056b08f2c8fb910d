"""Open a decoder language model and see how it comes to its next token.

Names are imported on first use, so that the web process can import errors, specs and
results without torch. Folders are not named after public functions (``tracing``, not ``trace``):
an imported submodule would replace the function.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis import interventions as interventions
    from analysis.attribution.direct import attribute
    from analysis.errors import AnalysisError
    from analysis.experiments.alignment import align
    from analysis.experiments.comparison import compare
    from analysis.experiments.component_graph import component_graph
    from analysis.experiments.sweep import sweep
    from analysis.export.apply import bertviz, circuitsvis, compute, transformer_lens_cache
    from analysis.export.recipes import recipe
    from analysis.export.results import load_recipe, load_result, tables
    from analysis.flow_graph.graph import flow
    from analysis.inside_block.aggregation import aggregation_report
    from analysis.inside_block.block import block
    from analysis.inside_block.experts import experts
    from analysis.inside_block.scores import score_parts
    from analysis.learned.translators import import_tuned_lens
    from analysis.lens.colours import colours
    from analysis.lens.disagreement import disagreement
    from analysis.lens.grid import decode
    from analysis.lens.promoted import promoted
    from analysis.loading import load_model
    from analysis.model.handle import Model
    from analysis.reports.embeddings import embedding_report
    from analysis.reports.norm_report import norm_report
    from analysis.reports.similarity import similarity_report
    from analysis.tasks.carry_circuits import carry_circuits
    from analysis.tasks.neuron_texts import neuron_texts
    from analysis.tasks.probes import probe_direction
    from analysis.tasks.suite_effects import suite_effects
    from analysis.tasks.teaching import known_circuit
    from analysis.tracing.capture import Trace, trace
    from analysis.tracing.generation import generate
    from analysis.tracing.heads import attention_bias, head_output
    from analysis.tracing.vectors import save_direction
    from analysis.trajectory.emergence import emergence
    from analysis.trajectory.steps import largest_steps, steps
    from analysis.weights.circuits import circuits, state_circuits
    from analysis.weights.report import weight_report

_HOMES = {
    "AnalysisError": "analysis.errors",
    "Model": "analysis.model.handle",
    "Trace": "analysis.tracing.capture",
    "align": "analysis.experiments.alignment",
    "attention_bias": "analysis.tracing.heads",
    "attribute": "analysis.attribution.direct",
    "carry_circuits": "analysis.tasks.carry_circuits",
    "bertviz": "analysis.export.apply",
    "circuitsvis": "analysis.export.apply",
    "colours": "analysis.lens.colours",
    "component_graph": "analysis.experiments.component_graph",
    "compute": "analysis.export.apply",
    "compare": "analysis.experiments.comparison",
    "decode": "analysis.lens.grid",
    "disagreement": "analysis.lens.disagreement",
    "embedding_report": "analysis.reports.embeddings",
    "emergence": "analysis.trajectory.emergence",
    "experts": "analysis.inside_block.experts",
    "flow": "analysis.flow_graph.graph",
    "generate": "analysis.tracing.generation",
    "known_circuit": "analysis.tasks.teaching",
    "head_output": "analysis.tracing.heads",
    "largest_steps": "analysis.trajectory.steps",
    "load_model": "analysis.loading",
    "load_recipe": "analysis.export.results",
    "load_result": "analysis.export.results",
    "neuron_texts": "analysis.tasks.neuron_texts",
    "norm_report": "analysis.reports.norm_report",
    "probe_direction": "analysis.tasks.probes",
    "promoted": "analysis.lens.promoted",
    "open": "dash_app.notebook",
    "recipe": "analysis.export.recipes",
    "show": "dash_app.notebook",
    "similarity_report": "analysis.reports.similarity",
    "state_circuits": "analysis.weights.circuits",
    "steps": "analysis.trajectory.steps",
    "suite_effects": "analysis.tasks.suite_effects",
    "tables": "analysis.export.results",
    "save_direction": "analysis.tracing.vectors",
    "sweep": "analysis.experiments.sweep",
    "import_tuned_lens": "analysis.learned.translators",
    "trace": "analysis.tracing.capture",
    "transformer_lens_cache": "analysis.export.apply",
    "weight_report": "analysis.weights.report",
    "score_parts": "analysis.inside_block.scores",
    "circuits": "analysis.weights.circuits",
    "block": "analysis.inside_block.block",
    "aggregation_report": "analysis.inside_block.aggregation",
}
__all__ = [
    "AnalysisError",
    "Model",
    "Trace",
    "aggregation_report",
    "align",
    "attention_bias",
    "attribute",
    "bertviz",
    "block",
    "carry_circuits",
    "circuits",
    "circuitsvis",
    "colours",
    "compare",
    "component_graph",
    "compute",
    "decode",
    "disagreement",
    "embedding_report",
    "emergence",
    "experts",
    "flow",
    "generate",
    "head_output",
    "import_tuned_lens",
    "interventions",
    "known_circuit",
    "largest_steps",
    "load_model",
    "load_recipe",
    "load_result",
    "neuron_texts",
    "norm_report",
    "open",
    "probe_direction",
    "promoted",
    "recipe",
    "save_direction",
    "score_parts",
    "show",
    "similarity_report",
    "state_circuits",
    "steps",
    "suite_effects",
    "sweep",
    "tables",
    "trace",
    "transformer_lens_cache",
    "weight_report",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return _public(name, getattr(import_module(_HOMES[name]), name))
    if name == "interventions":
        return import_module("analysis.interventions")
    raise AttributeError(f"module 'analysis' has no attribute {name!r}")


@lru_cache(maxsize=64)
def _public(name: str, member: Any) -> Any:
    """A class as it is; a function with its arguments checked."""
    if isinstance(member, type):
        return member
    from analysis.contract.arguments import checked

    return checked(member)


def __dir__() -> list[str]:
    return sorted(__all__)
