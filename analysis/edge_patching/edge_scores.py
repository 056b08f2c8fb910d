"""Edge attribution patching: the first-order effect of cutting each edge.

The score of an edge is ``g · (sender - ablated sender)``, with g the gradient of the target for
what the receiver reads, at the edge's position (Syed et al., 2023, arXiv 2310.10348). It is the
fall of the target, to first order, if the receiver alone reads the ablated sender. The gradient is
passed back block by block, so that only one block's computation is recorded at a time. With several
steps it is averaged over runs between the ablated and the clean embedding (EAP-IG; Hanna et al.,
2024, arXiv 2403.17806).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from analysis.contract import jobs
from analysis.contract.choices import Situation
from analysis.contract.specs import Floats
from analysis.edge_patching.block_calls import HeadJobs
from analysis.edge_patching.edge_runs import EdgeRuns, Lead, States, states_of
from analysis.errors import BackwardError
from analysis.flow_graph.options import BACKWARD
from analysis.model.handle import Model


def edge_scores(model: Model, runs: EdgeRuns, lead: Lead, steps: int) -> Floats:
    """[receiver, sender, pos] the estimated fall of the target if an edge is cut; else 0.

    Args:
        model: The model of the runs.
        runs: The clean run, and what replaces each sender.
        lead: The target.
        steps: Runs over which the gradient is averaged; 1 takes it in the clean run.

    Raises:
        BackwardError: If the model can't run backward.
        CancelledError: If the caller's progress listener stops the work.
    """
    if not BACKWARD.met(Situation(model.info)):
        raise BackwardError(
            "4-bit weights can't run backward, as the scores of edges need.",
            "Load the model without quantisation.",
        )
    try:
        return _scores(runs, lead, steps)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, NotImplementedError) as error:
        if "can't allocate memory" in str(error):  # the CPU's
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BackwardError(
            f"This model can't run backward, as the scores of edges need: {reason}",
            "Patch whole heads instead.",
        ) from error


def _scores(runs: EdgeRuns, lead: Lead, steps: int) -> Floats:
    layout = runs.layout
    scores = np.zeros((*layout.shape, runs.positions), np.float32)
    moved = (runs.clean.senders - runs.ablated).transpose(0, 1)  # [pos, sender, d_model]
    for step in range(1, steps + 1):
        jobs.step(step - 1, steps, "Scoring edges")
        jobs.pause()
        for first, gradient in _gradients(runs, _between(runs, step, steps), lead):
            reads = max(one.reads for one in layout.receivers[first : first + len(gradient)])
            product = torch.bmm(moved[:, :reads], gradient.permute(1, 2, 0)).permute(2, 1, 0)
            scores[first : first + len(gradient), :reads] += product.numpy() / steps
    for number, one in enumerate(layout.receivers):
        scores[number, one.reads :] = 0.0
    scores[-1, :, :-1] = 0.0
    return scores


@torch.no_grad()
def _between(runs: EdgeRuns, step: int, steps: int) -> States:
    """The run on an embedding ``step / steps`` of the way from the ablated to the clean one."""
    if step == steps:
        return runs.clean
    part = step / steps
    mixture = runs.ablated[0] + part * (runs.clean.senders[0] - runs.ablated[0])
    return states_of(runs.calls, runs.layout, mixture)


def _gradients(runs: EdgeRuns, run: States, lead: Lead) -> Iterator[tuple[int, Tensor]]:
    """First receiver, and [receiver, pos, d_model] the gradients for what receivers read."""
    layout = runs.layout
    last = run.last[None].clone().requires_grad_()
    with torch.enable_grad():
        value = lead.of(runs.calls.logits_of(last)[0].float())
    flowing = torch.zeros_like(run.senders[0])
    flowing[-1] = torch.autograd.grad(value, last)[0][0]
    yield layout.shape[0] - 1, flowing[None].clone()
    for layer in range(len(layout.heads) - 1, -1, -1):
        jobs.check_cancelled()
        above, start = flowing, int(layout.first_receiver[layer])
        heads = layout.heads[layer]
        if layout.mlps[layer]:
            gradient = _of_mlp(runs, run, layer, above)
            yield start + 3 * heads, gradient[None]
            flowing = above + gradient
        into = above if layout.parallel else flowing
        found = _of_heads(runs, run, layer, into)
        yield start, found
        flowing = flowing + found.sum(0)


def _of_mlp(runs: EdgeRuns, run: States, layer: int, above: Tensor) -> Tensor:
    """[pos, d_model] the gradient for what an MLP reads, from that for what it writes."""
    with torch.enable_grad():
        state = run.middles[layer][None].clone().requires_grad_()
        written = runs.calls.mlp(layer, state)
    return torch.autograd.grad(written, state, above[None])[0][0]


def _of_heads(runs: EdgeRuns, run: States, layer: int, above: Tensor) -> Tensor:
    """[3 heads, pos, d_model] the gradient for what queries, keys and values read."""
    heads = runs.layout.heads[layer]
    rows = [(head, 3 * head, 3 * head + 1, 3 * head + 2) for head in range(heads)]
    with torch.enable_grad():
        states = run.inputs[layer].expand(3 * heads, -1, -1).clone().requires_grad_()
        mixed = runs.calls.heads(layer, states, HeadJobs.of(rows))
        added, bias = runs.calls.added(layer, mixed)
        whole = added.sum(0) + bias
    return torch.autograd.grad(whole, states, above)[0]
