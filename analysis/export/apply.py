"""Apply the technique of a spec: what the model worker does, for scripts and notebooks."""

from __future__ import annotations

from typing import Any

from analysis.errors import SpecError
from analysis.model.handle import Model
from analysis.registry import technique_for
from analysis.tracing.capture import Trace


def compute(model: Model, spec: Any, trace: Trace | None = None) -> Any:
    """The result of a spec, as the page shows it.

    Args:
        model: From ``load_model``.
        spec: Any spec of ``analysis.registry``, such as ``LensSpec(norm="unit")``.
        trace: From ``trace``, for specs of results on a forward pass.

    Returns:
        The technique's result.

    Raises:
        SpecError: If there is no technique for the spec, or its trace is missing.
    """
    technique = technique_for(spec)
    work = technique.load()
    if technique.subject == "model":
        return work(model, spec)
    if technique.subject == "prompt":
        return work(model, spec)[0]
    if technique.subject == "study":
        return work(model, spec, None, model.info.max_positions or 2**31)
    if trace is None:
        raise SpecError(
            f"{type(spec).__name__} needs a forward pass.", "Give the result of analysis.trace."
        )
    return work(model, trace, spec)
