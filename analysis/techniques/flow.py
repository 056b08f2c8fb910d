"""The flow graph into a state, up from one, or to one token's logit."""

from __future__ import annotations

from analysis.capture import Trace
from analysis.flow_signed import signed
from analysis.flow_walk import walk
from analysis.models.handle import Model
from analysis.results import Graph
from analysis.specs import FlowSpec


def compute(model: Model, trace: Trace, spec: FlowSpec) -> Graph:
    """Where a state's mass comes from, or goes.

    Only nodes that carry mass are looked at on the way down, and of those all parts, so shares
    are exact. Upwards all later positions are looked at, which costs what the whole run costs.

    Args:
        model: The model the trace was made with.
        trace: From ``analysis.trace``.
        spec: Root, method, direction and pruning. ``threshold`` keeps links whose share is above
            it; ``top_k`` the strongest attention links of each node; ``budget`` so many links in
            all, of largest flow, among them one "other" link to each node for what it gets by
            links that are not drawn: so every node's in-shares sum to 1, and downwards the "other"
            links carry exactly ``hidden_share``. Without a budget what is cut is stated by
            ``hidden_share``.

    Returns:
        A Graph; shares are over all parts before pruning, and flow is what passes by drawn links
        alone.

    Raises:
        SpecError: If the root does not exist, or the heads can't be told apart.
        CancelledError: If the caller's progress listener stops the work.
    """
    if spec.method == "signed":
        return signed(model, trace, spec)
    return walk(model, trace, spec)
