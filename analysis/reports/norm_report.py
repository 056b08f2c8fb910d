"""What a model's normalisation layers do: kind, effective scale and bias, eps."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from analysis.contract.results import Floats
from analysis.model.handle import Model
from analysis.model.norms import NormForm, norm_form
from analysis.reports.specs import NormReport, NormSpec, NormSummary

_KINDS = {"layer": "LayerNorm", "rms": "RMSNorm"}
#: Within so much an effective scale is what the layer stores; fitted scales are good to 1e-5.
_SAME = 1e-2


@torch.no_grad()
def compute(model: Model, spec: NormSpec) -> NormReport:
    """Every norm of the model, found by asking each layer rather than by its name.

    ``y = scale · (x - centre) / sqrt(mean((x - centre)²) + eps) + bias``, the centre being the
    mean for LayerNorm (Ba et al. 2016, arXiv 1607.06450) and 0 for RMSNorm (Zhang and Sennrich
    2019, arXiv 1910.07467). Scales are effective ones: what a layer that stores ``scale - 1``
    (Gemma) multiplies by.

    Args:
        model: From ``load_model``.
        spec: Nothing to choose.
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
    """The block that each module belongs to, by its id."""
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
        except (RuntimeError, TypeError, ValueError, IndexError):  # takes more than a state
            continue
        if form is not None:
            yield name, module, form


def _width(module: nn.Module, d_model: int) -> int | None:
    """Channels of what may be a norm: only vectors among its parameters, or none and its name."""
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
