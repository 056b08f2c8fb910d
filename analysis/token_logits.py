"""Which tokens a part of a state promotes and suppresses, through the frozen final norm."""

from __future__ import annotations

import torch
from torch import Tensor

from analysis.lens_math import top_k
from analysis.models.handle import Model


def token_logits(model: Model, parts: Tensor, state: Tensor) -> Tensor:
    """[n, vocab] what parts [n, d_model] of a last state add to every token's logit.

    The final norm's scale is frozen at ``state`` [d_model] (design: direct logit attribution),
    so the logits of a state's parts, and the biases once, add up to its logits before any cap.
    """
    readout = model.readout
    rows = readout.form.frozen(parts, state) * (readout.state_scale * readout.logit_scale)
    weight = readout.output_rows
    logits: Tensor = (rows.to(weight.device, weight.dtype) @ weight.T).float().cpu()
    return logits


def extremes(logits: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ids and logits of the k most promoted and the k most suppressed tokens of each row."""
    raised, promoted = top_k(logits, k)
    lowered, suppressed = top_k(-logits, k)
    return promoted, raised, suppressed, -lowered


def log_probs(model: Model, states: Tensor) -> Tensor:
    """[n, vocab] the lens, as log-probabilities in float64."""
    readout = model.readout
    logits = readout.logits(states.to(readout.device, readout.output_rows.dtype))
    return torch.log_softmax(logits.double().cpu(), -1)


def kl(wanted: Tensor, other: Tensor) -> float:
    """KL in nats of two rows of log-probabilities."""
    return float((wanted.exp() * (wanted - other).nan_to_num(0.0)).sum().clamp_min(0.0))
