"""Cut links of a flow graph, many at a time, and measure what that does to a logit."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from analysis.contract import progress
from analysis.contract.specs import resolve_index
from analysis.flow_graph.results import Link
from analysis.model.handle import Model
from analysis.tracing.capture import Trace
from analysis.tracing.intervention_hooks import applied
from analysis.tracing.interventions import Ablate, Intervention, KnockOut

#: Tokens in one forward pass, all its edits together.
_TOKENS = 512


class Cut(NamedTuple):
    """What is cut: an attention edge (of one head, or -1 for all), or an MLP at a position."""

    kind: str
    layer: int
    head: int
    source_pos: int
    target_pos: int


def cut_of(link: Link) -> Cut | None:
    """The cut that takes a link out; None where there is none.

    The residual can't be cut without cutting all below it; a bias and a sink come from no other
    state; position 0 has only itself to attend to; the inner link of an MLP is its outer one's.
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


@dataclass(frozen=True)
class Target:
    """Whose logit is measured: ``token``'s at ``position``, or its lead over ``foil``."""

    position: int
    token: int
    foil: int | None = None

    @property
    def foil_id(self) -> int:
        """The foil's id, or -1."""
        return -1 if self.foil is None else self.foil

    def of(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """[...] from logits [..., vocab]."""
        chosen: NDArray[np.float64] = logits[..., self.token].astype(np.float64)
        return chosen if self.foil is None else chosen - logits[..., self.foil]


def target_of(
    model: Model, trace: Trace, position: int, token: int | None, foil: int | None
) -> Target:
    """The token asked about, or the model's own top token.

    Raises:
        SpecError: If a position or token does not exist.
    """
    position = resolve_index("Position", position, len(trace.tokens))
    vocab = int(model.readout.output_rows.shape[0])
    token = int(trace.logits[position].argmax()) if token is None else token
    for wanted in (token, 0 if foil is None else foil):
        resolve_index("Token", wanted, vocab)
    return Target(position, token, foil)


@torch.no_grad()
def effects(
    model: Model, trace: Trace, cuts: Sequence[Cut], target: Target, value: str
) -> tuple[NDArray[np.float32], int]:
    """What each cut takes from the target's logit, [cut], and how many passes that took.

    Positions after the target's can't change it, so they are left out (and out of the mean, where
    an MLP is set to its mean), unless the run was itself intervened on: those edits, which may
    name any position, stay in force.

    Raises:
        CancelledError: If the caller's progress listener stops the work.
    """
    ids = trace.token_ids if trace.interventions else trace.token_ids[: target.position + 1]
    behind = len(ids) - target.position
    batch = max(_TOKENS // len(ids), 1)
    found = [_logits(model, ids, [trace.interventions], behind)]
    for start in range(0, len(cuts), batch):
        sets = [(*trace.interventions, edit(cut, value)) for cut in cuts[start : start + batch]]
        progress.step(start, len(cuts), "Cutting links")
        progress.pause()
        found.append(_logits(model, ids, sets, behind))
    progress.step(len(cuts), max(len(cuts), 1), "Cutting links")
    logits = np.concatenate([target.of(rows) for rows in found])
    return (logits[0] - logits[1:]).astype(np.float32), len(found)


def _logits(
    model: Model, ids: Sequence[int], sets: list[tuple[Intervention, ...]], behind: int
) -> NDArray[np.float32]:
    """[edit, vocab] logits ``behind`` the end, each list of edits in a row of the batch."""
    tokens = torch.tensor([list(ids)] * len(sets), device=model.device)
    options: dict[str, Any] = {"input_ids": tokens, "use_cache": False}
    if "logits_to_keep" in inspect.signature(model.hf.forward).parameters:
        options["logits_to_keep"] = behind
    with applied(model, sets, len(ids)):
        logits = model.hf(**options).logits[:, -behind]
    rows: NDArray[np.float32] = logits.to("cpu", torch.float32).numpy()
    return rows
