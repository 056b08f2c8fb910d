"""Compute in this process what the model worker computes, for scripts and notebooks."""

from __future__ import annotations

from threading import RLock
from typing import Any

from analysis import codec
from analysis.errors import SpecError
from analysis.model.handle import Model
from analysis.registry import technique_for
from analysis.tracing.capture import Trace
from analysis.worker.engine import Engine
from analysis.worker.messages import Limits, Request


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


class LocalService:
    """The part of ``analysis.service.Service`` that views use, without another process.

    Args:
        model: The model that answers, whatever name a request has.
    """

    problem = ""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._engine = Engine(Limits())
        self._engine.adopt(model)
        self._memo: dict[Any, Any] = {}
        self._lock = RLock()

    def ask(self, subject: Any, spec: Any, job: Any = None) -> Any:
        """The result of a request, computed once."""
        with self._lock:
            found = self._memo.get((subject, spec))
            if found is None:
                found = self._memo[subject, spec] = self._computed(subject, spec)
        return found

    def peek(self, subject: Any, spec: Any) -> Any:
        """The result of an earlier request, or None."""
        return self._memo.get((subject, spec))

    def _computed(self, subject: Any, spec: Any) -> Any:
        technique = technique_for(spec)
        specs = (subject, spec) if technique.subject == "trace" else (spec,)
        info = self.model.info
        request = Request(technique.name, info.name, info.fingerprint, specs)
        return codec.decode(self._engine.perform(request).data)
