"""Open a decoder language model and see how it comes to its next token.

Names are resolved when first used, so that the web process can import errors,
specs and results without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis import interventions as interventions
    from analysis.api import attention_bias, attribute, decode, emergence, flow, head_output
    from analysis.capture import Trace, trace
    from analysis.errors import AnalysisError
    from analysis.generation import generate
    from analysis.models.handle import Model, load_model
    from analysis.readings import (
        colours,
        disagreement,
        embedding_report,
        largest_steps,
        norm_report,
        promoted,
        similarity_report,
        steps,
    )

_HOMES = {
    "AnalysisError": "analysis.errors",
    "Model": "analysis.models.handle",
    "Trace": "analysis.capture",
    "attention_bias": "analysis.api",
    "attribute": "analysis.api",
    "colours": "analysis.readings",
    "decode": "analysis.api",
    "disagreement": "analysis.readings",
    "embedding_report": "analysis.readings",
    "emergence": "analysis.api",
    "flow": "analysis.api",
    "generate": "analysis.generation",
    "head_output": "analysis.api",
    "largest_steps": "analysis.readings",
    "load_model": "analysis.models.handle",
    "norm_report": "analysis.readings",
    "promoted": "analysis.readings",
    "similarity_report": "analysis.readings",
    "steps": "analysis.readings",
    "trace": "analysis.capture",
}
__all__ = [
    "AnalysisError",
    "Model",
    "Trace",
    "attention_bias",
    "attribute",
    "colours",
    "decode",
    "disagreement",
    "embedding_report",
    "emergence",
    "flow",
    "generate",
    "head_output",
    "interventions",
    "largest_steps",
    "load_model",
    "norm_report",
    "promoted",
    "similarity_report",
    "steps",
    "trace",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name == "interventions":
        return import_module("analysis.interventions")
    raise AttributeError(f"module 'analysis' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
