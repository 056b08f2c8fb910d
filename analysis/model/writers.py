"""What the writers of a block are: attention with its heads, MLP, state space model, embedding.

``increments`` finds which modules write to the residual stream. The attention writer is the one
after the output projection, which reads the heads' outputs, or those times a gate.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn

from analysis.errors import UnsupportedModelError
from analysis.model.increments import (
    WHOLE,
    Solution,
    Solutions,
    choose,
    plain_solutions,
    problem,
    solve,
)
from analysis.model.probe import AttentionEvent, Event, Record, relative_error, tolerance
from analysis.model.readout import norm_form
from analysis.model.stream import Block, Writer

Named = list[tuple[str, nn.Module]]


def solve_blocks(
    named: Named, records: list[Record], dtype: torch.dtype, entry: nn.Module | None
) -> list[Solution]:
    """The writers of each block: in each the only smallest set of modules that fits all probes.

    A block that no set fits is ``WHOLE``: it counts as one part.

    Args:
        named: The blocks with their names in the model.
        records: A recorded pass of each probe.
        dtype: Dtype of the weights; it sets the tolerance.
        entry: From ``find_entry``.

    Raises:
        UnsupportedModelError: If a block ends in a norm, or if several sets fit and none is chosen.
    """
    usual: dict[tuple[str, ...], Solution] = {}
    found: list[Solutions] = []
    for layer, (name, module) in enumerate(named):
        equation = problem(name, module, records, dtype, entry if layer == 0 else None)
        attends = _following(records[0], name, module)
        solutions = plain_solutions(equation, attends)
        if not solutions:
            _refuse_post_norm(layer, name, module, records[0])
            solutions = solve(equation, usual.values(), attends)
        if len(solutions) == 1:
            usual.update(solutions)
        found.append(solutions or {WHOLE.names: WHOLE})
    return choose(found)


def find_entry(named: Named, records: list[Record]) -> nn.Module | None:
    """The norm inside the first block whose output is the residual; None: the block's input is.

    RWKV norms the embedding inside its first block.
    """
    name, module = named[0]
    whole = records[0].of(module)
    norms = [
        event
        for _, event in records[0].under(name)
        if whole is not None and _takes(event, whole.input) and _is_norm(event)
    ]
    dtype = next(module.parameters()).dtype
    for event in norms:
        if not plain_solutions(problem(name, module, records, dtype), set()):
            equation = problem(name, module, records, dtype, event.module)
            if len(named) > 1 and plain_solutions(equation, set()):
                return event.module
    return None


def _refuse_post_norm(layer: int, name: str, module: nn.Module, record: Record) -> None:
    """Refuse a block whose output is that of a norm.

    Raises:
        UnsupportedModelError: If it is.
    """
    whole = record.of(module)
    if whole is None:
        return
    for _, event in record.under(name):
        ends = event.input is not None and torch.equal(event.output, whole.output)
        if ends and _is_norm(event) and not _takes(event, whole.input):
            raise UnsupportedModelError(
                f"Layer {layer} ends in a norm (post-norm): what attention and MLP write is normed "
                "together with the residual, so there is no residual stream that is a sum of "
                "parts.",
                "Choose a model whose norms come before attention and MLP.",
            )


def _is_norm(event: Event) -> bool:
    """Whether a module without a matrix has the formula of a norm."""
    if not norm_like(event.module):
        return False
    try:
        return norm_form(event.module, event.output.shape[-1]) is not None
    except (TypeError, RuntimeError):  # it takes more than one state
        return False


def _following(record: Record, name: str, module: nn.Module) -> set[str]:
    """Names, below the block, of the modules that return or read the output projection's output."""
    calls = _attention_calls(record, module)
    if not calls:
        return set()
    readers = _readers(record, name, calls[0])
    return {
        event.name.removeprefix(f"{name}.")
        for _, event in record.under(name)
        if any(_follows(event, reader) for _, reader in readers)
    }


def describe_blocks(
    named: Named, records: list[Record], found: list[Solution], mixing: set[str], dtype: torch.dtype
) -> list[Block]:
    """The blocks with their writers and attention.

    A block with several attention modules counts as one part, as one without a solution does.

    Args:
        named: The blocks with their names in the model.
        records: A recorded pass of each probe.
        found: The writers of each block.
        mixing: Names of the writers that mix positions.
        dtype: Dtype of the weights.
    """
    record = records[0]
    attending = [
        {id(call.module) for call in _attention_calls(record, module)} for _, module in named
    ]
    uses = Counter(key for keys in attending for key in keys)
    blocks = []
    for (name, module), solution, keys in zip(named, found, attending, strict=True):
        if solution is WHOLE or len(keys) > 1:
            blocks.append(Block(module, (Writer(module, "whole_block"),)))
            continue
        calls = _attention_calls(record, module)
        # A module that several blocks share can't be told apart by the block that calls it.
        calls = [call for call in calls if uses[id(call.module)] == 1]
        events = [record.events[number] for number in solution.numbers]
        call = calls[0] if calls else None
        reader = None if call is None else _projection(record, name, call, events)
        own = _attention_place(events, call, reader, mixing)
        parts = _parts(events, own, call, mixing)
        block = Block(
            module, _writers(events, parts, solution), solution.carry, error=solution.error
        )
        if call is not None:
            _describe_attention(block, call, reader, events, own, dtype)
        blocks.append(block)
    return blocks


def _writers(events: list[Event], parts: list[str], solution: Solution) -> tuple[Writer, ...]:
    first = parts.index("attention") if "attention" in parts else 0
    return tuple(
        Writer(event.module, part, scale, solution.offset if place == first else None)
        for place, (event, part, scale) in enumerate(
            zip(events, parts, solution.scales, strict=True)
        )
    )


def _attention_place(
    events: list[Event], call: AttentionEvent | None, reader: Event | None, mixing: set[str]
) -> int | None:
    """Which writer is attention's, or takes its place; None if none does."""
    if reader is not None:
        return next(place for place, event in enumerate(events) if _follows(event, reader))
    inside = set() if call is None else {id(part) for part in call.module.modules()}
    for place, event in enumerate(events):
        if id(event.module) in inside:
            return place
    if call is None and len(events) == 2:
        return 0
    return next((place for place, event in enumerate(events) if event.name in mixing), None)


def _parts(
    events: list[Event], own: int | None, call: AttentionEvent | None, mixing: set[str]
) -> list[str]:
    """The part that each writer belongs to."""
    pair = call is None and len(events) == 2

    def part(place: int, event: Event) -> str:
        """The name of one writer's part."""
        if place == own:
            return "attention"
        if event.name in mixing and not pair:
            return "ssm"
        return "per_layer_embedding" if "per_layer" in event.name else "mlp"

    return [part(place, event) for place, event in enumerate(events)]


def _describe_attention(
    block: Block,
    call: AttentionEvent,
    reader: Event | None,
    events: list[Event],
    own: int | None,
    dtype: torch.dtype,
) -> None:
    """The block's attention: its heads, its output projection and the norm after it."""
    block.attention, block.heads = call.module, call.heads
    block.kv_heads, block.d_head = call.kv_heads, call.d_head
    block.scaled_heads = not _same_heads(call.mixed, call.concatenated, dtype)
    if block.scaled_heads and not _scaled_heads(call, dtype):
        block.scaled_heads = False
        return  # pattern and values do not give the output: the heads can't be split
    if reader is None or own is None:
        return
    assert reader.input is not None  # noqa: S101 - readers have inputs
    block.gated = not torch.equal(reader.input, call.concatenated)
    block.projection = reader.module
    if not torch.equal(reader.output.flatten(), events[own].output.flatten()):
        post = events[own].module if _takes(events[own], reader.output) else None
        block.post_norm, block.projection = post, reader.module if post is not None else None


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


def _takes(event: Event, state: Tensor | None) -> bool:
    return event.input is not None and state is not None and torch.equal(event.input, state)


def _follows(writer: Event, reader: Event) -> bool:
    """Whether a writer returns, or reads, what the reader of the heads returns."""
    same = reader.output.numel() == writer.output.numel()
    same = same and torch.equal(reader.output.flatten(), writer.output.flatten())
    return same or (_takes(writer, reader.output) and writer.module is not reader.module)


def _attention_calls(record: Record, module: nn.Module) -> list[AttentionEvent]:
    parts = {id(part) for part in module.modules()}
    return [call for call in record.attention if id(call.module) in parts]


def _readers(record: Record, name: str, call: AttentionEvent) -> list[tuple[int, Event]]:
    """Calls below ``name`` that read the concatenated heads.

    If none does, as with a gate between heads and projection: the matrices inside the attention
    module that read as many numbers and were called after all others.
    """
    below = [
        (number, event)
        for number, event in record.under(name)
        if event.input is not None and event.input.shape == call.concatenated.shape
    ]
    plain = [item for item in below if _takes(item[1], call.concatenated)]
    if plain and not all(norm_like(event.module) for _, event in plain):
        return plain
    inside = {id(part) for part in call.module.modules() if part is not call.module}
    gated = [
        item for item in below if id(item[1].module) in inside and not norm_like(item[1].module)
    ]
    return gated[-1:] or plain


def norm_like(module: nn.Module) -> bool:
    """Whether a module has no matrix, as a norm."""
    return all(weight.ndim < 2 for weight in module.parameters())


def _projection(
    record: Record, name: str, call: AttentionEvent, writers: list[Event]
) -> Event | None:
    """The output projection: it reads the heads, and a writer returns or reads its output.

    An adapted projection contains a plain one with the same input.
    """
    for _, event in _readers(record, name, call):
        if any(_follows(writer, event) for writer in writers):
            return event
    return None
