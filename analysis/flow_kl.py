"""How far a part's decoded distribution is from its state's: KL shares."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from analysis.models.readout import Readout

#: What keeps a part that decodes exactly as its state from dividing by zero (design: shares).
EPSILON = 1e-10
#: Logits held at once in each matrix.
_CHUNK = 1 << 21


def vocabulary(readout: Readout, whole: Tensor, parts: Tensor) -> Tensor:
    """``KL(p_whole || p_part)`` in nats, on distributions over the vocabulary (the lens).

    Args:
        readout: How the model reads states.
        whole: [q, d_model].
        parts: [part, q, d_model].

    Returns:
        [part, q], float64. One matrix product decodes a part for a whole chunk of positions.
    """

    def decode(states: Tensor) -> Tensor:
        """[n, vocab] logits of states, on the CPU."""
        states = states.to(readout.device, readout.output_rows.dtype)
        return readout.logits(states).cpu()

    return _chunked(decode, whole, parts, int(readout.output_rows.shape[0]))


def hidden(readout: Readout, whole: Tensor, parts: Tensor) -> Tensor:
    """The same on a softmax over the hidden coordinates after the final norm.

    That distribution says nothing about tokens; it is what InTraVisTo (2024, ``utils.py``) uses.
    """

    def decode(states: Tensor) -> Tensor:
        """[n, d_model] states after the final norm, on the CPU."""
        return readout.normed(states.to(readout.device, readout.output_rows.dtype)).float().cpu()

    return _chunked(decode, whole, parts, whole.shape[-1])


def _chunked(
    decode: Callable[[Tensor], Tensor], whole: Tensor, parts: Tensor, width: int
) -> Tensor:
    size = max(_CHUNK // width, 1)
    found = []
    for states, several in zip(
        torch.split(whole, size), torch.split(parts, size, dim=1), strict=True
    ):
        wanted = torch.log_softmax(decode(states).double(), -1)
        found.append(torch.stack([_kl(wanted, decode(part)) for part in several]))
    return torch.cat(found, 1)


def _kl(wanted: Tensor, logits: Tensor) -> Tensor:
    """KL in nats of rows; in float64, for a part's KL may be smaller than float32's rounding."""
    other = torch.log_softmax(logits.double(), -1)
    # exp(log p) is 0 where log p is below -745; 0 * -inf would be NaN.
    return (wanted.exp() * (wanted - other).nan_to_num(0.0)).sum(-1).clamp_min(0.0)


def shares(divergences: Tensor) -> Tensor:
    """[part, q] ``1 / (KL + epsilon)``, normalised over the parts."""
    closeness = 1.0 / (divergences + EPSILON)
    return closeness / closeness.sum(0)
