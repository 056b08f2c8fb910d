"""Find the two writers of a block by solving ``resid + attention + MLP = next row`` on probes.

The writers are the two modules in the block whose scaled outputs sum to the block's increment of
the residual stream. The attention writer is the one after the output projection.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from analysis.errors import UnsupportedModelError
from analysis.model.probe import AttentionEvent, Event, Record, relative_error, tolerance
from analysis.model.stream import Block


@dataclass
class _Pair:
    first: int
    second: int
    scales: tuple[float, float]
    error: float


def solve_block(
    layer: int, name: str, module: nn.Module, records: list[Record], dtype: torch.dtype
) -> Block:
    """The block and its writers: the only pair of modules that fits on every probe.

    Args:
        layer: The block's layer, for the message.
        name: The name of the block's module in the model.
        module: The block.
        records: A recorded pass of each probe.
        dtype: Dtype of the weights; it sets the tolerance.

    Raises:
        UnsupportedModelError: If no pair fits, or more than one.
    """
    solutions = [_solve_probe(name, module, record, dtype) for record in records]
    shared = set(solutions[0][0]).intersection(*(found for found, _ in solutions[1:]))
    if not shared:
        best = min(error for _, error in solutions)
        raise UnsupportedModelError(
            f"In layer {layer} no two modules sum to the block's increment of the residual "
            f"stream: resid + attention + MLP = next row fails with relative error {best:.1e}.",
            "Choose another model: here a third part writes to the stream, or one that is not "
            "a module.",
        )
    if len(shared) > 1:
        raise UnsupportedModelError(
            f"In layer {layer} {len(shared)} different pairs of modules sum to the block's "
            "increment of the residual stream, so its writers are ambiguous.",
            "Choose another model.",
        )
    pair = next(iter(shared))
    return _describe(module, name, records[0], solutions[0][0][pair], dtype)


def _solve_probe(
    name: str, module: nn.Module, record: Record, dtype: torch.dtype
) -> tuple[dict[tuple[str, str], _Pair], float]:
    """All pairs of modules below ``name`` whose scaled outputs sum to the block's increment."""
    whole = record.of(module)
    if whole is None or whole.input is None:
        return {}, float("inf")
    increment = whole.output - whole.input
    candidates = _distinct(record, name, increment)
    found: dict[tuple[str, str], _Pair] = {}
    best = float("inf")
    for place, first in enumerate(candidates):
        for second in candidates[place + 1 :]:
            pair = _fit_pair(first, second, increment, whole)
            best = min(best, pair.error)
            if _explains(first[1].output, second[1].output, pair, whole, dtype):
                found[first[1].name, second[1].name] = pair
    return found, best


def _distinct(record: Record, name: str, increment: Tensor) -> list[tuple[int, Event]]:
    """Calls that could be writers; of several with equal outputs only the last.

    A module that is called twice in a block (Phi's dropout) is left out: a hook can't tell its
    calls apart.
    """
    kept: list[tuple[int, Event]] = []
    for number, event in record.under(name):
        same_size = event.output.numel() == increment.numel()
        if not same_size or event.output.shape[-1] != increment.shape[-1]:
            continue
        if float(event.output.norm()) == 0.0 or record.calls(event.module) > 1:
            continue
        flat = event.output.reshape(increment.shape)
        kept = [item for item in kept if not torch.equal(item[1].output, flat)]
        kept.append((number, replace(event, output=flat)))
    return kept


def _fit_pair(
    first: tuple[int, Event], second: tuple[int, Event], increment: Tensor, whole: Event
) -> _Pair:
    one, two = first[1].output, second[1].output
    assert whole.input is not None  # noqa: S101 - narrowed by the caller
    plain = relative_error(whole.input + one + two, whole.output)
    best = _Pair(first[0], second[0], (1.0, 1.0), plain)
    matrix = torch.stack([one.flatten(), two.flatten()], 1).double()
    gram = matrix.T @ matrix
    if float(torch.linalg.det(gram)) <= 1e-12 * float(gram.diagonal().prod()):
        return best
    scales = torch.linalg.solve(gram, matrix.T @ increment.flatten().double())
    a, b = (float(scale) for scale in scales)
    error = relative_error(whole.input + a * one + b * two, whole.output)
    usable = abs(a) > 1e-3 and abs(b) > 1e-3
    # A fitted scale must be clearly better than a plain sum, or rounding would decide.
    if usable and error < 0.05 * plain:
        best = _Pair(first[0], second[0], (a, b), error)
    return best


def _explains(one: Tensor, two: Tensor, pair: _Pair, whole: Event, dtype: torch.dtype) -> bool:
    """Whether a pair sums to the increment at every position, up to rounding.

    The error is relative to the increment, not to the state: beside a massive activation any two
    small vectors would fit.
    """
    assert whole.input is not None  # noqa: S101 - narrowed by the caller
    a, b = pair.scales[0] * one, pair.scales[1] * two
    missing = (whole.input + a + b - whole.output).norm(dim=-1)
    sizes = [part.norm(dim=-1) for part in (a, b, whole.input, whole.output)]
    # Two additions, each rounded once, relative to the largest summand.
    allowed = 2 * torch.finfo(dtype).eps * torch.stack(sizes).amax(0)
    return bool((missing <= allowed).all())


def _same_heads(mixed: Tensor | None, heads: Tensor, dtype: torch.dtype) -> bool:
    return mixed is not None and relative_error(mixed, heads) <= tolerance(dtype)


def _scaled_heads(call: AttentionEvent, dtype: torch.dtype) -> bool:
    """Whether the heads' outputs are pattern times values times a factor per head and query."""
    if call.mixed is None:
        return False
    shape = (*call.mixed.shape[:-1], call.heads, -1)
    mixed, heads = call.mixed.view(shape), call.concatenated.view(shape)
    factor = (mixed * heads).sum(-1, keepdim=True) / mixed.square().sum(-1, keepdim=True)
    return _same_heads(mixed * factor.nan_to_num(0.0), heads, dtype)


def _describe(
    module: nn.Module,
    name: str,
    record: Record,
    pair: _Pair,
    dtype: torch.dtype,
) -> Block:
    first, second = record.events[pair.first], record.events[pair.second]
    calls = [
        call for call in record.attention if any(call.module is part for part in module.modules())
    ]
    block = Block(module, first.module, second.module, *pair.scales, error=pair.error)
    if not calls:
        return block
    call = calls[0]
    block.attention, block.heads = call.module, call.heads
    block.kv_heads, block.d_head = call.kv_heads, call.d_head
    block.scaled_heads = not _same_heads(call.mixed, call.concatenated, dtype)
    if block.scaled_heads and not _scaled_heads(call, dtype):
        block.scaled_heads = False
        return block  # pattern and values do not give the output: the heads can't be split
    mixed = _projection(record, name, call.concatenated, (first, second))
    if mixed is None:
        return block
    number, event = mixed
    if number > pair.first:  # the MLP ran first, so the later writer is attention's
        block.attention_writer, block.mlp_writer = second.module, first.module
        block.attention_scale, block.mlp_scale = pair.scales[1], pair.scales[0]
        first = second
    block.projection = event.module
    if not torch.equal(event.output.flatten(), first.output.flatten()):
        block.post_norm = first.module if _takes(first, event.output) else None
        block.projection = event.module if block.post_norm is not None else None
    return block


def _takes(event: Event, state: Tensor) -> bool:
    return event.input is not None and torch.equal(event.input, state)


def _projection(
    record: Record, name: str, heads: Tensor, writers: tuple[Event, Event]
) -> tuple[int, Event] | None:
    """The output projection: it reads the heads, and a writer returns or reads its output.

    An adapted projection contains a plain one with the same input. If no reader fits, the first
    is taken.
    """
    readers = [
        (number, event)
        for number, event in record.under(name)
        if event.input is not None
        and event.input.shape == heads.shape
        and torch.equal(event.input, heads)
    ]
    for number, event in readers:
        for writer in writers:
            same = event.output.numel() == writer.output.numel()
            same = same and torch.equal(event.output.flatten(), writer.output.flatten())
            if same or (_takes(writer, event.output) and writer.module is not event.module):
                return number, event
    return readers[0] if readers else None
