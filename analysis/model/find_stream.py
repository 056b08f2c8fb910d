"""Find a model's residual stream: its blocks and what writes to the stream in each."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from analysis.errors import UnsupportedModelError
from analysis.model.module_io import first_of, keep, replace_first
from analysis.model.probe import Record, relative_error, tolerance, watched_pass
from analysis.model.stream import Stream
from analysis.model.writers import solve_block


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


@torch.no_grad()
def reads_same_state(model: nn.Module, stream: Stream, probe: Tensor, record: Record) -> bool:
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
        """Note whether this pass gives something else than was wanted."""
        changed.append(not torch.equal(keep(first_of(output)), wanted))

    return hook


def _restore(wanted: Tensor) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        """Put the wanted output in place of this pass's."""
        return replace_first(output, wanted.to(first_of(output)))

    return hook


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
    blocks = [solve_block(layer, *entry, records, dtype) for layer, entry in enumerate(named)]
    first = records[0].of(named[0][1])
    d_model = int(first.left.shape[-1]) if first is not None else 0
    stream = Stream(blocks, d_model=d_model, by_hooks=by_hooks)
    stream.layer_of = {
        id(block.attention): layer
        for layer, block in enumerate(blocks)
        if block.attention is not None
    }
    stream.parallel = reads_same_state(model, stream, probes[0], records[0])
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
