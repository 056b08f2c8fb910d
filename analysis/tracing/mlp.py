"""The neurons of an MLP: its down projection, and what each neuron adds.

The down projection is not found by name: it is the linear module whose output equals the
output of the MLP's writer, or the input of the post-norm after it.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from analysis.errors import SpecError
from analysis.model.handle import Model
from analysis.model.probe import relative_error, tolerance
from analysis.model.readout import NormForm, identity_norm, norm_form
from analysis.model.stream import batched, hidden_input, hidden_output, linear_weights
from analysis.model.writers import norm_like
from analysis.tracing.capture import Trace
from analysis.tracing.intervention_hooks import applied
from analysis.tracing.interventions import Ablate, covers


@dataclass(frozen=True)
class MlpInside:
    """An MLP's down projection at one position.

    Attributes:
        activation: [neuron] input of the down projection.
        weight: [neuron, d_model] its weight: what a neuron adds per unit activation, before
            ``post``.
        offset: [d_model] its bias.
        post: The norm after it; ``identity_norm`` if there is none.
        raw: [d_model] the input of that norm.
        scale: The multiplier of the MLP's output.
    """

    activation: Tensor
    weight: Tensor
    offset: Tensor
    post: NormForm
    raw: Tensor
    scale: float | Tensor

    def through(self, part: Tensor) -> Tensor:
        """Parts [..., d_model] of the projection's output, as added to the stream."""
        if self.post.kind == "none":
            return part * self.scale
        return self.post.frozen(part, self.raw) * self.scale

    @property
    def bias(self) -> Tensor:
        """[d_model] what the biases alone add to the stream."""
        if self.post.kind == "none":
            return self.through(self.offset)
        return self.through(self.offset) + self.post.bias * self.scale


class _Stop(Exception):  # noqa: N818 - not an error: the rest of the pass is not needed
    """Ends a forward pass after the block."""


@torch.no_grad()
def mlp_inside(model: Model, trace: Trace, layer: int, position: int) -> MlpInside:
    """Find a layer's down projection and its input, by a forward pass up to that layer.

    Raises:
        SpecError: If no single matrix writes the MLP's output, as in a mixture of experts, or
            the run ablates it at the position.
    """
    trace.require_model(model)
    block = model.stream.blocks[layer]
    _require_written(trace, layer, position)
    if len(block.of("mlp")) != 1:
        raise _no_single_projection(layer)
    calls, written = _watch(model, trace, layer, block.of("mlp")[0].module)
    read, raw = written
    post, found = None, _calls_returning(calls, raw, model.dtype)
    writer = block.of("mlp")[0]
    if not found and norm_like(writer.module) and read is not None and read.shape == raw.shape:
        post, raw = norm_form(writer.module, model.info.d_model), read
        found = [] if post is None else _calls_returning(calls, raw, model.dtype)
    if len(found) != 1:
        raise _no_single_projection(layer)
    module, activation, _ = found[0]
    weight, offset = linear_weights(module, activation.shape[-1])
    return MlpInside(
        activation[position],
        weight,
        offset,
        post or identity_norm(model.info.d_model),
        raw[position],
        writer.scale,
    )


def _no_single_projection(layer: int) -> SpecError:
    return SpecError(
        f"The MLP of layer {layer} has no single down projection (it mixes experts or "
        "branches), so its neurons can't be separated.",
        "Use the MLP's output as a whole.",
    )


def _require_written(trace: Trace, layer: int, position: int) -> None:
    for item in trace.interventions:
        if not isinstance(item, Ablate) or item.component != "mlp_output":
            continue
        if item.layer == layer and covers(item, position):
            raise SpecError(
                f"The MLP of layer {layer} is ablated at position {position}, so its neurons add "
                "nothing.",
                "Choose another layer or position.",
            )


Call = tuple[nn.Module, Tensor, Tensor]


def _watch(
    model: Model, trace: Trace, layer: int, writer: nn.Module
) -> tuple[list[Call], tuple[Tensor | None, Tensor]]:
    """Input and output of each linear module called in a block, and of the MLP's writer."""
    block = model.stream.blocks[layer]
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

    tokens = torch.tensor([trace.token_ids], device=model.device)
    with applied(model, trace.interventions, len(trace.token_ids)), ExitStack() as stack:
        for part in block.module.modules():
            if _is_linear(part):
                handle = part.register_forward_hook(linear, with_kwargs=True)
                stack.callback(handle.remove)
        # Before the run's own interventions: these would change what the projection returned.
        handle = writer.register_forward_hook(wrote, with_kwargs=True, prepend=True)
        stack.callback(handle.remove)
        stack.callback(block.module.register_forward_hook(stop).remove)
        with suppress(_Stop):
            model.hf(input_ids=tokens, use_cache=False)
    return calls, written[-1]


@torch.no_grad()
def linear_calls(model: Model, trace: Trace, layer: int) -> list[Call]:
    """The linear modules that a block calls in a pass, with their inputs and outputs [pos, d].

    Raises:
        SpecError: If the block has no MLP.
    """
    writers = model.stream.blocks[layer].of("mlp")
    if not writers:
        raise _no_single_projection(layer)
    return _watch(model, trace, layer, writers[0].module)[0]


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
