"""Find a model's residual stream: its blocks, and the modules that write to it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from analysis.errors import UnsupportedModelError
from analysis.model.module_io import float32_copy, hidden_output, with_hidden_output
from analysis.model.probe import Record, recorded_pass, relative_error, tolerance
from analysis.model.stream import Stream
from analysis.model.writers import solve_blocks


def find_blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The blocks with their names, in order.

    They are the modules that the model class records as hidden states, else the only list with
    as many modules as the configuration has layers.

    Raises:
        UnsupportedModelError: If neither finds them.
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
    """Whether the blocks are parallel: the MLP does not read the output of attention.

    It takes one pass with random attention outputs and the block outputs restored. A block whose
    MLP writes zero gives no evidence. If no block gives any, all count as sequential.

    Raises:
        UnsupportedModelError: If some blocks are parallel and others are not.
    """
    changed: list[bool] = []
    handles: list[Any] = []
    for block in stream.blocks:
        mlp, whole = record.of(block.mlp_writer), record.of(block.module)
        if mlp is not None and whole is not None and mlp.output.any():
            handles.append(block.attention_writer.register_forward_hook(_replace_by_noise))
            handles.append(block.mlp_writer.register_forward_hook(_compare(mlp.output, changed)))
            handles.append(block.module.register_forward_hook(_restore(whole.output)))
    try:
        model(input_ids=probe, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    if any(changed) and not all(changed):
        raise UnsupportedModelError(
            "Some blocks are parallel and others are sequential.",
            "Choose a model whose blocks are all of one kind.",
        )
    return bool(changed) and not any(changed)


def _replace_by_noise(module: nn.Module, args: Any, output: Any) -> Any:
    state = hidden_output(output)
    noise = torch.randn(state.shape, generator=torch.Generator().manual_seed(0))
    return with_hidden_output(output, noise.to(state))


def _compare(wanted: Tensor, changed: list[bool]) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        """Record whether the output differs from ``wanted``."""
        changed.append(not torch.equal(float32_copy(hidden_output(output)), wanted))

    return hook


def _restore(wanted: Tensor) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        """Replace the output by ``wanted``."""
        return with_hidden_output(output, wanted.to(hidden_output(output)))

    return hook


def find_stream(model: nn.Module, probes: Sequence[Tensor]) -> tuple[Stream, list[Record]]:
    """Find the blocks and the two writers of each.

    Args:
        model: A decoder with the observed attention function set.
        probes: Token ids, [1, pos] each; the writers must be the same on all of them.

    Returns:
        The stream, and a recorded pass of each probe.

    Raises:
        UnsupportedModelError: If the increment of a block is not the sum of two of its modules'
            outputs, or is more than one such sum.
    """
    named = find_blocks(model)
    records, by_hooks = _recorded_probes(model, probes)
    dtype = next(model.parameters()).dtype
    for record in records:
        _check_finite(model, record, named)
    _check_chain(records[0], named, tolerance(dtype))
    blocks = solve_blocks(named, records, dtype)
    first = records[0].of(named[0][1])
    d_model = int(first.output.shape[-1]) if first is not None else 0
    stream = Stream(blocks, d_model=d_model, by_hooks=by_hooks)
    stream.layer_of = {
        id(block.attention): layer
        for layer, block in enumerate(blocks)
        if block.attention is not None
    }
    stream.parallel = reads_same_state(model, stream, probes[0], records[0])
    return stream, records


def _recorded_probes(model: nn.Module, probes: Sequence[Tensor]) -> tuple[list[Record], bool]:
    """Recorded passes of all probes, and whether attention had to be observed with hooks."""
    records = [recorded_pass(model, probe) for probe in probes]
    if any(record.attention for record in records):
        return records, False
    return [recorded_pass(model, probe, by_hooks=True) for probe in probes], True


def _check_finite(model: nn.Module, record: Record, named: list[tuple[str, nn.Module]]) -> None:
    """Refuse a model whose blocks or logits are NaN or infinite on a probe.

    Raises:
        UnsupportedModelError: Naming the weight or the module, and the cause.
    """
    blocks = [record.of(module) for _, module in named]
    states = [event.output for event in blocks if event is not None]
    if record.logits is not None:
        states.append(record.logits)
    if all(bool(state.isfinite().all()) for state in states):
        return
    broken = [name for name, part in model.named_parameters() if not part.isfinite().all()]
    if broken:
        raise UnsupportedModelError(
            f"The weight {broken[0]} has NaN or infinite numbers ({len(broken)} weights in all).",
            "Download the model again, or repair its file.",
        )
    first = next((event for event in record.events if not event.output.isfinite().all()), None)
    place = "the logits" if first is None else first.name
    if next(model.parameters()).dtype == torch.float16:
        raise UnsupportedModelError(
            f"float16 overflows in {place}: its numbers exceed 65,504.",
            "Load the model as bfloat16 or float32.",
        )
    raise UnsupportedModelError(
        f"On random tokens {place} gives NaN or infinite numbers.", "Choose another model."
    )


def _check_chain(record: Record, named: list[tuple[str, nn.Module]], limit: float) -> None:
    calls = [record.of(module) for _, module in named]
    for layer, (here, after) in enumerate(itertools.pairwise(calls)):
        if here is None or after is None or after.input is None:
            raise UnsupportedModelError(
                f"Layer {layer} did not run.", "Choose a model whose blocks all run."
            )
        error = relative_error(here.output, after.input)
        if error > limit:
            raise UnsupportedModelError(
                f"The output of layer {layer} is not the input of layer {layer + 1} "
                f"(relative error {error:.1e}).",
                "This model has no single residual stream; choose another.",
            )
