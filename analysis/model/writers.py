"""Find the two writers of a block, by solving the identity on probes.

They are the two modules inside it whose outputs, scaled, make up what the block adds to the
residual stream; which of them is attention's is told by who reads the heads' results.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from analysis.errors import UnsupportedModelError
from analysis.model.probe import Event, Record, relative_error
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
    """The block and its writers: the one pair of modules that fits on every probe.

    Args:
        layer: Of the block, for the message.
        name: Of the block's module in the model.
        module: The block.
        records: A watched pass of each probe.
        dtype: Of the weights: how closely a sum must hold.

    Raises:
        UnsupportedModelError: If no pair fits, or more than one.
    """
    solutions = [_solve_probe(name, module, record, dtype) for record in records]
    shared = set(solutions[0][0]).intersection(*(found for found, _ in solutions[1:]))
    if not shared:
        best = min(error for _, error in solutions)
        raise UnsupportedModelError(
            f"In layer {layer} no two modules add up to what the block adds to the residual "
            f"stream: resid + attention + MLP = next row fails with relative error {best:.1e}.",
            "A third part writes to the stream, or one that is not a module.",
        )
    if len(shared) > 1:
        raise UnsupportedModelError(
            f"In layer {layer} {len(shared)} different pairs of modules add up to what the "
            "block adds to the residual stream.",
            "Which of them are the writers can't be told, so no picture would be sure.",
        )
    pair = next(iter(shared))
    return _describe(module, name, records[0], pair, solutions[0][0][pair])


def _solve_probe(
    name: str, module: nn.Module, record: Record, dtype: torch.dtype
) -> tuple[dict[tuple[str, str], _Pair], float]:
    """All pairs of outputs below ``name`` whose scaled sum is the block's increment."""
    whole = record.of(module)
    if whole is None or whole.entered is None:
        return {}, float("inf")
    increment = whole.left - whole.entered
    candidates = _distinct(record, name, increment)
    found: dict[tuple[str, str], _Pair] = {}
    best = float("inf")
    for place, first in enumerate(candidates):
        for second in candidates[place + 1 :]:
            pair = _fit_pair(first, second, increment, whole)
            best = min(best, pair.error)
            if _explains(first[1].left, second[1].left, pair, whole, dtype):
                found[first[1].name, second[1].name] = pair
    return found, best


def _distinct(record: Record, name: str, increment: Tensor) -> list[tuple[int, Event]]:
    """Calls that could write, the last of each set of equal outputs standing for it.

    A module that is called twice in a block (Phi's dropout) can't be told apart by a hook, so
    it stands for nothing.
    """
    kept: list[tuple[int, Event]] = []
    for number, event in record.under(name):
        same_size = event.left.numel() == increment.numel()
        if not same_size or event.left.shape[-1] != increment.shape[-1]:
            continue
        if float(event.left.norm()) == 0.0 or record.calls(event.module) > 1:
            continue
        flat = event.left.reshape(increment.shape)
        kept = [item for item in kept if not torch.equal(item[1].left, flat)]
        kept.append((number, replace(event, left=flat)))
    return kept


def _fit_pair(
    first: tuple[int, Event], second: tuple[int, Event], increment: Tensor, whole: Event
) -> _Pair:
    one, two = first[1].left, second[1].left
    assert whole.entered is not None  # noqa: S101 - narrowed by the caller
    plain = relative_error(whole.entered + one + two, whole.left)
    best = _Pair(first[0], second[0], (1.0, 1.0), plain)
    matrix = torch.stack([one.flatten(), two.flatten()], 1).double()
    gram = matrix.T @ matrix
    if float(torch.linalg.det(gram)) <= 1e-12 * float(gram.diagonal().prod()):
        return best
    scales = torch.linalg.solve(gram, matrix.T @ increment.flatten().double())
    a, b = (float(scale) for scale in scales)
    error = relative_error(whole.entered + a * one + b * two, whole.left)
    usable = abs(a) > 1e-3 and abs(b) > 1e-3
    # A fitted scale must explain clearly more than a plain sum does, or rounding would choose.
    if usable and error < 0.05 * plain:
        best = _Pair(first[0], second[0], (a, b), error)
    return best


def _explains(one: Tensor, two: Tensor, pair: _Pair, whole: Event, dtype: torch.dtype) -> bool:
    """Whether a pair makes up the increment at every position, up to rounding.

    Measured against the increment, not the state: beside a massive activation any two small
    vectors would do.
    """
    assert whole.entered is not None  # noqa: S101 - narrowed by the caller
    a, b = pair.scales[0] * one, pair.scales[1] * two
    missing = (whole.entered + a + b - whole.left).norm(dim=-1)
    sizes = [part.norm(dim=-1) for part in (a, b, whole.entered, whole.left)]
    # Two additions, each rounded once: relative to the largest of what is added.
    allowed = 2 * torch.finfo(dtype).eps * torch.stack(sizes).amax(0)
    return bool((missing <= allowed).all())


def _describe(
    module: nn.Module, name: str, record: Record, key: tuple[str, str], pair: _Pair
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
    mixed = _projection(record, name, call.concatenated, (first, second))
    if mixed is None:
        return block
    number, event = mixed
    if number > pair.first:  # the MLP ran first: the later writer is attention's
        block.attention_writer, block.mlp_writer = second.module, first.module
        block.attention_scale, block.mlp_scale = pair.scales[1], pair.scales[0]
        first = second
    block.projection = event.module
    if not torch.equal(event.left.flatten(), first.left.flatten()):
        block.post_norm = first.module if _takes(first, event.left) else None
        block.projection = event.module if block.post_norm is not None else None
    return block


def _takes(event: Event, state: Tensor) -> bool:
    return event.entered is not None and torch.equal(event.entered, state)


def _projection(
    record: Record, name: str, heads: Tensor, writers: tuple[Event, Event]
) -> tuple[int, Event] | None:
    """The module that reads the heads' results side by side and gives what a writer adds or takes.

    An adapted projection holds a plain one that reads the same; where no reader fits, the first
    stands for it.
    """
    readers = [
        (number, event)
        for number, event in record.under(name)
        if event.entered is not None
        and event.entered.shape == heads.shape
        and torch.equal(event.entered, heads)
    ]
    for number, event in readers:
        for writer in writers:
            same = event.left.numel() == writer.left.numel()
            same = same and torch.equal(event.left.flatten(), writer.left.flatten())
            if same or (_takes(writer, event.left) and writer.module is not event.module):
                return number, event
    return readers[0] if readers else None
