"""The neurons of an MLP: what each one adds through the down projection."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from analysis.errors import SpecError
from analysis.model.down_projection import Call, chosen_call, no_single_projection, watching
from analysis.model.handle import Model
from analysis.model.readout import NormForm, identity_norm
from analysis.model.stream import linear_weights
from analysis.tracing.capture import Trace
from analysis.tracing.intervention_hooks import applied
from analysis.tracing.interventions import Ablate
from analysis.tracing.vectors import covers


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
        raise no_single_projection(layer)
    calls, written = _watch(model, trace, layer, block.of("mlp")[0].module)
    (module, activation, _), post, raw = chosen_call(model, layer, calls, written)
    weight, offset = linear_weights(module, activation.shape[-1])
    return MlpInside(
        activation[position],
        weight,
        offset,
        post or identity_norm(model.info.d_model),
        raw[position],
        block.of("mlp")[0].scale,
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


def _watch(
    model: Model, trace: Trace, layer: int, writer: nn.Module
) -> tuple[list[Call], tuple[Tensor | None, Tensor]]:
    """Input and output of each linear module called in a block, and of the MLP's writer."""
    block = model.stream.blocks[layer]
    tokens = torch.tensor([trace.token_ids], device=model.device)
    with (
        applied(model, trace.interventions, len(trace.token_ids)),
        watching(block, writer) as (calls, written),
    ):
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
        raise no_single_projection(layer)
    return _watch(model, trace, layer, writers[0].module)[0]
