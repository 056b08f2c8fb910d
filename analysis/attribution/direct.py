"""Direct logit attribution: what each part of the last state adds to one token's logit.

The final norm's scale is frozen at the final state (the lens, by contrast, recomputes it), so
the logit is linear in the parts:
``logit_t = scale * (w_t · frozen(part_1) + ... ) + w_t · bias_norm + b_t``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis.attribution.specs import Attribution, AttributionSpec
from analysis.contract.specs import OTHER_PARTS, Floats, resolve_index
from analysis.errors import SpecError
from analysis.model.handle import Model
from analysis.tracing.capture import Trace
from analysis.tracing.heads import has_heads, head_parts, other_parts
from analysis.tracing.interventions import Inject, Patch, Steer
from analysis.tracing.tokens import token_id
from analysis.tracing.vectors import covers


class LogitDirection:
    """Reads parts of the last state as logits of a token, or of its lead over a foil.

    Args:
        model: The model the trace was made with.
        trace: From ``analysis.trace``.
        position: The position of the state.
        token: The token's id.
        foil: The id of the token that is subtracted; None for a plain logit.
    """

    def __init__(
        self, model: Model, trace: Trace, position: int, token: int, foil: int | None
    ) -> None:
        readout = model.readout
        readout.require_linear()
        self.form = readout.form
        self.state = torch.from_numpy(trace.resid[-1, position])
        ids = [token] if foil is None else [token, foil]
        rows = readout.output_rows[ids].detach().cpu().float()
        self.row = rows[0] if foil is None else rows[0] - rows[1]
        self._trace = trace
        self.gain = readout.state_scale * readout.logit_scale
        bias = readout.output_bias
        self.offset = 0.0
        if bias is not None:
            chosen = bias[ids].detach().cpu().float() * readout.logit_scale
            self.offset = float(chosen[0] if foil is None else chosen[0] - chosen[1])
        self.norm_offset = float(self.form.bias @ self.row) * self.gain

    def of(self, part: Tensor, row: int | None = None) -> Tensor:
        """Parts [..., d_model] of a row to logits [...]; parts of the last row unless given."""
        if row is not None and self._trace.carry is not None:
            part = part * torch.from_numpy(self._trace.gain(row))
        return self.form.frozen(part, self.state) @ self.row * self.gain

    @property
    def bias(self) -> float:
        """What the biases of final norm and unembedding add."""
        return self.norm_offset + self.offset


@dataclass(frozen=True)
class Target:
    """The logit that is explained: ``token``'s at ``position``, or its lead over ``foil``."""

    position: int
    token: int
    foil: int | None = None

    @property
    def foil_id(self) -> int:
        """The foil's id, or -1."""
        return -1 if self.foil is None else self.foil

    def value(self, logits: Tensor) -> Tensor:
        """[...] from logits [..., vocab]."""
        chosen = logits[..., self.token]
        return chosen if self.foil is None else chosen - logits[..., self.foil]

    def of(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """[...] from logits [..., vocab], in float64."""
        values: NDArray[np.float64] = self.value(torch.from_numpy(logits).double()).numpy()
        return values


def target_of(
    model: Model, trace: Trace, position: int, token: int | None, foil: int | None
) -> Target:
    """A target from indices that may count from the end; None: the model's own top token.

    Raises:
        SpecError: If the position or a token does not exist, or token and foil are the same.
    """
    trace.require_model(model)
    position = resolve_index("Position", position, len(trace.tokens))
    vocab = int(model.readout.output_rows.shape[0])
    token = int(trace.logits[position].argmax()) if token is None else token
    for wanted in (token, 0 if foil is None else foil):
        resolve_index("Token", wanted, vocab)
    if token == foil:
        raise SpecError("A token can't be its own foil.", "Choose another foil.")
    return Target(position, token, foil)


@torch.no_grad()
def attribute_logit(
    model: Model, trace: Trace, position: int, token: int | None, foil: int | None
) -> Attribution:
    """Split a logit into embedding, heads, biases, MLPs, other parts and interventions.

    Raises:
        SpecError: If the position or a token does not exist, token and foil are the same, or a
            layer's attention can't be split into heads.
    """
    target = target_of(model, trace, position, token, foil)
    position, token = target.position, target.token
    direction = LogitDirection(model, trace, position, token, foil)
    info = model.info
    heads = np.zeros((info.layers, info.heads), np.float32)
    biases, mlps = np.zeros(info.layers, np.float32), np.zeros(info.layers, np.float32)
    names = tuple(part for part in info.parts if part in OTHER_PARTS)
    others = np.zeros((len(names), info.layers), np.float32)
    first, added = _edits(trace, position)
    for layer in range(first, info.layers):
        own, biases[layer] = _attention(model, trace, layer, position, direction)
        heads[layer, : len(own)] = own
        mlps[layer] = _of_layer(trace.mlp_out, layer, position, direction)
        for part, array in other_parts(model, trace, layer).items():
            vector = torch.from_numpy(array[position])
            others[names.index(part), layer] = float(direction.of(vector, layer + 1))
    start = float(direction.of(torch.from_numpy(trace.resid[first, position]), first))
    edited = sum(float(direction.of(vector, row)) for row, vector in added)
    logit = float(target.of(uncapped(model, trace, position)))
    return Attribution(
        position=position,
        token=token,
        foil=foil,
        embedding=0.0 if first else start,
        heads=heads,
        attention_bias=biases,
        mlps=mlps,
        bias=direction.bias,
        logit=logit,
        interventions=edited + (start if first else 0.0),
        other_parts=names,
        others=others,
    )


def _of_layer(array: Floats, layer: int, position: int, direction: LogitDirection) -> float:
    """The logits of one layer's entry of [layer, pos, d_model]."""
    return float(direction.of(torch.from_numpy(array[layer, position]), layer + 1))


def _edits(trace: Trace, position: int) -> tuple[int, list[tuple[int, Tensor]]]:
    """The last row whose state was replaced, 0 if none, and later rows with an added vector."""
    items = [item for item in trace.interventions if isinstance(item, (Patch, Inject, Steer))]
    items = [item for item in items if covers(item, position)]
    replacing = [
        item.row
        for item in items
        if isinstance(item, Patch) or (isinstance(item, Inject) and item.mode == "replace")
    ]
    first = max(replacing, default=0)
    added = []
    for row in sorted({item.row for item in items if item.row > first}):
        layer = row - 1
        parts = [trace.kept(layer), trace.attn_out[layer], trace.mlp_out[layer]]
        parts += trace.others(layer).values()
        whole = sum(torch.from_numpy(part[position]) for part in parts)
        added.append((row, torch.from_numpy(trace.resid[row, position]) - whole))
    return first, added


def _attention(
    model: Model, trace: Trace, layer: int, position: int, direction: LogitDirection
) -> tuple[np.ndarray, float]:
    if not has_heads(model, layer):
        if model.stream.blocks[layer].heads:
            raise SpecError(
                f"The attention of layer {layer} can't be split into heads.",
                "Choose another model: attribution needs the heads.",
            )
        return np.zeros(model.info.heads, np.float32), 0.0
    parts = head_parts(model, trace, layer)
    heads = direction.of(parts.at(position), layer + 1).numpy()
    return heads, float(direction.of(parts.bias[position], layer + 1))


def uncapped(model: Model, trace: Trace, position: int) -> np.ndarray:
    """[vocab] the model's own logits, before the soft cap if it has one."""
    if model.readout.softcap is None:
        own: np.ndarray = trace.logits[position]
        return own
    readout = model.readout
    state = torch.from_numpy(trace.resid[-1, position])[None]
    state = state.to(readout.device, readout.output_rows.dtype)
    before: np.ndarray = readout.logits(state, capped=False)[0].cpu().numpy()
    return before


def compute(model: Model, trace: Trace, spec: AttributionSpec) -> Attribution:
    """Direct logit attribution at the position of a spec; see ``attribute``."""
    return attribute_logit(model, trace, spec.position, spec.token, spec.foil)


def attribute(
    model: Model,
    trace: Trace,
    position: int = -1,
    token: int | str | None = None,
    foil: int | str | None = None,
) -> Attribution:
    """Direct logit attribution: embedding, each head, each MLP, biases.

    The parts sum to the token's logit before any soft cap, or to its lead over the foil.

    Args:
        model: From ``load_model``.
        trace: From ``trace``.
        position: The position that predicts the token.
        token: Its id or text; the model's own top token unless given.
        foil: The token whose logit is subtracted, as id or text; none unless given.

    Raises:
        SpecError: If the position or a token does not exist, or token and foil are the same.
    """
    chosen, other = token_id(model.tokenizer, token), token_id(model.tokenizer, foil)
    return compute(model, trace, AttributionSpec(position, chosen, other))
