"""The public functions, with plain arguments: what ``import analysis`` offers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any, TypedDict, Unpack

import numpy as np

from analysis import parts
from analysis.capture import Trace
from analysis.direct import attribute_logit
from analysis.errors import SpecError
from analysis.models.handle import Model
from analysis.results import Attribution, Emergence, Graph, Grid
from analysis.results.base import Floats
from analysis.specs import EmergenceSpec, FlowSpec, LensSpec, as_tuple, resolve_index
from analysis.techniques import emergence as emergence_technique
from analysis.techniques import flow as flow_technique
from analysis.techniques import lens as lens_technique


class DecodeOptions(TypedDict, total=False):
    """What ``decode`` can be asked for besides candidates and targets.

    Attributes:
        component: "block_output" (first axis: row), or "attention_output", "mlp_output",
            "mid_residual", "head_output", "source_output", "block_increment" (first axis: layer).
        decoder: "output", "input", "linear", "quadratic", "max_probability", or "learned" (block
            outputs only, of a model that has a learned lens).
        norm: "full" (the final norm), "unit" (normalise only) or "none".
        similarity: "dot" (the lens), "cosine" or "euclidean" to the decoder's rows.
        candidates: "top_k", "subtraction" or "matching_pursuit".
        rows: Which entries of the first axis; all unless given.
        positions: Which positions; all unless given.
        head: Which head, with ``head_output`` and ``source_output``.
        source: Which source position's share of the head, with ``source_output``.
    """

    component: str
    decoder: str
    norm: str
    similarity: str
    candidates: str
    rows: Sequence[int] | None
    positions: Sequence[int] | None
    head: int | None
    source: int | None


def decode(
    model: Model,
    trace: Trace,
    *,
    k: int = 5,
    target: int | Sequence[int] | None = None,
    **options: Unpack[DecodeOptions],
) -> Grid:
    """Read hidden states as tokens (logit lens, nostalgebraist 2020, and its kin).

    Args:
        model: From ``load_model``.
        trace: From ``trace``.
        k: How many candidates.
        target: A token id, or several, to follow.
        **options: component, decoder, norm, similarity, candidates, rows, positions, head, source:
            see ``DecodeOptions``. The default is the logit lens on all block outputs.

    Raises:
        SpecError: If an option has no such value, or a row, position or head does not exist.
    """
    chosen: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    for name in ("rows", "positions"):
        if name in chosen:
            chosen[name] = as_tuple(chosen[name])
    grid = lens_technique.compute(model, trace, LensSpec(k=k, target=as_tuple(target), **chosen))
    return replace(grid, single_target=isinstance(target, Integral))


def head_output(model: Model, trace: Trace, layer: int, head: int | None = None) -> Floats:
    """What each head adds to the residual stream, [head, pos, d_model], or [pos, d_model] of one.

    Through the output projection, the post-norm with its scale frozen, and any multiplier;
    heads and bias sum to ``trace.attn_out[layer]``.

    Raises:
        SpecError: If the layer or head does not exist, or its heads can't be told apart.
    """
    layer = resolve_index("Layer", layer, model.info.layers)
    if head is not None:
        head = resolve_index("Head", head, model.info.heads)
    outputs: Floats = parts.head_output(model, trace, layer, head).numpy().astype(np.float32)
    return outputs


def attention_bias(model: Model, trace: Trace, layer: int) -> Floats:
    """[pos, d_model] what a layer's attention adds from biases alone."""
    layer = resolve_index("Layer", layer, model.info.layers)
    bias: Floats = parts.head_parts(model, trace, layer).bias.numpy().astype(np.float32)
    return bias


def flow(
    model: Model, trace: Trace, *, position: int | Sequence[int] = -1, row: int | None = None,
    method: str = "proximity", threshold: float = 0.0, top_k: int | None = None,
    budget: int | None = None, per_head: bool = True, token: int | None = None,
    foil: int | None = None, direction: str = "down", fold_sinks: bool = False,
    hide_start: str = "keep",
) -> Graph:  # fmt: skip
    """Where the state at (row, position) comes from, as a graph of shares; or where it goes.

    Args:
        model: From ``load_model``.
        trace: From ``trace``.
        position: The root's position, or several of them.
        row: The root's residual row; the last one unless given, upwards row 0.
        method: "proximity" (information flow routes, arXiv 2403.00824), "norm", "attention",
            "value_weighted" (Kobayashi 2020), "residual_norm" (InTraVisTo), "kl", "hidden_kl",
            "rollout" (Abnar and Zuidema 2020), or "signed": direct paths, in logits.
        threshold: Links are kept whose share is above it.
        top_k: At each node, so many of its strongest attention links.
        budget: So many links in all, by flow; what is cut is an "other" link to each node.
        per_head: One attention link for each head and source, or heads summed.
        token: Signed only: whose logit; the model's own top token unless given.
        foil: Signed only: the token it is held against.
        direction: "down" to the tokens, or "up" from the root to everything it reaches.
        fold_sinks: Whether attention to sinks (``analysis.sinks``) ends in sink links.
        hide_start: "keep", or hide attention to a start token: "loss" counts its mass as hidden,
            "reweight" scales the other shares of each node.

    Raises:
        SpecError: If an option has no such value or the root does not exist.
    """
    row = (0 if direction == "up" else -1) if row is None else row
    options: dict[str, Any] = {
        "method": method, "threshold": threshold, "top_k": top_k, "budget": budget,
        "per_head": per_head, "token": token, "foil": foil, "direction": direction,
        "fold_sinks": fold_sinks, "hide_start": hide_start,
    }  # fmt: skip
    where = position if isinstance(position, int) else as_tuple(position)
    spec = FlowSpec(where, row, **options)
    return flow_technique.compute(model, trace, spec)


def attribute(
    model: Model,
    trace: Trace,
    position: int = -1,
    token: int | None = None,
    foil: int | None = None,
) -> Attribution:
    """Direct logit attribution: embedding, each head, each MLP, biases.

    Sums to the token's logit before any soft cap, or to its difference from the foil's.

    Raises:
        SpecError: If the position or a token does not exist.
    """
    if foil is not None and foil == token:
        raise SpecError("A token can't be held against itself.", "Choose another foil.")
    return attribute_logit(model, trace, position, token, foil)


def emergence(model: Model, trace: Trace, tau: float = 0.5, *, causal: bool = True) -> Emergence:
    """Per position, the rows at which the model's final choice emerges.

    Args:
        model: From ``load_model``.
        trace: From ``trace``, without interventions.
        tau: The probability that ``emergence`` asks for.
        causal: Whether to measure the causal commit row, at one pass a row and position.

    Raises:
        SpecError: If tau is no probability, or the trace was intervened on.
    """
    if causal and trace.interventions:
        raise SpecError(
            "The causal commit row is measured on an unchanged run.", "Trace without interventions."
        )
    return emergence_technique.compute(model, trace, EmergenceSpec(tau, causal))
