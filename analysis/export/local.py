"""Answers requests with a model that is loaded in this process, for notebooks and scripts."""

from __future__ import annotations

from threading import RLock
from typing import Any

from analysis import codec
from analysis.model.handle import Model
from analysis.registry import technique_for
from analysis.worker.engine import Engine
from analysis.worker.messages import Limits, Request


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
