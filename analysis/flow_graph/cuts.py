"""Cut links of a flow graph, many in one forward pass, and measure the effect on a logit."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from analysis.attribution.direct import Target
from analysis.contract import jobs
from analysis.flow_graph.results import Link
from analysis.model.handle import Model
from analysis.tracing.capture import Trace
from analysis.tracing.intervention_hooks import applied
from analysis.tracing.interventions import Ablate, Intervention, KnockOut

#: Tokens in one forward pass, over all sequences of its batch.
_MAX_TOKENS = 512


class Cut(NamedTuple):
    """An attention edge (of one head, or -1 for all), or an MLP at a position."""

    kind: str
    layer: int
    head: int
    source_pos: int
    target_pos: int


def cut_of(link: Link) -> Cut | None:
    """The cut that removes a link; None if there is none.

    Cutting the residual would cut everything below it; a bias and a sink come from no other
    state; position 0 has only itself to attend to; the link into an MLP is cut with the link out
    of it.
    """
    head = -1 if link.head is None else link.head
    if link.kind == "attention" and link.target_pos > 0:
        return Cut("attention", link.layer, head, link.source_pos, link.target_pos)
    if link.kind == "mlp" and not link.target.startswith("mlp"):
        return Cut("mlp", link.layer, -1, link.source_pos, link.target_pos)
    return None


def edit(cut: Cut, value: str) -> Intervention:
    """The intervention that makes a cut."""
    if cut.kind == "attention":
        head = None if cut.head < 0 else cut.head
        return KnockOut(cut.layer, head, cut.target_pos, cut.source_pos)
    return Ablate("mlp_output", cut.layer, pos=cut.target_pos, value=value)


@torch.no_grad()
def effects(
    model: Model, trace: Trace, cuts: Sequence[Cut], target: Target, value: str
) -> tuple[NDArray[np.float32], int]:
    """How much each cut lowers the target's logit.

    Positions after the target's can't change it, so they are left out (and out of the mean, if an
    MLP is set to its mean). If the run has interventions, which may name any position, all
    positions are kept and the interventions stay in force.

    Args:
        model: The model the trace was made with.
        trace: From ``analysis.trace``.
        cuts: What is cut, one at a time.
        target: The logit.
        value: What an MLP's output is replaced by.

    Returns:
        [cut] logit with nothing cut minus logit with the cut; and the number of forward passes.

    Raises:
        CancelledError: If the caller's progress listener stops the work.
    """
    ids = trace.token_ids if trace.interventions else trace.token_ids[: target.position + 1]
    behind = len(ids) - target.position
    batch = max(_MAX_TOKENS // len(ids), 1)
    found = [_logits(model, ids, [trace.interventions], behind)]
    for start in range(0, len(cuts), batch):
        sets = [(*trace.interventions, edit(cut, value)) for cut in cuts[start : start + batch]]
        jobs.step(start, len(cuts), "Cutting links")
        jobs.pause()
        found.append(_logits(model, ids, sets, behind))
    jobs.step(len(cuts), max(len(cuts), 1), "Cutting links")
    logits = np.concatenate([target.of(rows) for rows in found])
    return (logits[0] - logits[1:]).astype(np.float32), len(found)


def _logits(
    model: Model, ids: Sequence[int], sets: list[tuple[Intervention, ...]], behind: int
) -> NDArray[np.float32]:
    """[set, vocab] logits at ``behind`` positions from the end; each set edits one sequence."""
    tokens = torch.tensor([list(ids)] * len(sets), device=model.device)
    options: dict[str, Any] = {"input_ids": tokens, "use_cache": False}
    if "logits_to_keep" in inspect.signature(model.hf.forward).parameters:
        options["logits_to_keep"] = behind
    with applied(model, sets, len(ids)):
        logits = model.hf(**options).logits[:, -behind]
    rows: NDArray[np.float32] = logits.to("cpu", torch.float32).numpy()
    return rows
