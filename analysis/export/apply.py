"""For scripts and notebooks: compute in this process, and take a trace to other libraries."""

from __future__ import annotations

from threading import RLock
from typing import Any

import numpy as np
import torch

from analysis import codec
from analysis.contract.specs import Floats, Token, resolve_index
from analysis.errors import SpecError
from analysis.model.handle import Model
from analysis.registry import technique_for
from analysis.tracing.capture import Trace
from analysis.tracing.heads import head_output
from analysis.worker.engine import Engine
from analysis.worker.messages import Limits, Request


def compute(
    model: Model, spec: Any, trace: Trace | None = None, *, other: Model | None = None
) -> Any:
    """The result of a spec, as the page shows it.

    Args:
        model: From ``load_model``.
        spec: Any spec of ``analysis.registry``, such as ``LensSpec(norm="unit")``.
        trace: From ``trace``, for specs of results on a forward pass.
        other: The second model of a spec that names one (``PromptSpec.other``); loaded by that name
            unless given.

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
        more = {} if other is None else {"other": other}
        return work(model, spec, None, model.info.max_positions or 2**31, **more)
    if trace is None:
        raise SpecError(
            f"{type(spec).__name__} needs a forward pass.", "Give the result of analysis.trace."
        )
    return work(model, trace, spec)


class LocalService:
    """The part of ``analysis.service.Service`` that views use, without another process.

    Args:
        model: The model that answers, whatever name a request has.
        second: The name of another model, which is loaded for requests to it.
    """

    problem = ""

    def __init__(self, model: Model, second: str = "") -> None:
        self.model, self.second = model, second
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
        info, name = self.model.info, subject if isinstance(subject, str) else subject.model
        own = (name, "") if self.second and name == self.second else (info.name, info.fingerprint)
        request = Request(technique.name, *own, specs)
        return codec.decode(self._engine.perform(request).data)


# The trace in the formats of TransformerLens, CircuitsVis and BertViz.


def transformer_lens_cache(
    model: Model, trace: Trace, heads: bool = False
) -> dict[str, torch.Tensor]:
    """The states of a trace by TransformerLens's names, as its ``run_with_cache`` gives them.

    They are those of the model as it is: TransformerLens gives the same with
    ``from_pretrained_no_processing``. With its default processing, it folds the norms' scales into
    the weights and centres what is written, so that its states differ.

    Args:
        model: The model of the trace.
        trace: From ``trace``.
        heads: Whether to add what each head adds, ``blocks.L.attn.hook_result``.

    Returns:
        Float32 tensors [1, pos, d_model] by name: ``blocks.L.hook_resid_pre``, ``hook_resid_mid``
        (of sequential blocks), ``hook_resid_post``, ``hook_attn_out``, ``hook_mlp_out``;
        ``blocks.L.attn.hook_pattern`` [1, head, query, key] of layers with attention, and with
        ``heads`` ``blocks.L.attn.hook_result`` [1, pos, head, d_model].

    Raises:
        SpecError: If the trace is of another model.
    """
    trace.require_model(model)
    cache: dict[str, Any] = {}
    for layer in range(model.info.layers):
        block = f"blocks.{layer}"
        cache[f"{block}.hook_resid_pre"] = trace.resid[layer]
        if (middle := _middle(model, trace, layer)) is not None:
            cache[f"{block}.hook_resid_mid"] = middle
        cache[f"{block}.hook_attn_out"] = trace.attn_out[layer]
        cache[f"{block}.hook_mlp_out"] = trace.mlp_out[layer]
        cache[f"{block}.hook_resid_post"] = trace.resid[layer + 1]
        pattern = trace.pattern_of(layer)
        if not np.isnan(pattern).any():
            cache[f"{block}.attn.hook_pattern"] = pattern
            if heads:
                cache[f"{block}.attn.hook_result"] = head_output(model, trace, layer).swapaxes(0, 1)
    return {name: _tensor(value)[None] for name, value in cache.items()}


def _middle(model: Model, trace: Trace, layer: int) -> Floats | None:
    """The state between attention and MLP; None if the model has no such state."""
    if model.info.parallel_blocks or trace.other_out or trace.carry is not None:
        return None
    middle: Floats = trace.resid[layer] + trace.attn_out[layer]
    return middle


def circuitsvis(trace: Trace, layer: int) -> dict[str, Any]:
    """The attention of one layer for CircuitsVis.

    ``circuitsvis.attention.attention_patterns(**analysis.circuitsvis(trace, 5))`` draws it.

    Returns:
        ``tokens``: a list of texts [pos]; ``attention``: [head, query, key], float32.

    Raises:
        SpecError: If the layer does not exist or has no attention.
    """
    layer = resolve_index("layer", layer, len(trace.attn_out))
    return {"tokens": _texts(trace.tokens), "attention": _pattern(trace, layer)}


def bertviz(trace: Trace) -> dict[str, Any]:
    """The attention of all layers for BertViz.

    ``bertviz.head_view(**analysis.bertviz(trace))`` and ``bertviz.model_view`` draw it.

    Returns:
        ``attention``: for each layer a float32 tensor [1, head, query, key], as
        ``output_attentions`` of transformers gives it; ``tokens``: a list of texts [pos].

    Raises:
        SpecError: If a layer has no attention, or layers have different numbers of heads, which
            BertViz can't draw.
    """
    patterns = [_tensor(_pattern(trace, layer))[None] for layer in range(len(trace.attn_out))]
    if len({one.shape for one in patterns}) > 1:
        raise SpecError(
            "The layers of this model have different numbers of heads, which BertViz can't draw.",
            "Draw one layer with CircuitsVis.",
        )
    return {"attention": tuple(patterns), "tokens": _texts(trace.tokens)}


def _pattern(trace: Trace, layer: int) -> Floats:
    pattern = trace.pattern_of(layer)
    if np.isnan(pattern).any():
        raise SpecError(f"Layer {layer} has no attention pattern.", "Choose another layer.")
    return pattern


def _tensor(values: Any) -> torch.Tensor:
    """A copy, because the arrays of a trace can't be changed."""
    return torch.from_numpy(np.array(values, np.float32))


def _texts(tokens: tuple[Token, ...]) -> list[str]:
    """Texts of the tokens; equal ones stay equal, as the libraries only show them."""
    return [token.text for token in tokens]
