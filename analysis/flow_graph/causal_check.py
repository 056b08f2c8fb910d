"""The causal check: cut each drawn link, measure the effect on the logit, and compare."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.attribution.direct import Target, target_of
from analysis.contract.choices import Situation
from analysis.errors import SpecError
from analysis.flow_graph.cuts import Baseline, Cut, baseline_of, cut_of, effects, positions_of
from analysis.flow_graph.effect import objective
from analysis.flow_graph.graph import compute as compute_graph
from analysis.flow_graph.options import FLOW_METHODS
from analysis.flow_graph.results import LINK_KINDS, CausalCheck, CausalComparison, Graph, Link
from analysis.flow_graph.specs import CausalSpec, ComparisonSpec, FlowSpec
from analysis.model.handle import Model
from analysis.tracing.capture import Trace


def ranks(values: ArrayLike) -> NDArray[np.float64]:
    """Ranks from 1 of the smallest; equal values share the mean of their places."""
    array = np.asarray(values, np.float64)
    _, group, count = np.unique(array, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    found: NDArray[np.float64] = (last - (count - 1) / 2.0)[group]
    return found


def spearman(one: ArrayLike, other: ArrayLike) -> float:
    """Pearson's correlation of the ranks, -1 to 1.

    NaN if there are fewer than three pairs, or all values of one side are equal. Source:
    Spearman 1904, "The proof and measurement of association between two things".
    """
    a, b = ranks(one), ranks(other)
    a, b = a - a.mean() if len(a) else a, b - b.mean() if len(b) else b
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if len(a) >= 3 and size > 0.0 else float("nan")


def compute(model: Model, trace: Trace, spec: CausalSpec) -> CausalCheck:
    """Cut the strongest drawn links of a graph, each on its own, many in one forward pass.

    An attention link is knocked out before the softmax, which renormalises the rest of the row;
    an MLP's output at its position is replaced by zero or by its mean. An effect graph is cut
    against its own baseline.

    Args:
        model: The model the trace was made with.
        trace: From ``analysis.trace``.
        spec: The graph, the logit, the MLPs' replacement and the number of cuts.

    Returns:
        Drawn flow, measured effect, and their rank correlation.

    Raises:
        SpecError: If the root or a token does not exist, or the attention can't be split into
            heads.
        CancelledError: If the caller's progress listener stops the work.
    """
    graph = compute_graph(model, trace, spec.flow)
    target, baseline = _target_and_baseline(model, trace, spec, graph)
    drawn = _cuttable(graph)
    chosen = sorted(drawn, key=lambda cut: -abs(drawn[cut].flow))[: spec.limit]
    effect, passes = effects(model, trace, chosen, target, baseline)
    flow = np.array([drawn[cut].flow for cut in chosen], np.float32)
    compared = effect if FLOW_METHODS[graph.method].signed else np.abs(effect)
    return CausalCheck(
        method=graph.method,
        **_measured(trace, target),
        head=_ints([cut.head for cut in chosen]),
        **_columns(chosen),
        share=np.array([drawn[cut].share for cut in chosen], np.float32),
        flow=flow,
        effect=effect,
        correlation=spearman(flow, compared),
        without_cut=len(graph.links) - len(drawn),
        unmeasured=len(drawn) - len(chosen),
        passes=passes,
    )


def compare(model: Model, trace: Trace, comparison: ComparisonSpec) -> CausalComparison:
    """How well several methods predict the effect of cuts on this prompt.

    All methods are compared on the same cuts: the union of the ``limit`` strongest of each. Some
    methods give the mean of the heads only, so heads are summed in all of them unless
    ``per_head``, which leaves those methods out. Methods in logits count by absolute value. Signed
    flow draws direct paths only; it is 0 on all other cuts.

    Args:
        model: The model the trace was made with.
        trace: From ``analysis.trace``.
        comparison: What is cut and measured, and the methods.

    Raises:
        SpecError: If the root or a token does not exist, the attention can't be split into heads,
            or no method is left.
        CancelledError: If the caller's progress listener stops the work.
    """
    spec, per_head = comparison.causal, comparison.per_head
    methods = [name for name in comparison.methods if _fits(model, name, per_head)]
    if not methods:
        raise SpecError("No method is left to compare.", "Choose methods that have heads.")
    target = target_of(model, trace, _position(spec.flow), *_tokens(spec))
    found = [_drawn(model, trace, spec, method, target, per_head) for method in methods]
    cuts = _union(found, spec.limit)
    baseline = baseline_of(model, trace, positions_of(trace, target), spec.value)
    effect, _ = effects(model, trace, cuts, target, baseline)
    flow = np.array([[drawn.get(cut, 0.0) for cut in cuts] for drawn in found], np.float32)
    return CausalComparison(
        methods=tuple(methods),
        correlations=np.array([spearman(row, np.abs(effect)) for row in flow], np.float32),
        head=_ints([cut.head for cut in cuts]),
        **_columns(cuts),
        flow=flow.reshape(len(methods), len(cuts)),
        effect=effect,
        **_measured(trace, target),
    )


def _fits(model: Model, method: str, per_head: bool) -> bool:
    """Whether a method takes part: it can run, and has heads if they are wanted."""
    choice = FLOW_METHODS[method]
    available = not choice.unavailable(Situation(model.info))
    return available and (choice.per_head or not per_head)


def _cuttable(graph: Graph) -> dict[Cut, Link]:
    """The drawn links that can be cut, by their cut."""
    pairs = ((cut_of(link), link) for link in graph.links)
    return {cut: link for cut, link in pairs if cut is not None}


def _drawn(
    model: Model, trace: Trace, spec: CausalSpec, method: str, target: Target, per_head: bool
) -> dict[Cut, float]:
    """The flow that a method draws at each cut, by absolute value."""
    if FLOW_METHODS[method].signed:
        options: dict[str, Any] = {"token": target.token, "foil": target.foil}
        if method == "effect":
            options |= {"baseline": spec.value, "exact": spec.flow.exact}
        flow = FlowSpec(target.position, method=method, per_head=per_head, **options)
    else:
        plain = FlowSpec(spec.flow.position, spec.flow.row, threshold=spec.flow.threshold)
        flow = replace(plain, method=method, per_head=per_head)
    links = _cuttable(compute_graph(model, trace, flow))
    return {cut: abs(link.flow) for cut, link in links.items()}


def _union(found: list[dict[Cut, float]], limit: int) -> list[Cut]:
    """The strongest cuts of each method, without repeats."""
    best: dict[Cut, float] = defaultdict(float)
    for drawn in found:
        for cut in sorted(drawn, key=lambda cut: -drawn[cut])[:limit]:
            best[cut] = max(best[cut], drawn[cut])
    return sorted(best, key=lambda cut: -best[cut])


def _tokens(spec: CausalSpec) -> tuple[int | None, int | None]:
    if spec.token is None and spec.foil is None:
        return spec.flow.token, spec.flow.foil
    return spec.token, spec.foil


def _position(flow: FlowSpec) -> int:
    if not isinstance(flow.position, int):
        raise SpecError("The causal check measures the logit of one root.", "Choose one position.")
    return flow.position


def _target_and_baseline(
    model: Model, trace: Trace, spec: CausalSpec, graph: Graph
) -> tuple[Target, Baseline]:
    token, foil = _tokens(spec)
    in_logits = FLOW_METHODS[graph.method].signed
    if in_logits and (token, foil) not in ((None, None), _named(graph)):
        raise SpecError(
            "The graph explains another token than the one that is measured.",
            "Choose the same token for both.",
        )
    if graph.method == "effect":
        return objective(model, trace, spec.flow)
    target = target_of(model, trace, _position(spec.flow), token, foil)
    return target, baseline_of(model, trace, positions_of(trace, target), spec.value)


def _named(graph: Graph) -> tuple[int, int | None]:
    return graph.token, None if graph.foil < 0 else graph.foil


def _measured(trace: Trace, target: Target) -> dict[str, Any]:
    """The logit that is measured, and its value with nothing cut."""
    return {
        "position": target.position,
        "token": target.token,
        "foil": target.foil_id,
        "logit": float(target.of(trace.logits[target.position])),
    }


def _columns(cuts: list[Cut]) -> dict[str, Any]:
    return {
        "kind": _ints([LINK_KINDS.index(cut.kind) for cut in cuts]),
        "layer": _ints([cut.layer for cut in cuts]),
        "source_pos": _ints([cut.source_pos for cut in cuts]),
        "target_pos": _ints([cut.target_pos for cut in cuts]),
    }


def _ints(values: list[int]) -> np.ndarray:
    return np.array(values, dtype=np.int64)
