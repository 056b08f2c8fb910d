"""Find who writes to the residual stream, by solving the identity on probes.

No table of architectures: the blocks are those that the model class itself
records, and the two writers of a block are the two modules inside it whose
outputs make up what the block adds to the stream.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from analysis.errors import UnsupportedModelError
from analysis.models.probe import Event, Record, watched_pass
from analysis.models.probe_states import first_of, keep, replace_first

#: Largest relative error at which two float32 sums count as the same; 16-bit models get more.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-5}
LOOSE_TOLERANCE = 2e-2


@dataclass
class Block:
    """One block of the stream.

    Attributes:
        module: The block.
        attention_writer, mlp_writer: Modules whose outputs, scaled, are added to the stream.
        attention_scale, mlp_scale: Those scales (1 almost everywhere; Granite's multipliers).
        attention: The module that calls the attention function; None where a block has none.
        projection: The output projection that mixes the heads; None if it could not be found.
        post_norm: A norm between the projection and the stream, where there is one.
        heads, kv_heads, d_head: Shape of its attention (0 without attention).
    """

    module: nn.Module
    attention_writer: nn.Module
    mlp_writer: nn.Module
    attention_scale: float = 1.0
    mlp_scale: float = 1.0
    attention: nn.Module | None = None
    projection: nn.Module | None = None
    post_norm: nn.Module | None = None
    heads: int = 0
    kv_heads: int = 0
    d_head: int = 0
    error: float = 0.0


@dataclass
class Stream:
    """The residual stream of a model: its blocks, and whether both parts read the same state."""

    blocks: list[Block]
    parallel: bool = False
    d_model: int = 0
    layer_of: dict[int, int] = field(default_factory=dict)
    by_hooks: bool = False

    @property
    def attending(self) -> list[nn.Module]:
        """The attention modules."""
        return [block.attention for block in self.blocks if block.attention is not None]

    def layer(self, module: nn.Module) -> int | None:
        """The layer that an attention module belongs to."""
        return self.layer_of.get(id(module))


def tolerance(dtype: torch.dtype) -> float:
    """The largest relative error at which a sum holds in ``dtype``."""
    return TOLERANCE.get(dtype, LOOSE_TOLERANCE)


def relative_error(found: Tensor, wanted: Tensor, *parts: Tensor) -> float:
    """Norm of the difference over the largest norm among the parts."""
    largest = max(float(part.norm()) for part in (wanted, found, *parts))
    return float((found - wanted).norm()) / max(largest, 1e-30)


def find_blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The blocks, in order, by the model class's own record of its hidden states.

    Raises:
        UnsupportedModelError: If neither that record nor one list of layers names them.
    """
    wanted = {record for module in model.modules() for record in _recorded_blocks(module)}
    count = _configured_layers(model)
    blocks = [(name, part) for name, part in model.named_modules() if type(part) in wanted]
    if len(blocks) == count:
        return blocks
    lists = [
        [(f"{name}.{i}", part) for i, part in enumerate(parts)]
        for name, parts in model.named_modules()
        if isinstance(parts, nn.ModuleList) and len(parts) == count
    ]
    if len(lists) == 1:
        return lists[0]
    raise UnsupportedModelError(
        f"The blocks of {type(model).__name__} could not be found.",
        f"Its configuration says {count} layers; {len(blocks)} recorded blocks were found.",
    )


def _recorded_blocks(module: nn.Module) -> set[type[nn.Module]]:
    recorded = getattr(module, "_can_record_outputs", None) or {}
    entry = recorded.get("hidden_states") if isinstance(recorded, dict) else None
    entries = entry if isinstance(entry, (list, tuple)) else [entry]
    classes = (getattr(item, "target_class", item) for item in entries)
    return {item for item in classes if isinstance(item, type)}


def _configured_layers(model: nn.Module) -> int:
    config: Any = model.config
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    return int(config.num_hidden_layers)


def find_stream(model: nn.Module, probes: Sequence[Tensor]) -> tuple[Stream, list[Record]]:
    """Solve for the writers of every block on each probe.

    Args:
        model: A decoder with the observed attention function set.
        probes: Token ids, [1, pos] each; the answer must be the same on all of them.

    Raises:
        UnsupportedModelError: If a block's increment is no sum of two of its modules' outputs,
            or is more than one such sum.
    """
    named = find_blocks(model)
    records, by_hooks = _watch_probes(model, probes)
    dtype = next(model.parameters()).dtype
    _check_chain(records[0], named, tolerance(dtype))
    blocks = [_solve_block(layer, *entry, records, dtype) for layer, entry in enumerate(named)]
    first = records[0].of(named[0][1])
    d_model = int(first.left.shape[-1]) if first is not None else 0
    stream = Stream(blocks, d_model=d_model, by_hooks=by_hooks)
    stream.layer_of = {
        id(block.attention): layer
        for layer, block in enumerate(blocks)
        if block.attention is not None
    }
    stream.parallel = _reads_same_state(model, stream, probes[0], records[0])
    return stream, records


def _watch_probes(model: nn.Module, probes: Sequence[Tensor]) -> tuple[list[Record], bool]:
    """Records of all probes, and whether attention had to be heard by hooks."""
    records = [watched_pass(model, probe) for probe in probes]
    if any(record.attention for record in records):
        return records, False
    return [watched_pass(model, probe, by_hooks=True) for probe in probes], True


def _check_chain(record: Record, named: list[tuple[str, nn.Module]], limit: float) -> None:
    calls = [record.of(module) for _, module in named]
    for layer, (here, after) in enumerate(itertools.pairwise(calls)):
        if here is None or after is None or after.entered is None:
            raise UnsupportedModelError(f"Layer {layer} did not run.", "It can't be traced.")
        error = relative_error(here.left, after.entered)
        if error > limit:
            raise UnsupportedModelError(
                f"What leaves layer {layer} is not what enters layer {layer + 1} "
                f"(relative error {error:.1e}).",
                "The residual stream of this model can't be followed.",
            )


@dataclass
class _Pair:
    first: int
    second: int
    scales: tuple[float, float]
    error: float


def _solve_block(
    layer: int, name: str, module: nn.Module, records: list[Record], dtype: torch.dtype
) -> Block:
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


@torch.no_grad()
def _reads_same_state(model: nn.Module, stream: Stream, probe: Tensor, record: Record) -> bool:
    """Whether the MLPs ignore attention's output: one pass with it zeroed, rows restored.

    Raises:
        UnsupportedModelError: If some blocks are parallel and others are not.
    """
    changed: list[bool] = []
    handles: list[Any] = []
    for block in stream.blocks:
        mlp, whole = record.of(block.mlp_writer), record.of(block.module)
        if mlp is not None and whole is not None:
            handles.append(block.attention_writer.register_forward_hook(_zero))
            handles.append(block.mlp_writer.register_forward_hook(_compare(mlp.left, changed)))
            handles.append(block.module.register_forward_hook(_restore(whole.left)))
    try:
        model(input_ids=probe, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    if any(changed) and not all(changed):
        raise UnsupportedModelError(
            "Some blocks feed attention into the MLP and others do not.",
            "Mixed parallel and sequential blocks are not supported.",
        )
    return not any(changed)


def _zero(module: nn.Module, args: Any, output: Any) -> Any:
    return replace_first(output, torch.zeros_like(first_of(output)))


def _compare(wanted: Tensor, changed: list[bool]) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        changed.append(not torch.equal(keep(first_of(output)), wanted))

    return hook


def _restore(wanted: Tensor) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        return replace_first(output, wanted.to(first_of(output)))

    return hook
