"""The readout, from a hidden state to logits: final norm, unembedding, scale, soft cap.

The formula of a norm is found from its outputs, not from its name. Some norms store ``scale - 1``
(Gemma), others ``scale``; the effective scale is fitted to the layer's own output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from analysis.contract.specs import NONLINEAR_HEAD
from analysis.errors import SpecError, UnsupportedModelError
from analysis.model.probe import Event, Record, relative_error, tolerance
from analysis.model.stream import Stream

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
    probe = (3.0 * torch.randn(6, d_model, generator=generator) + 0.5).to(like.dtype).float()
    small = (probe[:1] * 1e-3).to(like.dtype).float()
    inputs = torch.cat([probe, torch.zeros(1, d_model), small]).to(like)
    try:
        answers = module(inputs).float().cpu()
    except (IndexError, RuntimeError, TypeError, ValueError):
        return None  # it needs other inputs, as a convolution does
    answer, bias, small_answer = answers[:6], answers[6], answers[7:]
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


@dataclass
class Readout:
    """How the model turns its last state into logits.

    Attributes:
        norm: The final norm as a module; None if the model has none.
        form: The formula of that norm.
        unembedding: The module from normed state to logits.
        embedding: The token embedding module.
        state_scale: Factor on the normed state, before the unembedding.
        logit_scale: Factor on the logits, after the unembedding.
        softcap: ``cap`` in ``cap * tanh(logits / cap)``; None if the model does not cap.
        embedding_scale: Factor from a token's embedding row to row 0.
        tied: Whether input and output embeddings are equal.
        transform: A module between the normed state and the unembedding, such as a layer with an
            activation; None in most models.
        head: The module from there to the logits; the unembedding in most models.
    """

    norm: nn.Module | None
    form: NormForm
    unembedding: nn.Module
    embedding: nn.Module
    state_scale: float = 1.0
    logit_scale: float = 1.0
    softcap: float | None = None
    embedding_scale: float = 1.0
    tied: bool = False
    transform: nn.Module | None = None
    head: nn.Module | None = None

    @property
    def linear(self) -> bool:
        """Whether the logits are linear in the normed state, up to the soft cap."""
        return self.transform is None and self.head is None

    def require_linear(self) -> None:
        """Refuse a readout whose logits have no parts and no rows to compare a state with.

        Raises:
            SpecError: If it is not linear.
        """
        if not self.linear:
            raise SpecError(NONLINEAR_HEAD, "Use the logit lens with the output decoder.")

    def scores(self, normed: Tensor) -> Tensor:
        """Normed states [n, d_model], times ``state_scale``, to float32 scores before the cap."""
        states = normed if self.transform is None else self.transform(normed)
        scores: Tensor = (self.head or self.unembedding)(states)
        return scores.float()

    @property
    def device(self) -> torch.device:
        """The device of the unembedding; states are decoded there."""
        return next(self.unembedding.parameters()).device

    @property
    def output_rows(self) -> Tensor:
        """[vocab, d_model] rows of the unembedding."""
        weight: Tensor = self.unembedding.weight  # type: ignore[assignment]
        return weight

    @property
    def output_bias(self) -> Tensor | None:
        """[vocab] bias of the unembedding, or None."""
        return getattr(self.unembedding, "bias", None)

    @property
    def input_rows(self) -> Tensor:
        """[vocab, d_model] rows of the token embedding, unscaled."""
        weight: Tensor = self.embedding.weight  # type: ignore[assignment]
        return weight

    def normed(self, states: Tensor, mode: str = "full") -> Tensor:
        """States [..., d_model] after the final norm ("full"), "unit" or "none"."""
        if mode == "none" or self.norm is None:
            return states
        if mode == "unit":
            return self.form.unit(states.float()).to(states.dtype)
        result: Tensor = self.norm(states)
        return result.to(states.device)  # the norm may be on another device

    def cap(self, logits: Tensor) -> Tensor:
        """The model's own scale and soft cap, on float32 logits, in place unless recorded."""
        if self.logit_scale != 1.0:
            logits.mul_(self.logit_scale)
        if self.softcap is not None and logits.requires_grad:
            return (logits / self.softcap).tanh() * self.softcap
        if self.softcap is not None:
            logits.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits

    def logits(self, states: Tensor, *, capped: bool = True) -> Tensor:
        """The logit lens: [n, d_model] un-normed states to float32 logits [n, vocab]."""
        raw = self.scores(self.normed(states) * self.state_scale)
        if capped:
            return self.cap(raw)
        return raw * self.logit_scale


def find_readout(model: Any, stream: Stream, record: Record) -> Readout:
    """Find the final norm, the scales and the soft cap, and check them on a probe.

    Raises:
        UnsupportedModelError: If lens(last row) is not the model's logits.
    """
    embedding, unembedding = model.get_input_embeddings(), model.get_output_embeddings()
    if unembedding is None or record.logits is None:
        raise UnsupportedModelError(
            f"{type(model).__name__} has no unembedding.", "Name a causal language model."
        )
    last, head = record.of(stream.blocks[-1].module), record.of(unembedding)
    if last is None or head is None or head.input is None:
        raise UnsupportedModelError(
            "The unembedding was not called.", "Choose a causal language model."
        )
    limit = tolerance(next(model.parameters()).dtype)
    norm, scale, beyond = _find_norm(record, last.output, head, limit)
    form = norm_form(norm, stream.d_model)
    if form is None:
        raise UnsupportedModelError(
            f"The final norm {type(norm).__name__} is neither RMSNorm nor LayerNorm.",
            "Choose a model with one of these norms.",
        )
    readout = Readout(norm, form, unembedding, embedding, state_scale=scale)
    if beyond is not None and beyond.output.shape[-1] == stream.d_model:
        readout.transform = beyond.module
    elif beyond is not None:
        readout.head, head = beyond.module, beyond
    readout.logit_scale, readout.softcap = _find_cap(model, head.output, record.logits, limit)
    readout.embedding_scale = _embedding_scale(record, stream, embedding, limit)
    readout.tied = _tied(readout)
    _check(readout, last, record.logits, next(model.parameters()).dtype)
    return readout


def _find_norm(
    record: Record, last: Tensor, head: Event, limit: float
) -> tuple[nn.Module | None, float, Event | None]:
    """The final norm, the factor after it, and what lies between it and the unembedding.

    The norm is the module from the last row to the unembedding's input, up to the factor. If there
    is none: a norm from the last row to a module that leads to the unembedding or contains it.
    """
    assert head.input is not None  # noqa: S101 - narrowed by the caller
    for event in record.events:
        reads = event.input is not None and torch.equal(event.input, last)
        if reads and event.module is not head.module and event.output.shape == last.shape:
            scale = _ratio(event.output, head.input, limit)
            if scale is not None:
                return event.module, scale, None
    scale = _ratio(last, head.input, limit)
    if scale is not None:
        return None, scale, None
    for event in record.events:
        if event.input is not None and torch.equal(event.input, last):
            beyond = _beyond(record, event.output, head)
            if beyond is not None:
                return event.module, 1.0, beyond
    beyond = _beyond(record, last, head)
    if beyond is None:
        raise UnsupportedModelError(
            "The unembedding does not read the last row after a single norm, so "
            "lens(last row) = logits fails.",
            "Choose another model.",
        )
    return None, 1.0, beyond


def _beyond(record: Record, normed: Tensor, head: Event) -> Event | None:
    """The module that reads ``normed`` and returns the unembedding's input, or its output."""
    for event in record.events:
        reads = event.input is not None and torch.equal(event.input, normed)
        if reads and any(_same(event.output, end) for end in (head.input, head.output)):
            return event
    return None


def _same(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and one.shape == other.shape and torch.equal(one, other)


def _ratio(one: Tensor, other: Tensor, limit: float) -> float | None:
    """The factor from ``one`` to ``other``; None if they are not proportional."""
    if one.shape != other.shape:
        return None
    if torch.equal(one, other):
        return 1.0
    number = float((one.double() * other.double()).sum() / one.double().square().sum())
    return number if relative_error(one * number, other) < limit else None


def _find_cap(model: Any, raw: Tensor, logits: Tensor, limit: float) -> tuple[float, float | None]:
    scale = _ratio(raw, logits, limit)
    if scale is not None:
        return scale, None
    config = model.config.get_text_config()
    for name, cap in config.to_dict().items():
        named = "cap" in name and isinstance(cap, (int, float)) and cap
        if named and relative_error(cap * torch.tanh(raw / cap), logits) < limit:
            return 1.0, float(cap)
    raise UnsupportedModelError(
        "The logits are neither the unembedding's output, nor a multiple, nor a soft cap of it, "
        "so lens(last row) = logits fails.",
        "Choose another model.",
    )


def _embedding_scale(record: Record, stream: Stream, embedding: nn.Module, limit: float) -> float:
    """Factor from a row of the embedding matrix to row 0; 1 if positions are added."""
    looked_up, first = record.of(embedding), record.of(stream.blocks[0].module)
    if looked_up is None or first is None or first.input is None:
        return 1.0
    inside = float(getattr(embedding, "embed_scale", getattr(embedding, "scalar_embed_scale", 1.0)))
    return (_ratio(looked_up.output, first.input, limit) or 1.0) * inside


def _tied(readout: Readout) -> bool:
    one, other = readout.input_rows, readout.output_rows
    if one.data_ptr() == other.data_ptr():
        return True
    return one.shape == other.shape and bool(torch.equal(one.cpu(), other.cpu()))


@torch.no_grad()
def _check(readout: Readout, last: Event, logits: Tensor, dtype: torch.dtype) -> None:
    states = last.output[0].to(readout.device, dtype)
    error = relative_error(readout.logits(states).cpu(), logits[0])
    if error > 10 * tolerance(dtype):
        raise UnsupportedModelError(
            f"lens(last row) = logits fails with relative error {error:.1e}.",
            "Choose another model.",
        )
