"""Cut links of a flow graph, many in one forward pass, and measure the effect on a logit."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis.attribution.direct import Target
from analysis.contract import jobs
from analysis.contract.specs import Floats
from analysis.errors import SpecError
from analysis.flow_graph.results import Link
from analysis.model.handle import Model
from analysis.model.stream import Edit, edit_output
from analysis.tracing.capture import Trace, trace
from analysis.tracing.intervention_hooks import applied
from analysis.tracing.interventions import KnockOut

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


@dataclass(frozen=True)
class Baseline:
    """What replaces a component that is cut.

    Attributes:
        mlp: [layer, pos, d_model] replacements of each MLP's output, as added to the stream.
        other: The run of a second prompt. If there is one, an attention edge is replaced by that
            run's edge; else it is knocked out.
    """

    mlp: Floats
    other: Trace | None = None


def positions_of(run: Trace, target: Target) -> int:
    """Number of positions to run: up to the target's, or all if there are interventions.

    Positions after the target's can't change it. Interventions may name any position.
    """
    return len(run.tokens) if run.interventions else target.position + 1


def baseline_of(
    model: Model, run: Trace, size: int, value: str, prompts: Sequence[str] = ()
) -> Baseline:
    """The replacements of a run's components.

    Args:
        model: The model the run was made with.
        run: From ``analysis.trace``.
        size: Number of positions.
        value: "zero"; "mean" over the run's positions; "reference": mean over all positions of
            ``prompts``; "resample": the same position of the one prompt.
        prompts: Texts.

    Raises:
        SpecError: If the second prompt has too few tokens.
    """
    shape = (len(run.mlp_out), size, run.mlp_out.shape[-1])
    if value == "zero":
        return Baseline(np.zeros(shape, np.float32))
    if value == "mean":
        mean = run.mlp_out[:, :size].mean(1, keepdims=True)
    elif value == "reference":
        runs = [trace(model, text) for text in prompts]
        mean = np.concatenate([one.mlp_out for one in runs], 1).mean(1, keepdims=True)
    else:
        other = trace(model, prompts[0])
        if len(other.tokens) < size:
            raise SpecError(
                f"The second prompt has {len(other.tokens)} tokens, but {size} are needed.",
                "Write a second prompt with as many tokens as the first.",
            )
        return Baseline(other.mlp_out[:, :size], other)
    return Baseline(np.broadcast_to(mean, shape))


@torch.no_grad()
def effects(
    model: Model, run: Trace, cuts: Sequence[Cut], target: Target, baseline: Baseline
) -> tuple[NDArray[np.float32], int]:
    """How much each cut lowers the target's logit.

    Interventions of the run stay in force.

    Args:
        model: The model the run was made with.
        run: From ``analysis.trace``.
        cuts: What is cut, one at a time.
        target: The logit.
        baseline: What replaces an MLP's output, for ``positions_of`` positions.

    Returns:
        [cut] logit with nothing cut minus logit with the cut; and the number of forward passes.

    Raises:
        CancelledError: If the caller's progress listener stops the work.
    """
    ids = run.token_ids[: positions_of(run, target)]
    behind = len(ids) - target.position
    batch = max(_MAX_TOKENS // len(ids), 1)
    found = [_logits(model, run, ids, [None], baseline, behind)]
    for start in range(0, len(cuts), batch):
        jobs.step(start, len(cuts), "Cutting links")
        jobs.pause()
        part = cuts[start : start + batch]
        found.append(_logits(model, run, ids, part, baseline, behind))
    jobs.step(len(cuts), max(len(cuts), 1), "Cutting links")
    logits = np.concatenate([target.of(rows) for rows in found])
    return (logits[0] - logits[1:]).astype(np.float32), len(found)


def _logits(
    model: Model,
    run: Trace,
    ids: Sequence[int],
    cuts: Sequence[Cut | None],
    baseline: Baseline,
    behind: int,
) -> NDArray[np.float32]:
    """[cut, vocab] logits at ``behind`` positions from the end, each cut in its own sequence."""
    tokens = torch.tensor([list(ids)] * len(cuts), device=model.device)
    options: dict[str, Any] = {"input_ids": tokens, "use_cache": False}
    if "logits_to_keep" in inspect.signature(model.hf.forward).parameters:
        options["logits_to_keep"] = behind
    sets = [(*run.interventions, *_knock_out(cut, baseline)) for cut in cuts]
    mixed = _replaced_edges(model, run, cuts, baseline)
    with _replaced_mlps(model, cuts, baseline), applied(model, sets, len(ids), mixed=mixed):
        logits = model.hf(**options).logits[:, -behind]
    rows: NDArray[np.float32] = logits.to("cpu", torch.float32).numpy()
    return rows


def _knock_out(cut: Cut | None, baseline: Baseline) -> tuple[KnockOut, ...]:
    if cut is None or cut.kind != "attention" or baseline.other is not None:
        return ()
    head = None if cut.head < 0 else cut.head
    return (KnockOut(cut.layer, head, cut.target_pos, cut.source_pos),)


#: Changes one sequence [pos, ...] of a component's states in place.
_Change = Callable[[Tensor], None]


@contextmanager
def _replaced_mlps(model: Model, cuts: Sequence[Cut | None], baseline: Baseline) -> Iterator[None]:
    """Replace the MLPs that are cut, each cut in its own sequence of the batch.

    Interventions that are applied inside this block change the replacements too.
    """
    mlps: dict[tuple[int, int], list[tuple[int, _Change]]] = defaultdict(list)
    for number, cut in enumerate(cuts):
        if cut is not None and cut.kind == "mlp":
            for place, change in enumerate(_mlp_changes(model, cut, baseline)):
                mlps[cut.layer, place].append((number, change))
    with model.lock, ExitStack() as stack:
        for (layer, place), several in mlps.items():
            writer = model.stream.blocks[layer].of("mlp")[place].module
            stack.callback(edit_output(writer, _edit(several), len(cuts)).remove)
        yield


def _replaced_edges(
    model: Model, run: Trace, cuts: Sequence[Cut | None], baseline: Baseline
) -> dict[int, Edit]:
    """Layer to a change of its heads' mixed values: edges as they are in the other run."""
    heads: dict[int, list[tuple[int, _Change]]] = defaultdict(list)
    for number, cut in enumerate(cuts):
        if cut is not None and cut.kind == "attention" and baseline.other is not None:
            change = _edge_change(model, run, baseline.other, cut)
            heads[cut.layer].append((number, change))
    return {layer: _edit(several) for layer, several in heads.items()}


def _edit(changes: list[tuple[int, _Change]]) -> Edit:
    def edit(states: Tensor) -> Tensor:
        """Change some sequences of a batch [batch, pos, ...]."""
        changed = states.clone()
        for number, change in changes:
            change(changed[number])
        return changed

    return edit


def _mlp_changes(model: Model, cut: Cut, baseline: Baseline) -> list[_Change]:
    """One change for each MLP of the layer: the first gets the replacement, the others zero."""
    writers = model.stream.blocks[cut.layer].of("mlp")
    vector = torch.from_numpy(baseline.mlp[cut.layer, cut.target_pos].copy())

    def setting(value: Tensor) -> _Change:
        """A change that sets the output to ``value`` at the cut's position."""

        def change(states: Tensor) -> None:
            """Replace the MLP's output at one position."""
            states[cut.target_pos] = value.to(states)

        return change

    values = [vector / plain_scale(writer.scale) for writer in writers[:1]]
    values += [torch.zeros_like(vector)] * (len(writers) - 1)
    return [setting(value) for value in values]


def plain_scale(scale: float | Tensor) -> float | Tensor:
    """A factor of a component's output, on the CPU."""
    return scale.detach().to("cpu", torch.float32) if isinstance(scale, Tensor) else scale


def _edge_change(model: Model, run: Trace, other: Trace, cut: Cut) -> _Change:
    """Replace what heads move along an edge by what they move along it in the other run."""
    block, where = model.stream.blocks[cut.layer], (cut.target_pos, cut.source_pos)
    heads = range(block.heads) if cut.head < 0 else [cut.head]

    def moved(one: Trace, head: int) -> Floats:
        """[d_head] weight times value."""
        value = one.value[cut.layer, head // (block.heads // block.kv_heads), cut.source_pos]
        product: Floats = one.pattern[cut.layer, head][where] * value
        return product

    vectors = {head: torch.from_numpy(moved(other, head) - moved(run, head)) for head in heads}

    def change(states: Tensor) -> None:
        """Add the difference to the heads' mixed values [pos, head, d] at the query position."""
        for head, vector in vectors.items():
            states[cut.target_pos, head] += vector.to(states)

    return change
