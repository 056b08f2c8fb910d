"""The service that views ask, answering with a small model's own numbers in this process."""

from __future__ import annotations

from typing import Any

from analysis import codec
from analysis.requests import ON_MODEL, ON_TRACE, asked
from analysis.results import ModelInfo, RunResult
from analysis.specs import RunSpec, TraceSpec
from analysis.worker.messages import Limits, Request
from analysis.worker.perform import Bench


class TrueService:
    """Everything by the worker's bench and through the codec, and kept.

    Args:
        model: The one model that is asked.
    """

    problem = ""

    def __init__(self, model: str) -> None:
        self.model = model
        self.bench = Bench(Limits())
        self.memo: dict[Any, Any] = {}

    def _asked(self, kind: str, *specs: Any) -> Any:
        answer = self.bench.perform(Request(kind, self.model, "f", specs))
        return codec.decode(answer.data)

    def run(self, spec: RunSpec, job: Any = None) -> RunResult:
        """Tokens, and what the model says after each."""
        return self._asked("run", spec)

    def model_info(self, name: str, job: Any = None) -> ModelInfo:
        """What the model is."""
        return self._asked("info")

    def derive(self, trace: TraceSpec, spec: Any, job: Any = None) -> Any:
        """What is asked of one forward pass."""
        found = self._asked(asked(ON_TRACE, spec).kind, trace, spec)
        return self.memo.setdefault((trace, spec), found)

    def report(self, model: str, spec: Any, job: Any = None) -> Any:
        """What is asked of the model as such."""
        return self.memo.setdefault((model, spec), self._asked(asked(ON_MODEL, spec).kind, spec))

    def peek(self, spec: Any, option: Any = None) -> Any:
        """What was asked before."""
        return self.memo.get((spec, option))

    grid = pattern = flow = causal = comparison = link = neurons = emergence = story = derive
