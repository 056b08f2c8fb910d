"""The down projection of an MLP, whose input has one number for each neuron.

It is not found by name: it is the linear module whose output equals the output of the MLP's
writer, or the input of the post-norm after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from analysis.errors import SpecError
from analysis.model.handle import Model, probes
from analysis.model.probe import relative_error, tolerance
from analysis.model.readout import NormForm, norm_form
from analysis.model.stream import Block, batched, hidden_input, hidden_output, without_hooks
from analysis.model.writers import norm_like

#: A linear module, what it read and what it returned, [pos, d].
Call = tuple[nn.Module, Tensor, Tensor]


class _Stop(Exception):  # noqa: N818 - not an error: the rest of the pass is not needed
    """Ends a forward pass after the block."""


def no_single_projection(layer: int) -> SpecError:
    """The error of a layer whose MLP has no neurons that can be told apart."""
    return SpecError(
        f"The MLP of layer {layer} has no single down projection (it mixes experts or "
        "branches), so its neurons can't be separated.",
        "Use the MLP's output as a whole.",
    )


@contextmanager
def watching(block: Block, writer: nn.Module) -> Iterator[tuple[list[Call], list[Any]]]:
    """Watch a block in passes inside this ``with`` block; each pass ends after the block.

    Yields:
        The calls of its linear modules, and (input or None, output) of the MLP's writer before
        interventions change that output. Both lists fill during the pass.
    """
    calls: list[Call] = []
    written: list[tuple[Tensor | None, Tensor]] = []

    def linear(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Record a linear module's input and output."""
        state = hidden_input(args, kwargs)
        if state is not None:
            calls.append((module, _copy(state), _copy(hidden_output(output))))

    def wrote(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Record the writer's input and output, before any intervention."""
        state = hidden_input(args, kwargs)
        written.append((None if state is None else _copy(state), _copy(hidden_output(output))))

    def stop(module: nn.Module, args: Any, output: Any) -> None:
        """End the pass."""
        raise _Stop

    with ExitStack() as stack:
        for part in block.module.modules():
            if _is_linear(part):
                handle = part.register_forward_hook(linear, with_kwargs=True)
                stack.callback(handle.remove)
        # Before the run's own interventions: these would change what the projection returned.
        handle = writer.register_forward_hook(wrote, with_kwargs=True, prepend=True)
        stack.callback(handle.remove)
        stack.callback(block.module.register_forward_hook(stop).remove)
        with suppress(_Stop):
            yield calls, written


def chosen_call(
    model: Model, layer: int, calls: list[Call], written: tuple[Tensor | None, Tensor]
) -> tuple[Call, NormForm | None, Tensor]:
    """The call of the down projection among those that ``watching`` recorded.

    Args:
        model: From ``load_model``.
        layer: The block.
        calls: Its linear modules.
        written: Input and output of the MLP's writer.

    Returns:
        The call; the norm after it, or None; and what the projection returned.

    Raises:
        SpecError: If no single matrix writes the MLP's output, as in a mixture of experts.
    """
    read, raw = written
    post, found = None, _calls_returning(calls, raw, model.dtype)
    writer = model.stream.blocks[layer].of("mlp")[0]
    if not found and norm_like(writer.module) and read is not None and read.shape == raw.shape:
        post, raw = norm_form(writer.module, model.info.d_model), read
        found = [] if post is None else _calls_returning(calls, raw, model.dtype)
    if len(found) != 1:
        raise no_single_projection(layer)
    return found[0], post, raw


@torch.no_grad()
def down_projection(model: Model, layer: int) -> tuple[nn.Module, int]:
    """The down projection of a layer's MLP, and its number of neurons; found once.

    Raises:
        SpecError: If no single matrix writes the MLP's output.
    """
    block = model.stream.blocks[layer]
    if block.down is None:
        if len(block.of("mlp")) != 1:
            raise no_single_projection(layer)
        with model.lock, without_hooks(model.hf):
            seen = watching(block, block.of("mlp")[0].module)
            with seen as (calls, written):
                model.hf(input_ids=probes(model.info.vocab, model.device)[0], use_cache=False)
        (module, activation, _), *_ = chosen_call(model, layer, calls, written[-1])
        block.down = module, activation.shape[-1]
    return block.down


def _copy(state: Tensor) -> Tensor:
    return batched(state.detach().to("cpu", torch.float32, copy=True), 1)[0]


def _is_linear(module: nn.Module) -> bool:
    """Whether a module has one weight matrix: torch's, GPT-2's, or a quantised one by its name."""
    return isinstance(module, (nn.Linear, Conv1D)) or type(module).__name__.startswith("Linear")


def _calls_returning(calls: list[Call], wanted: Tensor, dtype: torch.dtype) -> list[Call]:
    """The calls whose output equals ``wanted`` up to rounding."""
    limit = 0.1 * tolerance(dtype)
    return [
        call
        for call in calls
        if call[2].shape == wanted.shape and relative_error(call[2], wanted) <= limit
    ]
