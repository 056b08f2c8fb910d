"""Tell parallel blocks from sequential ones: does the MLP read what attention has just written?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from analysis.errors import UnsupportedModelError
from analysis.models.probe import Record
from analysis.models.probe_states import first_of, keep, replace_first
from analysis.models.stream import Stream


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
