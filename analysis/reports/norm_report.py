"""A model's normalisation layers: kind, effective scale and bias, eps."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from analysis.contract.specs import Floats
from analysis.model.handle import Model
from analysis.model.readout import NormForm, norm_form
from analysis.reports.specs import NormReport, NormSpec, NormSummary

_KINDS = {"layer": "LayerNorm", "rms": "RMSNorm"}
#: Largest relative difference of the stored and the effective scale; fits are good to 1e-5.
_SAME = 1e-2


@torch.no_grad()
def compute(model: Model, spec: NormSpec) -> NormReport:
    """Every norm of the model, found by what each layer computes, not by its name.

    ``y = scale · (x - centre) / sqrt(mean((x - centre)²) + eps) + bias``. The centre is the mean
    for LayerNorm (Ba et al. 2016, arXiv 1607.06450) and 0 for RMSNorm (Zhang and Sennrich 2019,
    arXiv 1910.07467). Scales are effective ones: the factor itself, also where a layer stores
    ``scale - 1`` (Gemma).

    Args:
        model: From ``load_model``.
        spec: Has no options.
    """
    final, layers = model.readout.norm, _layers(model)
    found: NormSummary | None = None
    others = []
    for name, module, form in _norms(model.hf, model.info.d_model):
        if module is final:
            found = _summary(name, -1, module, model.readout.form)
        else:
            others.append(_summary(name, layers.get(id(module), -1), module, form))
    form = model.readout.form
    empty = torch.zeros(0)
    return NormReport(
        found,
        _numpy(form.scale if final is not None else empty),
        _numpy(form.bias if final is not None else empty),
        tuple(others),
    )


def _layers(model: Model) -> dict[int, int]:
    """Module id to the block that the module belongs to."""
    return {
        id(part): layer
        for layer, block in enumerate(model.stream.blocks)
        for part in block.module.modules()
    }


def _norms(hf: nn.Module, d_model: int) -> Iterator[tuple[str, nn.Module, NormForm]]:
    for name, module in hf.named_modules():
        width = _width(module, d_model)
        if width is None:
            continue
        try:
            form = norm_form(module, width)
        except (RuntimeError, TypeError, ValueError, IndexError):  # needs other arguments
            continue
        if form is not None:
            yield name, module, form


def _width(module: nn.Module, d_model: int) -> int | None:
    """Channels of a module that may be a norm; None for other modules.

    A norm has vectors as its only parameters, or no parameters and "norm" in its class name.
    """
    if any(True for _ in module.children()):
        return None
    shapes = [tuple(part.shape) for part in module.parameters()]
    if not shapes:
        return d_model if "norm" in type(module).__name__.lower() else None
    return shapes[0][0] if all(len(shape) == 1 for shape in shapes) else None


def _summary(name: str, layer: int, module: nn.Module, form: NormForm) -> NormSummary:
    return NormSummary(
        name=name,
        layer=layer,
        kind=_KINDS[form.kind],
        stores=_stores(module, form),
        size=len(form.scale),
        eps=form.eps,
        scale=_five(form.scale),
        bias=_five(form.bias),
    )


def _stores(module: nn.Module, form: NormForm) -> str:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return "nothing"
    scale, stored = form.scale.cpu(), weight.detach().float().cpu()
    errors = {
        "scale": (scale - stored).abs().mean(),
        "scale - 1": (scale - 1.0 - stored).abs().mean(),
    }
    best = min(errors, key=lambda name: float(errors[name]))
    return best if float(errors[best]) <= _SAME * float(scale.abs().mean()) else "something else"


def _five(values: Tensor) -> Floats:
    found: Floats = np.quantile(values.double().cpu().numpy(), np.linspace(0, 1, 5))
    return found.astype(np.float32)


def _numpy(values: Tensor) -> Floats:
    array: Floats = values.detach().float().cpu().numpy()
    return array


def norm_report(model: Model) -> NormReport:
    """Kind, effective scale and bias, and eps of every normalisation layer of the model.

    Args:
        model: From ``load_model``.
    """
    return compute(model, NormSpec())
