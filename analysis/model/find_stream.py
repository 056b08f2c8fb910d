"""Find a model's residual stream: its blocks, and the modules that write to it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from analysis.errors import UnsupportedModelError
from analysis.model.dependence import confirm_gates, mixing, reads_same_state
from analysis.model.increments import Solution
from analysis.model.probe import Record, recorded_pass, relative_error, tolerance
from analysis.model.stream import Stream
from analysis.model.writers import describe_blocks, find_entry, solve_blocks


def find_blocks(model: nn.Module, record: Record) -> list[tuple[str, nn.Module]]:
    """The blocks with their names, in order.

    They are the modules that the model class records as hidden states, if there are as many as the
    configuration has layers; else the longest list of modules that ran one after another. Modules
    that did not run are left out, such as layers that only read pictures.

    Args:
        model: The model.
        record: A recorded pass.

    Raises:
        UnsupportedModelError: If neither finds them.
    """
    wanted = {kind for module in model.modules() for kind in _recorded_blocks(module)}
    ran = {id(event.module) for event in record.events}
    blocks = [(name, part) for name, part in model.named_modules() if type(part) in wanted]
    if len(blocks) == _configured_layers(model) and all(id(part) in ran for _, part in blocks):
        return blocks
    chains = [
        chain
        for name, parts in model.named_modules()
        if isinstance(parts, nn.ModuleList)
        and _is_chain(record, chain := [
            (f"{name}.{i}", part) for i, part in enumerate(parts) if id(part) in ran
        ])
    ]  # fmt: skip
    longest = max((len(chain) for chain in chains), default=0)
    found = [chain for chain in chains if len(chain) == longest]
    if len(found) == 1:
        return found[0]
    raise UnsupportedModelError(
        f"The blocks of {type(model).__name__} could not be found: {len(found)} lists of modules "
        "run one after another.",
        "Choose a model with one list of blocks.",
    )


def _is_chain(record: Record, parts: list[tuple[str, nn.Module]]) -> bool:
    """Whether each module reads the state that the one before returned."""
    calls = [record.of(module) for _, module in parts]
    return len(calls) > 1 and all(
        here is not None
        and after is not None
        and after.input is not None
        and here.output.dim() == 3
        and torch.equal(here.output, after.input)
        for here, after in itertools.pairwise(calls)
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
    """Find the blocks and the writers of each.

    Args:
        model: A decoder with the observed attention function set.
        probes: Token ids, [1, pos] each; the writers must be the same on all of them.

    Returns:
        The stream, and a recorded pass of each probe.

    Raises:
        UnsupportedModelError: If a block has no single residual stream, ends in a norm, or is
            several sums of its modules' outputs.
    """
    records, by_hooks = _recorded_probes(model, probes)
    named = find_blocks(model, records[0])
    dtype = next(model.parameters()).dtype
    for record in records:
        _check_finite(model, record, named)
    _check_chain(records[0], named, tolerance(dtype))
    _check_positions(records[0], named, probes[0].shape[1])
    _check_width(model, records[0], named)
    entry = find_entry(named, records)
    found = solve_blocks(named, records, dtype, entry)
    writers = _writers_to_name(named, found, records[0])
    modules = [module for _, module in named]
    mixed = mixing(model, modules, writers, probes[0], records[0]) if writers else set()
    blocks = describe_blocks(named, records, found, mixed, dtype)
    first = records[0].of(named[0][1])
    d_model = int(first.output.shape[-1]) if first is not None else 0
    stream = Stream(blocks, d_model=d_model, by_hooks=by_hooks, entry=entry)
    _check_causal(records[0], stream)
    stream.layer_of = {
        id(block.attention): layer
        for layer, block in enumerate(blocks)
        if block.attention is not None
    }
    confirm_gates(model, stream, probes[0], records[0])
    stream.parallel = reads_same_state(model, stream, probes[0], records[0])
    return stream, records


def _writers_to_name(
    named: list[tuple[str, nn.Module]], found: list[Solution], record: Record
) -> list[tuple[str, nn.Module]]:
    """Names and modules of the writers whose part does not follow from attention and order."""
    attends = any(record.attention)
    usual = attends and all(len(solution.names) == 2 for solution in found)
    events = [] if usual else [record.events[n] for solution in found for n in solution.numbers]
    return [(event.name, event.module) for event in events]


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


def _check_positions(record: Record, named: list[tuple[str, nn.Module]], size: int) -> None:
    whole = record.of(named[0][1])
    if whole is not None and whole.output.dim() == 3 and whole.output.shape[1] != size:
        raise UnsupportedModelError(
            f"The blocks see {whole.output.shape[1]} positions for a prompt of {size} tokens.",
            "Choose a model whose positions are the tokens of the prompt.",
        )


def _check_width(model: nn.Module, record: Record, named: list[tuple[str, nn.Module]]) -> None:
    config: Any = model.config
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    whole, width = record.of(named[0][1]), getattr(config, "hidden_size", None)
    if whole is not None and width and whole.output.shape[-1] != width:
        raise UnsupportedModelError(
            f"The states between the blocks have {whole.output.shape[-1]} numbers, and the "
            f"configuration has a width of {width}: the blocks keep several residual streams.",
            "Choose a model with one residual stream.",
        )


def _check_causal(record: Record, stream: Stream) -> None:
    """Refuse attention to later positions.

    Raises:
        UnsupportedModelError: Naming the layer and the weight.
    """
    for layer, block in enumerate(stream.blocks):
        for call in record.attention:
            if call.module is block.attention and call.future > 1e-5:
                raise UnsupportedModelError(
                    f"Layer {layer} attends to later positions (weight {call.future:.2f}): this is "
                    "an encoder.",
                    "Choose a decoder. Some encoders become one if their configuration sets "
                    "is_decoder.",
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
