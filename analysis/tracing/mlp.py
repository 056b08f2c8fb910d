"""Inside an MLP: the matrix that writes its output, and what each neuron brings to it.

Which matrix that is is not looked up by name: it is the linear module whose output
is what the MLP's writer gives to the stream, or what the post-norm before it reads.
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
from analysis.model.module_io import batched, entered, first_of
from analysis.model.norms import NormForm, identity_norm, norm_form
from analysis.model.probe import relative_error, tolerance
from analysis.tracing.capture import Trace
from analysis.tracing.intervention_hooks import applied


@dataclass(frozen=True)
class MlpInside:
    """An MLP's last step at one position.

    Attributes:
        activation: [neuron] what enters the down projection.
        weight: [neuron, d_model] what each neuron writes for an activation of 1, before ``post``.
        offset: [d_model] the projection's bias.
        post: The norm between it and the stream, if any. raw: [d_model] what that norm reads.
        scale: The multiplier of the MLP's increment.
    """

    activation: Tensor
    weight: Tensor
    offset: Tensor
    post: NormForm
    raw: Tensor
    scale: float

    def through(self, part: Tensor) -> Tensor:
        """Parts [..., d_model] of the projection's output as the stream gets them."""
        if self.post.kind == "none":
            return part * self.scale
        return self.post.frozen(part, self.raw) * self.scale

    @property
    def bias(self) -> Tensor:
        """[d_model] what the stream gets from biases alone."""
        if self.post.kind == "none":
            return self.through(self.offset)
        return self.through(self.offset) + self.post.bias * self.scale


class _Done(Exception):  # noqa: N818 - no error: the rest of the pass is not needed
    """The block has been seen."""


@torch.no_grad()
def mlp_inside(model: Model, trace: Trace, layer: int, position: int) -> MlpInside:
    """Find the down projection of a layer by one pass up to it, and what it read.

    Raises:
        SpecError: If no one matrix writes the MLP's output, as in a mixture of experts.
    """
    block = model.stream.blocks[layer]
    calls, written = _watch(model, trace, layer)
    came, raw = written
    post, found = None, _giving(calls, raw, model.dtype)
    slim = all(weight.ndim == 1 for weight in block.mlp_writer.parameters())  # as a norm's are
    if not found and slim and came is not None and came.shape == raw.shape:
        post, raw = norm_form(block.mlp_writer, model.info.d_model), came
        found = [] if post is None else _giving(calls, raw, model.dtype)
    if len(found) != 1:
        raise SpecError(
            f"No one matrix writes the output of the MLP of layer {layer}: it mixes experts or "
            "branches, so its neurons can't be told apart.",
            "Look at the MLP's output as a whole.",
        )
    module, read, _ = found[0]
    weight, offset = _matrix(module)
    return MlpInside(
        read[position],
        weight,
        offset,
        post or identity_norm(model.info.d_model),
        raw[position],
        block.mlp_scale,
    )


Call = tuple[nn.Module, Tensor, Tensor]


def _watch(
    model: Model, trace: Trace, layer: int
) -> tuple[list[Call], tuple[Tensor | None, Tensor]]:
    """Linear modules called in a block, with what they read and gave; the MLP writer's too."""
    block = model.stream.blocks[layer]
    calls: list[Call] = []
    written: list[tuple[Tensor | None, Tensor]] = []

    def linear(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Note a linear map's input and output."""
        came = entered(args, kwargs)
        if came is not None:
            calls.append((module, _kept(came), _kept(first_of(output))))

    def wrote(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Note what went into the projection and what came out, before any edit."""
        came = entered(args, kwargs)
        written.append((None if came is None else _kept(came), _kept(first_of(output))))

    def stop(module: nn.Module, args: Any, output: Any) -> None:
        """End the pass: what comes after the block isn't asked about."""
        raise _Done

    tokens = torch.tensor([trace.token_ids], device=model.device)
    with applied(model, trace.interventions, len(trace.token_ids)), ExitStack() as stack:
        for part in block.module.modules():
            if _is_linear(part):
                handle = part.register_forward_hook(linear, with_kwargs=True)
                stack.callback(handle.remove)
        # Before the run's own edits: what the projection gave is looked for, not what became of it.
        handle = block.mlp_writer.register_forward_hook(wrote, with_kwargs=True, prepend=True)
        stack.callback(handle.remove)
        stack.callback(block.module.register_forward_hook(stop).remove)
        with suppress(_Done):
            model.hf(input_ids=tokens, use_cache=False)
    return calls, written[-1]


def _kept(state: Tensor) -> Tensor:
    return batched(state.detach().to("cpu", torch.float32, copy=True), 1)[0]


def _is_linear(module: nn.Module) -> bool:
    """Whether it maps by one weight matrix: torch's, GPT-2's, or a quantised one with that name."""
    return isinstance(module, (nn.Linear, Conv1D)) or type(module).__name__.startswith("Linear")


def _giving(calls: list[Call], wanted: Tensor, dtype: torch.dtype) -> list[Call]:
    """The calls whose output is ``wanted``, up to rounding."""
    limit = 0.1 * tolerance(dtype)
    return [
        call
        for call in calls
        if call[2].shape == wanted.shape and relative_error(call[2], wanted) <= limit
    ]


def _matrix(module: nn.Module) -> tuple[Tensor, Tensor]:
    """[in, out] weight and [out] bias, float32, whatever the module is."""
    if type(module) is Conv1D:
        return module.weight.detach().float().cpu(), module.bias.detach().float().cpu()
    if type(module) is nn.Linear:
        weight = module.weight.detach().T.float().cpu()
        bias = module.bias
        empty = torch.zeros(weight.shape[1])
        return weight, empty if bias is None else bias.detach().float().cpu()
    # Quantised or adapted: ask the module itself, one unit vector at a time.
    width = int(module.in_features)  # type: ignore[arg-type]
    like = next(module.parameters())
    dtype = like.dtype if like.is_floating_point() else torch.float32
    bias = module(torch.zeros(1, width, dtype=dtype, device=like.device))[0].float().cpu()
    rows = module(torch.eye(width, dtype=dtype, device=like.device)).float().cpu() - bias
    return rows, bias
