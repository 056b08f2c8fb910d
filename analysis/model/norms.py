"""The formula of a normalisation layer, found from its outputs rather than from its name.

Some norms store ``scale - 1`` (Gemma), others ``scale``; the effective scale is fitted to the
layer's own output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Kind = Literal["rms", "layer", "none"]
_TOLERANCE = 2e-3


@dataclass(frozen=True)
class NormForm:
    """``scale * (x - centre) / sqrt(mean((x - centre)^2) + eps) + bias``.

    Attributes:
        kind: "layer" subtracts the mean, "rms" does not, "none" is the identity.
        scale: [d_model] effective scale.
        bias: [d_model], zero if there is none.
        eps: Added under the root.
    """

    kind: Kind
    scale: Tensor
    bias: Tensor
    eps: float

    @property
    def plain(self) -> bool:
        """Whether scale is 1 and bias 0, within the accuracy of the fit."""
        off = max(float((self.scale - 1.0).abs().max()), float(self.bias.abs().max()))
        return self.kind != "none" and off < 1e-4

    def centred(self, x: Tensor) -> Tensor:
        """``x`` minus its mean over d_model for "layer", else ``x``."""
        return x - x.mean(-1, keepdim=True) if self.kind == "layer" else x

    def inverse_root(self, x: Tensor) -> Tensor:
        """[..., 1] factor on the centred state."""
        if self.kind == "none":
            return torch.ones_like(x[..., :1])
        return torch.rsqrt(self.centred(x).square().mean(-1, keepdim=True) + self.eps)

    def unit(self, x: Tensor) -> Tensor:
        """Normalise only: scale 1, bias 0."""
        return self.centred(x) * self.inverse_root(x)

    def full(self, x: Tensor) -> Tensor:
        """The full norm; equals the layer's own output up to rounding."""
        return self.unit(x) * self.scale + self.bias

    def frozen(self, part: Tensor, state: Tensor) -> Tensor:
        """Apply the norm to a part of ``state`` with the state's own statistics, without bias.

        Linear in ``part``: the parts of a state, and the bias once, sum to ``full(state)``.
        """
        return self.centred(part) * self.inverse_root(state) * self.scale


def identity_norm(d_model: int) -> NormForm:
    """The form of the identity: no norm."""
    return NormForm("none", torch.ones(d_model), torch.zeros(d_model), 0.0)


@torch.no_grad()
def norm_form(module: nn.Module | None, d_model: int) -> NormForm | None:
    """Find the form of ``module``; None if it is neither an RMSNorm nor a LayerNorm.

    Args:
        module: A layer from [..., d_model] to the same shape; None for no norm.
        d_model: Width of the residual stream.
    """
    if module is None:
        return identity_norm(d_model)
    generator = torch.Generator().manual_seed(0)
    like = next(module.parameters(), torch.zeros(1))
    probe = 3.0 * torch.randn(6, d_model, generator=generator) + 0.5
    answer = module(probe.to(like)).float().cpu()
    bias = module(torch.zeros(1, d_model).to(like))[0].float().cpu()
    probe = probe.to(like.dtype).float()
    small = (probe[:1] * 1e-3).to(like.dtype).float()
    small_answer = module(small.to(like)).float().cpu()
    for kind in ("rms", "layer"):
        form = _with_eps(_fit(kind, probe, answer, bias, 0.0), small, small_answer)
        error = (form.full(probe) - answer).norm() / answer.norm().clamp_min(1e-12)
        if float(error) < (_TOLERANCE if like.dtype == torch.float32 else 2e-2):
            return form
    return None


def _fit(kind: Kind, probe: Tensor, answer: Tensor, bias: Tensor, eps: float) -> NormForm:
    bare = NormForm(kind, torch.ones(probe.shape[-1]), torch.zeros(probe.shape[-1]), eps)
    unit = bare.unit(probe)
    # Least squares over the probes: a single one may have a coordinate near zero.
    scale = (unit * (answer - bias)).sum(0) / unit.square().sum(0)
    return NormForm(kind, scale, bias, eps)


def _with_eps(form: NormForm, small: Tensor, answer: Tensor) -> NormForm:
    """Fit eps on a state so small that eps matters: ``scale * c / (y - bias) = root``."""
    centred = form.centred(small)
    weight = (form.scale * centred).square()
    # Weighted mean over coordinates: those near zero carry little information.
    root = (weight.sum() / (answer - form.bias).square().sum()).item()
    eps = root - float(centred.square().mean())
    return NormForm(form.kind, form.scale, form.bias, max(eps, 0.0))
