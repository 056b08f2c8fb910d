"""Cut links of a flow graph, many in one forward pass, and measure the effect on a logit."""

from __future__ import annotations

import copy
import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
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

#: Every link is cut if that takes at most this many multiplications, as three passes of 64 tokens
#: through the default model do, in so many cuts: a short pass costs time whatever its size.
ALL_WITHIN, ALL_CUTS = 3 * 64 * 134_515_008, 2048
#: Tokens in one forward pass, over all sequences of its batch.
_MAX_TOKENS = 512
#: Bytes of the copies of a cache in one forward pass.
_CACHE_BYTES = 64 << 20
#: Sequences that are up to this many times as long run together; so do few tokens.
_LONGER, _LEAST_TOKENS = 1.25, 48
#: Largest relative difference of logit vectors that count as equal, in float32.
_SAME = 1e-4
#: What a model raises that has no cache of this kind.
_NO_CACHE = (TypeError, ValueError, AttributeError, RuntimeError, NotImplementedError)


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


def all_cut(model: Model, cuts: int, size: int) -> bool:
    """Whether every link is to be cut: a token costs a multiplication for each of the weights.

    Args:
        model: The model.
        cuts: Number of links.
        size: Number of positions that run.
    """
    weights = sum(weight.numel() for weight in model.hf.parameters())
    return cuts <= ALL_CUTS and cuts * size * weights <= ALL_WITHIN


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


@dataclass(frozen=True, eq=False)
class _Prefix:
    """Keys and values of the run with nothing cut. A cut changes no position before its own.

    Attributes:
        cache: The model's key-value cache of all positions.
        logits: [vocab] the last ones.
        size: Number of positions. row_bytes: Bytes of the cache for one position.
    """

    cache: Any
    logits: NDArray[np.float32]
    size: int
    row_bytes: int

    def options(self, start: int, rows: int) -> dict[str, Any]:
        """Keyword arguments of ``model.hf`` for the positions from ``start``."""
        cache = copy.deepcopy(self.cache)
        cache.crop(start - self.size)  # negative: how many to remove
        cache.batch_repeat_interleave(rows)
        return {"use_cache": True, "past_key_values": cache}


def _prefix(model: Model, run: Trace, ids: Sequence[int]) -> _Prefix | None:
    """The cache of the run; None where positions can't be left out.

    A cut by hooks needs all queries. Interventions can change any position. Where a layer keeps
    other than one key for each position, edges can't be found in the cache.
    """
    if run.interventions or model.stream.by_hooks or not model.exact or len(ids) < 2:
        return None
    with suppress(*_NO_CACHE), model.lock:
        found = model.hf(input_ids=torch.tensor([list(ids)], device=model.device), use_cache=True)
        states = [(layer.keys, layer.values) for layer in found.past_key_values.layers]
        if all(keys.shape[-2] == len(ids) for keys, _ in states) and states:
            size = sum(state.nbytes for pair in states for state in pair)
            logits = found.logits[0, -1].to("cpu", torch.float32).numpy()
            prefix = _Prefix(found.past_key_values, logits, len(ids), size // len(ids))
            return prefix if _same(logits, run.logits[len(ids) - 1]) else None
    return None


def _same(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    return bool(np.linalg.norm(one - other) <= _SAME * np.linalg.norm(other))


@torch.no_grad()
def effects(
    model: Model, run: Trace, cuts: Sequence[Cut], target: Target, baseline: Baseline
) -> tuple[NDArray[np.float32], int]:
    """How much each cut lowers the target's logit.

    Interventions of the run stay in force. Positions before a cut are run once, where the model
    has a key-value cache of all positions.

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
    prefix = _prefix(model, run, ids)
    if prefix is not None:
        with suppress(*_NO_CACHE):
            return _measured(model, run, cuts, target, baseline, prefix)
    return _measured(model, run, cuts, target, baseline, None)


def _measured(
    model: Model,
    run: Trace,
    cuts: Sequence[Cut],
    target: Target,
    baseline: Baseline,
    prefix: _Prefix | None,
) -> tuple[NDArray[np.float32], int]:
    """The effects.

    Raises:
        ValueError: If a run from the middle gives other logits than the whole run.
    """
    size = positions_of(run, target)
    found, done, passes = np.zeros(len(cuts), np.float32), 0, 0
    for start, part in _batches(cuts, size, prefix):
        jobs.step(done, len(cuts), "Cutting links")
        batch = [None, *(cuts[number] for number in part)]
        begun = (start, prefix)
        rows = jobs.repeatable(
            partial(_logits, model, run, size, batch, baseline, target.position, begun)
        )
        if prefix is not None and not _same(rows[0], prefix.logits):
            raise ValueError("the cache gives other logits")
        values = target.of(rows)
        found[part] = values[0] - values[1:]
        done, passes = done + len(part), passes + 1
    jobs.step(len(cuts), max(len(cuts), 1), "Cutting links")
    return found, passes + (prefix is not None)


def _batches(
    cuts: Sequence[Cut], size: int, prefix: _Prefix | None
) -> Iterator[tuple[int, list[int]]]:
    """The first position to run, and the numbers of the cuts that run together."""
    if prefix is None:
        most = max(_MAX_TOKENS // size - 1, 1)
        numbers = list(range(len(cuts)))
        yield from ((0, numbers[at : at + most]) for at in range(0, len(cuts), most))
        return
    order = sorted(range(len(cuts)), key=lambda number: -cuts[number].target_pos)
    while order:
        first = size - cuts[order[0]].target_pos
        count = 0
        for number in order:
            length = size - cuts[number].target_pos
            tokens, kept = (count + 2) * length, (count + 2) * prefix.row_bytes * size
            most = _MAX_TOKENS if length <= _LONGER * first else _LEAST_TOKENS
            if count and (tokens > most or kept > _CACHE_BYTES):
                break
            count += 1
        part, order = order[:count], order[count:]
        yield cuts[part[-1]].target_pos, part


def _logits(
    model: Model,
    run: Trace,
    size: int,
    cuts: Sequence[Cut | None],
    baseline: Baseline,
    position: int,
    begun: tuple[int, _Prefix | None],
) -> NDArray[np.float32]:
    """[cut, vocab] logits at ``position``, each cut in its own sequence from the start of it."""
    start, prefix = begun
    ids = list(run.token_ids[start:size])
    tokens = torch.tensor([ids] * len(cuts), device=model.device)
    options: dict[str, Any] = {"input_ids": tokens, "use_cache": False}
    if prefix is not None and start:
        options |= prefix.options(start, len(cuts))
    if "logits_to_keep" in inspect.signature(model.hf.forward).parameters:
        options["logits_to_keep"] = size - position
    sets = [(*run.interventions, *_knock_out(cut, baseline)) for cut in cuts]
    mixed = _replaced_edges(model, run, cuts, baseline, start)
    with _replaced_mlps(model, cuts, baseline, start), applied(model, sets, size, mixed=mixed):
        logits = model.hf(**options).logits[:, position - size]
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
def _replaced_mlps(
    model: Model, cuts: Sequence[Cut | None], baseline: Baseline, start: int
) -> Iterator[None]:
    """Replace the MLPs that are cut, each cut in its own sequence of the batch.

    Interventions that are applied inside this block change the replacements too.
    """
    mlps: dict[tuple[int, int], list[tuple[int, _Change]]] = defaultdict(list)
    for number, cut in enumerate(cuts):
        if cut is not None and cut.kind == "mlp":
            for place, change in enumerate(_mlp_changes(model, cut, baseline, start)):
                mlps[cut.layer, place].append((number, change))
    with model.lock, ExitStack() as stack:
        for (layer, place), several in mlps.items():
            writer = model.stream.blocks[layer].of("mlp")[place].module
            stack.callback(edit_output(writer, _edit(several), len(cuts)).remove)
        yield


def _replaced_edges(
    model: Model, run: Trace, cuts: Sequence[Cut | None], baseline: Baseline, start: int
) -> dict[int, Edit]:
    """Layer to a change of its heads' mixed values: edges as they are in the other run."""
    heads: dict[int, list[tuple[int, _Change]]] = defaultdict(list)
    for number, cut in enumerate(cuts):
        if cut is not None and cut.kind == "attention" and baseline.other is not None:
            change = _edge_change(model, run, baseline.other, cut, start)
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


def _mlp_changes(model: Model, cut: Cut, baseline: Baseline, start: int) -> list[_Change]:
    """One change for each MLP of the layer: the first gets the replacement, the others zero."""
    writers = model.stream.blocks[cut.layer].of("mlp")
    vector = torch.from_numpy(baseline.mlp[cut.layer, cut.target_pos].copy())

    def setting(value: Tensor) -> _Change:
        """A change that sets the output to ``value`` at the cut's position."""

        def change(states: Tensor) -> None:
            """Replace the MLP's output at one position."""
            states[cut.target_pos - start] = value.to(states)

        return change

    values = [vector / plain_scale(writer.scale) for writer in writers[:1]]
    values += [torch.zeros_like(vector)] * (len(writers) - 1)
    return [setting(value) for value in values]


def plain_scale(scale: float | Tensor) -> float | Tensor:
    """A factor of a component's output, on the CPU."""
    return scale.detach().to("cpu", torch.float32) if isinstance(scale, Tensor) else scale


def _edge_change(model: Model, run: Trace, other: Trace, cut: Cut, start: int) -> _Change:
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
            states[cut.target_pos - start, head] += vector.to(states)

    return change
