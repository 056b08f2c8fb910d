"""Direct logit attribution: what each part of the last state adds to one token's logit.

The final norm's scale is frozen at the final state (the opposite of the lens,
which recomputes it), so the logit is linear in the parts:
``logit_t = scale * (w_t · frozen(part_1) + ... ) + w_t · bias_norm + b_t``.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from analysis.attribution.results import Attribution
from analysis.contract.specs import resolve_index
from analysis.errors import SpecError
from analysis.model.handle import Model
from analysis.tracing.capture import Trace
from analysis.tracing.heads import has_heads, head_parts


class LogitDirection:
    """Reads any part of the last state as logit units of a token, or of a difference of two."""

    def __init__(
        self, model: Model, trace: Trace, position: int, token: int, foil: int | None
    ) -> None:
        readout = model.readout
        self.form = readout.form
        self.state = torch.from_numpy(trace.resid[-1, position])
        ids = [token] if foil is None else [token, foil]
        rows = readout.output_rows[ids].detach().cpu().float()
        self.row = rows[0] if foil is None else rows[0] - rows[1]
        self.gain = readout.state_scale * readout.logit_scale
        bias = readout.output_bias
        self.offset = 0.0
        if bias is not None:
            chosen = bias[ids].detach().cpu().float() * readout.logit_scale
            self.offset = float(chosen[0] if foil is None else chosen[0] - chosen[1])
        self.norm_offset = float(self.form.bias @ self.row) * self.gain

    def of(self, part: Tensor) -> Tensor:
        """Parts [..., d_model] to logits [...]."""
        return self.form.frozen(part, self.state) @ self.row * self.gain

    @property
    def bias(self) -> float:
        """What the biases of final norm and unembedding add."""
        return self.norm_offset + self.offset


@torch.no_grad()
def attribute_logit(
    model: Model, trace: Trace, position: int, token: int | None, foil: int | None
) -> Attribution:
    """Split a logit into embedding, heads, attention biases, MLPs and biases.

    Raises:
        SpecError: If the position does not exist, or some layer's heads can't be told apart.
        PromptError: If a token is not in the vocabulary.
    """
    position = resolve_index("Position", position, len(trace.tokens))
    token = int(trace.logits[position].argmax()) if token is None else token
    vocab = int(model.readout.output_rows.shape[0])
    for wanted in (token, 0 if foil is None else foil):
        resolve_index("Token", wanted, vocab)
    direction = LogitDirection(model, trace, position, token, foil)
    info = model.info
    heads = np.zeros((info.layers, info.heads), np.float32)
    biases = np.zeros(info.layers, np.float32)
    for layer in range(info.layers):
        heads[layer], biases[layer] = _attention(model, trace, layer, position, direction)
    mlps = direction.of(torch.from_numpy(trace.mlp_out[:, position])).numpy()
    embedding = float(direction.of(torch.from_numpy(trace.resid[0, position])))
    logits = uncapped(model, trace, position)
    logit = logits[token] - (0.0 if foil is None else logits[foil])
    return Attribution(
        position, token, foil, embedding, heads, biases, mlps, direction.bias, float(logit)
    )


def _attention(
    model: Model, trace: Trace, layer: int, position: int, direction: LogitDirection
) -> tuple[np.ndarray, float]:
    if not has_heads(model, layer):
        if model.stream.blocks[layer].heads:
            raise SpecError(
                f"The heads of layer {layer} can't be told apart.", "Attribution needs them."
            )
        whole = float(direction.of(torch.from_numpy(trace.attn_out[layer, position])))
        return np.zeros(model.info.heads, np.float32), whole
    parts = head_parts(model, trace, layer)
    mixed = (parts.pattern[:, position, None] @ parts.moved)[:, 0]
    heads = direction.of(parts.through(mixed, position)).numpy()
    return heads, float(direction.of(parts.bias[position]))


def uncapped(model: Model, trace: Trace, position: int) -> np.ndarray:
    """The model's own logits; where it caps them, its unembedding's output before the cap."""
    if model.readout.softcap is None:
        own: np.ndarray = trace.logits[position]
        return own
    readout = model.readout
    state = torch.from_numpy(trace.resid[-1, position])[None]
    state = state.to(readout.device, readout.output_rows.dtype)
    before: np.ndarray = readout.logits(state, capped=False)[0].cpu().numpy()
    return before


def attribute(
    model: Model,
    trace: Trace,
    position: int = -1,
    token: int | None = None,
    foil: int | None = None,
) -> Attribution:
    """Direct logit attribution: embedding, each head, each MLP, biases.

    Sums to the token's logit before any soft cap, or to its difference from the foil's.

    Raises:
        SpecError: If the position or a token does not exist.
    """
    if foil is not None and foil == token:
        raise SpecError("A token can't be held against itself.", "Choose another foil.")
    return attribute_logit(model, trace, position, token, foil)
