"""Find a model's blocks by what its class itself records, without a table of architectures."""

from __future__ import annotations

from typing import Any

from torch import nn

from analysis.errors import UnsupportedModelError


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
