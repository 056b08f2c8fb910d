"""Find the two writers of a block by solving ``resid + attention + MLP = next row`` on probes.

The writers are the two modules in the block whose scaled outputs sum to the block's increment of
the residual stream. The attention writer is the one after the output projection.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from analysis.errors import UnsupportedModelError
from analysis.model.probe import AttentionEvent, Event, Record, relative_error, tolerance
from analysis.model.stream import Block


@dataclass
class _Pair:
    """Two modules by their event numbers, their scales, and whether one of them writes zero."""

    first: int
    second: int
    scales: tuple[float, float]
    error: float
    zero: bool = False


#: Pairs of modules by their names below the block.
_Pairs = dict[tuple[str, str], _Pair]


def solve_blocks(
    named: list[tuple[str, nn.Module]], records: list[Record], dtype: torch.dtype
) -> list[Block]:
    """The blocks and their writers: in each the only pair of modules that fits on every probe.

    Where several pairs fit, as in a block whose attention or MLP writes zero, the modules that are
    the writers of most other blocks are chosen.

    Args:
        named: The blocks with their names in the model.
        records: A recorded pass of each probe.
        dtype: Dtype of the weights; it sets the tolerance.

    Raises:
        UnsupportedModelError: If no pair fits in a block, or several do and none is chosen.
    """
    found = [_solve(layer, *entry, records, dtype) for layer, entry in enumerate(named)]
    sure = Counter(next(iter(pairs)) for pairs in found if len(pairs) == 1)
    usual = sure.most_common(1)[0][0] if sure else None
    blocks = []
    for layer, ((name, module), pairs) in enumerate(zip(named, found, strict=True)):
        pair = pairs[usual] if usual in pairs else _only(layer, pairs)
        blocks.append(_describe(module, name, records[0], pair, dtype))
    return blocks


def _only(layer: int, pairs: _Pairs) -> _Pair:
    """The only pair, or the only one in which both modules write something."""
    writing = [pair for pair in pairs.values() if not pair.zero]
    chosen = writing or list(pairs.values())
    if len(chosen) > 1:
        raise UnsupportedModelError(
            f"In layer {layer} {len(chosen)} different pairs of modules sum to the block's "
            "increment of the residual stream, so its writers are ambiguous.",
            "Choose another model.",
        )
    return chosen[0]


def _solve(
    layer: int, name: str, module: nn.Module, records: list[Record], dtype: torch.dtype
) -> _Pairs:
    """The pairs of modules that fit on every probe, by their names below the block.

    Raises:
        UnsupportedModelError: If there are none.
    """
    solutions = [_solve_probe(name, module, record, dtype) for record in records]
    first, _ = solutions[0]
    pairs = {
        key: pair for key, pair in first.items() if all(key in found for found, _ in solutions)
    }
    if not pairs:
        best = min(error for _, error in solutions)
        raise UnsupportedModelError(
            f"In layer {layer} no two modules sum to the block's increment of the residual "
            f"stream: resid + attention + MLP = next row fails with relative error {best:.1e}.",
            "Choose another model: in this one a third part writes to the stream, or a part that "
            "is not a module.",
        )
    with_attention = {
        key: pair for key, pair in pairs.items() if _has_attention(records[0], name, module, pair)
    }
    return with_attention or pairs


def _has_attention(record: Record, name: str, module: nn.Module, pair: _Pair) -> bool:
    """Whether one of the pair follows the module that reads the heads' outputs."""
    writers = record.events[pair.first], record.events[pair.second]
    calls = _attention_calls(record, module)
    return bool(calls) and any(
        _follows(writer, event)
        for _, event in _readers(record, name, calls[0].concatenated)
        for writer in writers
    )


def _solve_probe(
    name: str, module: nn.Module, record: Record, dtype: torch.dtype
) -> tuple[_Pairs, float]:
    """All pairs of modules whose scaled outputs sum to the block's increment; the least error."""
    whole = record.of(module)
    if whole is None or whole.input is None:
        return {}, float("inf")
    increment = whole.output - whole.input
    candidates = _candidates(record, name, increment)
    found: _Pairs = {}
    best = float("inf")
    for place, first in enumerate(candidates):
        for second in candidates[place + 1 :]:
            pair = _fit_pair(first, second, increment, whole)
            best = min(best, pair.error)
            if _explains(first[1].output, second[1].output, pair, whole, dtype):
                names = (event.name.removeprefix(f"{name}.") for event in (first[1], second[1]))
                found[next(names), next(names)] = pair
    return found, best


def _candidates(record: Record, name: str, increment: Tensor) -> list[tuple[int, Event]]:
    """Calls that could be writers, in order; of several with equal outputs only the last.

    Of calls that return zero, as in a pruned block, the last of each uninterrupted run counts. A
    module that is called twice in a block (Phi's dropout) is left out: a hook can't tell its
    calls apart.
    """
    kept: list[tuple[int, Event]] = []
    after_zero = False
    for number, event in record.under(name):
        zero = not bool(event.output.any())
        after_zero = after_zero and zero
        same_size = event.output.numel() == increment.numel()
        same_size = same_size and event.output.shape[-1] == increment.shape[-1]
        if not same_size or record.calls(event.module) > 1:
            continue
        flat = event.output.reshape(increment.shape)
        if after_zero:
            kept.pop()
        if not zero:
            kept = [item for item in kept if not torch.equal(item[1].output, flat)]
        kept.append((number, replace(event, output=flat)))
        after_zero = zero
    return kept


def _fit_pair(
    first: tuple[int, Event], second: tuple[int, Event], increment: Tensor, whole: Event
) -> _Pair:
    one, two = first[1].output, second[1].output
    assert whole.input is not None  # noqa: S101 - narrowed by the caller
    plain = relative_error(whole.input + one + two, whole.output)
    zero = not (one.any() and two.any())
    best = _Pair(first[0], second[0], (1.0, 1.0), plain, zero)
    scales = _fitted_scales(one.flatten().double(), two.flatten().double(), increment)
    if scales is None:
        return best
    a, b = scales
    error = relative_error(whole.input + a * one + b * two, whole.output)
    usable = abs(a) > 1e-3 and abs(b) > 1e-3
    # A fitted scale must be clearly better than a plain sum, or rounding would decide.
    if usable and error < 0.05 * plain:
        best = _Pair(first[0], second[0], (a, b), error, zero)
    return best


def _fitted_scales(one: Tensor, two: Tensor, increment: Tensor) -> tuple[float, float] | None:
    """Scales of two outputs for the increment by least squares; a zero output gets the other's."""
    wanted = increment.flatten().double()
    if not one.any() or not two.any():
        both = one + two
        scale = float(both @ wanted / (both @ both)) if both.any() else 1.0
        return scale, scale
    matrix = torch.stack([one, two], 1)
    gram = matrix.T @ matrix
    if float(torch.linalg.det(gram)) <= 1e-12 * float(gram.diagonal().prod()):
        return None
    a, b = torch.linalg.solve(gram, matrix.T @ wanted).tolist()
    return a, b


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
    calls = _attention_calls(record, module)
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


def _follows(writer: Event, reader: Event) -> bool:
    """Whether a writer returns, or reads, what the reader of the heads returns."""
    same = reader.output.numel() == writer.output.numel()
    same = same and torch.equal(reader.output.flatten(), writer.output.flatten())
    return same or (_takes(writer, reader.output) and writer.module is not reader.module)


def _attention_calls(record: Record, module: nn.Module) -> list[AttentionEvent]:
    parts = {id(part) for part in module.modules()}
    return [call for call in record.attention if id(call.module) in parts]


def _readers(record: Record, name: str, heads: Tensor) -> list[tuple[int, Event]]:
    """Calls below ``name`` that read the concatenated heads."""
    return [
        (number, event)
        for number, event in record.under(name)
        if event.input is not None
        and event.input.shape == heads.shape
        and torch.equal(event.input, heads)
    ]


def _projection(
    record: Record, name: str, heads: Tensor, writers: tuple[Event, Event]
) -> tuple[int, Event] | None:
    """The output projection: it reads the heads, and a writer returns or reads its output.

    An adapted projection contains a plain one with the same input. If no reader fits, the first
    is taken.
    """
    readers = _readers(record, name, heads)
    for number, event in readers:
        if any(_follows(writer, event) for writer in writers):
            return number, event
    return readers[0] if readers else None
