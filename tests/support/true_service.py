"""A service for views that computes with a small model in this process."""

from __future__ import annotations

from typing import Any

from analysis import codec
from analysis.registry import technique_for
from analysis.worker.engine import Engine
from analysis.worker.messages import Limits, Request


class TrueService:
    """Compute with the worker's engine, pass results through the codec, and keep them.

    Args:
        model: The only model.
    """

    problem = ""

    def __init__(self, model: str) -> None:
        self.model = model
        self.engine = Engine(Limits())
        self.memo: dict[Any, Any] = {}

    def ask(self, subject: Any, spec: Any, job: Any = None) -> Any:
        """The engine's result, through the codec."""
        technique = technique_for(spec)
        specs = (subject, spec) if technique.subject == "trace" else (spec,)
        answer = self.engine.perform(Request(technique.name, self.model, "f", specs))
        return self.memo.setdefault((subject, spec), codec.decode(answer.data))

    def peek(self, subject: Any, spec: Any) -> Any:
        """The result of an earlier request."""
        return self.memo.get((subject, spec))
