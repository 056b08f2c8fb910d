"""The real work, in the worker process: load models, keep traces, compute techniques.

Models and traces stay resident, each bounded in bytes; a trace that was let go
is made again. Adding a technique is one line in ``TECHNIQUES``.
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from analysis import codec
from analysis.bounded import Bounded
from analysis.capture import Trace, trace
from analysis.errors import PromptError, SpecError
from analysis.ledger import check_run
from analysis.models import catalog, memory, placement
from analysis.models.handle import Model, load_model
from analysis.run import run, tokenize
from analysis.specs import RunSpec, TraceSpec
from analysis.store import Memo
from analysis.tasks.studies import STUDIES
from analysis.techniques import (
    attention,
    causal,
    colours,
    disagreement,
    embeddings,
    emergence,
    flow,
    lens,
    link_reading,
    neurons,
    norm_report,
    promoted,
    similarity,
    steps,
    story,
)
from analysis.worker.messages import Answer, Limits, Request

#: What a request of this kind is answered by: (model, trace, spec) -> a result.
TECHNIQUES: dict[str, Callable[[Model, Trace, Any], Any]] = {
    "grid": lens.compute,
    "pattern": attention.compute,
    "flow": flow.compute,
    "emergence": emergence.compute,
    "story": story.compute,
    "run_ledger": check_run,
    "causal": causal.compute,
    "comparison": causal.compare,
    "link": link_reading.compute,
    "neurons": neurons.compute,
    "colours": colours.compute,
    "promoted": promoted.compute,
    "disagreement": disagreement.compute,
    "steps": steps.compute,
    "largest_steps": steps.at_every_position,
    "similarity": similarity.compute,
}

#: The same of a model as such: (model, spec) -> a result.
REPORTS: dict[str, Callable[[Model, Any], Any]] = {
    "ledger": lambda model, _spec: model.check(),
    "embedding_report": embeddings.compute,
    "norm_report": norm_report.compute,
}


def perform(request: Request, limits: Limits) -> Answer:
    """Answer one request.

    Raises:
        AnalysisError: Whatever keeps it from being answered, in words for the user.
    """
    return _bench(limits).perform(request)


@lru_cache(maxsize=1)
def _bench(limits: Limits) -> Bench:
    return Bench(limits)


class Bench:
    """The resident models and recent traces, and what is done with them.

    Args:
        limits: Bounds on prompts and memory.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._models: Bounded[Model] = Bounded(limits.model_bytes, lambda model: model.nbytes)
        self._traces: Bounded[Trace] = Bounded(limits.trace_bytes, lambda kept: kept.nbytes)
        self._forwards = 0  # of the request under way
        self._finished = Memo(Path(limits.tasks), limits.task_bytes) if limits.tasks else None

    def perform(self, request: Request) -> Answer:
        """Answer one request, and say how many forward passes it took."""
        outer, self._forwards = self._forwards, 0  # it may come in the midst of longer work
        try:
            model = self._model(request)
            result = self._result(request, model)
            forwards = self._forwards
        finally:
            self._forwards = outer
        info = model.info
        origin = {"source": info.source, "revision": info.revision, "dtype": info.dtype}
        data = codec.encode(result, {**origin, "quantised": info.quantised})
        resident = tuple(str(key[0]) for key in self._models if isinstance(key, tuple))
        return Answer(data, info.fingerprint, forwards, resident)

    def _result(self, request: Request, model: Model) -> Any:
        if request.kind == "info":
            return model.info
        if request.kind in REPORTS:
            return REPORTS[request.kind](model, request.specs[0])
        if request.kind in STUDIES:
            longest = self._limits.max_prompt_tokens
            return STUDIES[request.kind](model, request.specs[0], self._finished, longest)
        if request.kind == "run" and isinstance(request.specs[0], RunSpec):
            return self._run(model, request.specs[0])
        technique = TECHNIQUES.get(request.kind)
        if technique is None or not isinstance(request.specs[0], TraceSpec):
            raise SpecError(f"There is no computation called {request.kind!r}.", "Reload the page.")
        return technique(model, self._trace(model, request.specs[0]), request.specs[1])

    def _model(self, request: Request) -> Model:
        key = (request.model, request.fingerprint)
        model = self._models.get(key)
        if model is None:
            self._make_room(request.model)
            model = load_model(request.model, dtype=self._limits.dtype, device=self._limits.device)
            model.hf.register_forward_pre_hook(self._count)
            self._models.put(key, model)
        return model

    def _make_room(self, name: str) -> None:
        """Put out models, the least recently used first, until the next one may come in.

        Before it is loaded: two large models at once might not fit, one after the other does.
        """
        entry = catalog.find(name)
        place = placement.choose(entry, self._limits.dtype, self._limits.device).where
        wanted = memory.needed(entry, catalog.dtype_of(entry, self._limits.dtype))
        while self._models.used + wanted > self._models.limit or memory.free(place) < wanted:
            if not self._models.shed():
                return  # then it is loading that refuses it
            gc.collect()

    def _count(self, module: Any, args: Any) -> None:
        self._forwards += 1

    def _run(self, model: Model, spec: RunSpec) -> Any:
        ids = tokenize(model, spec)
        limit = self._limits.max_prompt_tokens
        if len(ids) > limit:
            raise PromptError(
                f"The prompt has {len(ids)} tokens; this server reads at most {limit}.",
                "Shorten it, or raise STRATASCOPE_MAX_PROMPT_TOKENS.",
            )
        result, made = run(model, spec)
        self._traces.put(_trace_key(model, result.token_ids), made)
        return result

    def _trace(self, model: Model, spec: TraceSpec) -> Trace:
        key = _trace_key(model, spec.token_ids)
        kept = self._traces.get(key)
        if kept is None:
            kept = trace(model, spec.token_ids)
            self._traces.put(key, kept)
        return kept


def _trace_key(model: Model, token_ids: tuple[int, ...]) -> str:
    text = f"{model.info.fingerprint}:{','.join(map(str, token_ids))}"
    return hashlib.sha256(text.encode()).hexdigest()
