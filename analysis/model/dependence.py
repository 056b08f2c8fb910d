"""What the writers of a block depend on, found by changing their inputs in a forward pass.

Each pass changes one thing in every block and restores the block's output, so that the blocks
above see what they saw before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from analysis.errors import UnsupportedModelError
from analysis.model.attention_hooks import observing
from analysis.model.probe import Record, tolerance
from analysis.model.stream import (
    Block,
    Stream,
    edit_input,
    float32_copy,
    hidden_input,
    hidden_output,
    with_hidden_output,
)

Hooks = list[Any]


def _run(model: nn.Module, probe: Tensor, handles: Hooks, tap: Any = None, **options: Any) -> None:
    """One pass with hooks, which are removed."""
    try:
        if tap is None:
            model(input_ids=probe, use_cache=False)
            return
        with observing(options["attending"], tap, by_hooks=options["by_hooks"]):
            model(input_ids=probe, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()


def _noise_like(state: Tensor) -> Tensor:
    noise = torch.randn(state.shape, generator=torch.Generator().manual_seed(0))
    return noise.to(state)


def _replace_by_noise(module: nn.Module, args: Any, output: Any) -> Any:
    return with_hidden_output(output, _noise_like(hidden_output(output)))


def _restore(wanted: Tensor) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        """Replace the output by ``wanted``."""
        return with_hidden_output(output, wanted.to(hidden_output(output)))

    return hook


@torch.no_grad()
def reads_same_state(model: nn.Module, stream: Stream, probe: Tensor, record: Record) -> bool:
    """Whether the blocks are parallel: the MLP does not read the output of attention.

    It takes one pass with random attention outputs. A block whose MLP writes zero gives no
    evidence. If no block gives any, all count as sequential.

    Raises:
        UnsupportedModelError: If some blocks are parallel and others are not.
    """
    changed: list[bool] = []
    handles: Hooks = []
    for block in stream.blocks:
        attention, writer, whole = block.attention_writer, block.mlp_writer, record.of(block.module)
        mlp = None if writer is None else record.of(writer)
        if attention is None or writer is None or mlp is None or whole is None:
            continue
        if mlp.output.any():
            handles.append(attention.register_forward_hook(_replace_by_noise))
            handles.append(writer.register_forward_hook(_compare(mlp.output, changed)))
            handles.append(block.module.register_forward_hook(_restore(whole.output)))
    _run(model, probe, handles)
    if any(changed) and not all(changed):
        raise UnsupportedModelError(
            "Some blocks are parallel and others are sequential.",
            "Choose a model whose blocks are all of one kind.",
        )
    return bool(changed) and not any(changed)


def _compare(wanted: Tensor, changed: list[bool]) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        """Record whether the output differs from ``wanted``."""
        changed.append(not torch.equal(float32_copy(hidden_output(output)), wanted))

    return hook


@torch.no_grad()
def mixing(
    model: nn.Module,
    blocks: Sequence[nn.Module],
    writers: Sequence[tuple[str, nn.Module]],
    probe: Tensor,
    record: Record,
) -> set[str]:
    """Names of the writers whose output at the last position depends on earlier positions.

    In one pass every block reads noise at all positions but the last. The last position of every
    writer and block is restored, so that what reads it sees no change from there.
    """
    found: set[str] = set()
    handles: Hooks = []
    limit = 10 * tolerance(next(model.parameters()).dtype)
    for block in blocks:
        whole = record.of(block)
        handles.append(edit_input(block, _noise_before_last, 1))
        if whole is not None:
            handles.append(block.register_forward_hook(_restore(whole.output)))
    for name, module in writers:
        event = record.of(module)
        if event is not None:
            hook = _compare_last(name, event.output, limit, found)
            handles.append(module.register_forward_hook(hook))
    _run(model, probe, handles)
    return found


def _noise_before_last(state: Tensor) -> Tensor:
    return torch.cat([_noise_like(state[:, :-1]), state[:, -1:]], 1)


def _compare_last(name: str, wanted: Tensor, limit: float, found: set[str]) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        """Record a change at the last position, and undo it."""
        state = hidden_output(output).clone()
        width = state.shape[-1]
        last, before = state.reshape(-1, width)[-1], wanted.reshape(-1, width)[-1].to(state)
        if float((last - before).norm()) > limit * float(before.norm()):
            found.add(name)
        state.view(-1, width)[-1] = before
        return with_hidden_output(output, state)

    return hook


class _Scaled:
    """Multiplies the heads' outputs by known factors, and keeps both."""

    def __init__(self) -> None:
        self.outputs: dict[int, Tensor] = {}

    def cut(self, module: nn.Module, shape: tuple[int, int, int]) -> None:
        """Cut nothing."""

    def observe(self, module: nn.Module, value: Tensor, pattern: Tensor, output: Tensor) -> Tensor:
        """Keep the outputs [batch, query, head, d] with one factor for each head and coordinate."""
        generator = torch.Generator().manual_seed(1)
        factors = 0.5 + torch.rand(output.shape[-2:], generator=generator)
        changed = output * factors.to(output)
        self.outputs[id(module)] = float32_copy(changed.flatten(-2))
        return changed


@torch.no_grad()
def confirm_gates(model: nn.Module, stream: Stream, probe: Tensor, record: Record) -> None:
    """Drop the output projection of gated blocks whose gate is not a gate.

    A gate multiplies each head's output coordinate by coordinate, by factors that do not depend
    on the output, or depend on it only through one number for each query and head (a norm). In one
    pass every head's output is scaled. The factors must stay the same, up to that number.
    """
    gated = [block for block in stream.blocks if block.gated and block.projection is not None]
    if not gated:
        return
    tap, read, handles = _Scaled(), dict[int, Tensor](), Hooks()
    for block in gated:
        assert block.projection is not None  # noqa: S101 - chosen above
        handles.append(
            block.projection.register_forward_pre_hook(_keep(read, id(block)), with_kwargs=True)
        )
        whole = record.of(block.module)
        if whole is not None:
            handles.append(block.module.register_forward_hook(_restore(whole.output)))
    _run(model, probe, handles, tap, attending=stream.attending, by_hooks=stream.by_hooks)
    for block in gated:
        call = next(one for one in record.attention if one.module is block.attention)
        before = record.of(block.projection) if block.projection is not None else None
        changed = tap.outputs.get(id(block.attention))
        one = None if before is None else before.input
        if one is None or changed is None or not _is_gate(
            one / call.concatenated, read[id(block)] / changed, block, tolerance(_dtype(model))
        ):  # fmt: skip
            block.projection = block.post_norm = None
            block.gated = False


def _dtype(model: nn.Module) -> torch.dtype:
    return next(model.parameters()).dtype


def _keep(read: dict[int, Tensor], key: int) -> Any:
    def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
        """Keep what the projection reads."""
        state = hidden_input(args, kwargs)
        if state is not None:
            read[key] = float32_copy(state)

    return hook


def _is_gate(one: Tensor, other: Tensor, block: Block, limit: float) -> bool:
    """Whether two sets of factors [1, pos, head * d] differ by one number a query and head."""
    shape = (one.shape[1], block.heads, -1)
    a, b = one.view(shape), other.view(shape)
    if not bool(a.isfinite().all() and b.isfinite().all()):
        return False
    number = (a * b).sum(-1, keepdim=True) / a.square().sum(-1, keepdim=True).clamp_min(1e-30)
    return bool(((b - number * a).norm() <= 10 * limit * b.norm()).item())
