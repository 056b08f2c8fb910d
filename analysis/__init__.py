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

_HOMES = {
    "AnalysisError": "analysis.errors",
    "Model": "analysis.models.handle",
    "Trace": "analysis.capture",
    "attention_bias": "analysis.api",
    "attribute": "analysis.api",
    "decode": "analysis.api",
    "emergence": "analysis.api",
    "flow": "analysis.api",
    "generate": "analysis.generation",
    "head_output": "analysis.api",
    "load_model": "analysis.models.handle",
    "trace": "analysis.capture",
}
__all__ = [
    "AnalysisError",
    "Model",
    "Trace",
    "attention_bias",
    "attribute",
    "decode",
    "emergence",
    "flow",
    "generate",
    "head_output",
    "interventions",
    "load_model",
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
