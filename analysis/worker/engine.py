"""The engine in the worker process: it loads models, keeps traces and runs techniques.

Models and traces stay resident, each bounded in bytes. A trace that was dropped is made again.
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from analysis import codec, registry
from analysis.contract.arguments import out_of_memory
from analysis.errors import AnalysisError, NotEnoughMemoryError, PromptError
from analysis.experiments.specs import about_second
from analysis.loading import load_model
from analysis.model import catalog, memory, pretrained
from analysis.model.handle import Model
from analysis.store.memo import LruCache, Memo
from analysis.tracing.capture import Trace, fitting_trace
from analysis.tracing.generation import tokenize
from analysis.tracing.interventions import RunEdit
from analysis.tracing.specs import RunSpec
from analysis.worker.messages import Answer, Limits, Request


def perform(request: Request, limits: Limits) -> Answer:
    """Answer one request.

    Raises:
        AnalysisError: If the request cannot be answered; the message is for the user.
    """
    return _engine(limits).perform(request)


@lru_cache(maxsize=1)
def _engine(limits: Limits) -> Engine:
    return Engine(limits)


class Engine:
    """The resident models and recent traces, and the computations on them.

    Args:
        limits: Bounds on prompts and memory.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._models: LruCache[Model] = LruCache(limits.model_bytes, lambda model: model.nbytes)
        self._traces: LruCache[Trace] = LruCache(limits.trace_bytes, lambda kept: kept.nbytes)
        self._forwards = 0  # of the request under way
        self._finished = Memo(Path(limits.tasks), limits.task_bytes) if limits.tasks else None

    def perform(self, request: Request) -> Answer:
        """Answer one request, and count its forward passes."""
        outer, self._forwards = self._forwards, 0  # a click may interrupt longer work
        try:
            model = self._model(request.model, request.fingerprint)
            second = self._second(request, model)
            result = self._result(request, model, second)
            forwards = self._forwards
        except (MemoryError, RuntimeError) as error:
            raise out_of_memory(f"The {request.kind} computation", error) or error from error
        finally:
            self._forwards = outer
        info = model.info
        origin = {"source": info.source, "revision": info.revision, "dtype": info.dtype}
        data = codec.encode(result, {**origin, "quantised": info.quantised})
        resident = tuple(str(key[0]) for key in self._models if isinstance(key, tuple))
        stale = second is not None and second.info.fingerprint != request.other
        return Answer(data, "" if stale else info.fingerprint, forwards, resident)

    def _result(self, request: Request, model: Model, second: Model | None) -> Any:
        technique = registry.named(request.kind)
        compute = technique.load()
        spec: Any = request.specs[-1]
        match technique.subject:
            case "prompt":
                return self._run(model, spec, compute)
            case "trace":
                return compute(model, self._trace(model, request.specs[0]), spec)
            case "model":
                return compute(model, spec)
            case "study":
                more = {} if second is None else {"other": second}
                longest = self._limits.max_prompt_tokens
                return compute(model, spec, self._finished, longest, **more)

    def _model(self, name: str, fingerprint: str, beside: Model | None = None) -> Model:
        key = (name, fingerprint)
        model = self._models.get(key)
        if model is None:
            self._make_room(name, beside)
            model = load_model(name, dtype=self._limits.dtype, device=self._limits.device)
            model.hf.register_forward_pre_hook(self._count)
            self._models.put(key, model)
        return model

    def _second(self, request: Request, first: Model) -> Model | None:
        """The second model that the spec names, beside the first one; None if it names none."""
        name = getattr(request.specs[-1], "other", "") if request.specs else ""
        if not name or name == request.model:
            return first if name else None
        try:
            return self._model(name, request.other, first)
        except AnalysisError as error:
            raise about_second(error) from error

    def adopt(self, model: Model) -> Any:
        """Use a model that is already loaded, by its name and fingerprint.

        Returns:
            The handle of the hook that counts its forward passes, to remove it.
        """
        self._models.put((model.info.name, model.info.fingerprint), model)
        return model.hf.register_forward_pre_hook(self._count)

    def adopt_trace(self, model: Model, trace: Trace, edits: tuple[RunEdit, ...]) -> None:
        """Use a trace that is already made, if it has all patterns in full precision."""
        if isinstance(trace.pattern, np.ndarray) and trace.pattern.dtype == np.float32:
            self._traces.put(_trace_key(model, trace.token_ids, edits), trace)

    def _make_room(self, name: str, beside: Model | None = None) -> None:
        """Drop models, the least recently used first, until the next one fits.

        This comes before loading: two large models may not fit together.

        Args:
            name: The model that is loaded next.
            beside: A model that stays: the one that was used last.

        Raises:
            NotEnoughMemoryError: If the limit does not allow both.
        """
        entry = catalog.find(name)
        place = pretrained.choose(entry, self._limits.dtype, self._limits.device).where
        wanted = memory.needed(entry, catalog.dtype_of(entry, self._limits.dtype))
        if beside is not None and beside.nbytes + wanted > self._models.limit:
            raise NotEnoughMemoryError(
                f"{beside.info.name} and {name} need about"
                f" {memory.gigabytes(beside.nbytes + wanted)} together, and this server keeps"
                f" {memory.gigabytes(self._models.limit)} of models in memory.",
                "Choose a smaller model, or raise STRATASCOPE_RESIDENT_MIB.",
            )
        kept = 0 if beside is None else 1
        while self._models.used + wanted > self._models.limit or memory.free(place) < wanted:
            if len(self._models) <= kept or not self._models.evict():
                return  # loading will refuse it
            gc.collect()

    def _count(self, module: Any, args: Any) -> None:
        self._forwards += 1

    def _run(self, model: Model, spec: RunSpec, compute: Callable[..., Any]) -> Any:
        ids = tokenize(model, spec)
        limit = self._limits.max_prompt_tokens
        if len(ids) > limit:
            raise PromptError(
                f"The prompt has {len(ids)} tokens; this server reads at most {limit}.",
                "Shorten it, or raise STRATASCOPE_MAX_PROMPT_TOKENS.",
            )
        result, made = compute(model, spec)
        self._keep(model, _trace_key(model, result.token_ids), made)
        return result

    def _keep(self, model: Model, key: str, made: Trace) -> None:
        """Keep a trace: passes over longer prompts go on from it."""
        self._traces.put(key, made)
        model.recent.add(made)

    def _trace(self, model: Model, spec: Any) -> Trace:
        key = _trace_key(model, spec.token_ids, spec.edits)
        kept = self._traces.get(key)
        if kept is None:
            kept = fitting_trace(model, spec.token_ids, spec.edits)
            self._keep(model, key, kept)
        return kept


def _trace_key(model: Model, token_ids: tuple[int, ...], edits: tuple[RunEdit, ...] = ()) -> str:
    text = f"{model.info.fingerprint}:{','.join(map(str, token_ids))}:{edits!r}"
    return hashlib.sha256(text.encode()).hexdigest()
