"""From a hidden state to logits: final norm, unembedding, the model's own scale or cap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from analysis.errors import UnsupportedModelError
from analysis.model.norms import NormForm, norm_form
from analysis.model.probe import Event, Record, relative_error, tolerance
from analysis.model.stream import Stream


@dataclass
class Readout:
    """How the model reads its last state.

    Attributes:
        norm: The final norm as a module; None where the model has none.
        form: What it does.
        unembedding: The module from normed state to logits.
        embedding: The token embedding module.
        state_scale: What the normed state is multiplied by before the unembedding.
        logit_scale: What the logits are multiplied by after it.
        softcap: ``cap * tanh(logits / cap)`` where the model caps its logits.
        embedding_scale: What a token's embedding row is multiplied by on its way to row 0.
        tied: Whether input and output embeddings are the same numbers.
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

    @property
    def device(self) -> torch.device:
        """Where the unembedding lives; states are decoded there."""
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
        return result.to(states.device)  # a norm on another device moves what it reads

    def cap(self, logits: Tensor) -> Tensor:
        """The model's own scale and soft cap, on float32 logits, in place."""
        if self.logit_scale != 1.0:
            logits.mul_(self.logit_scale)
        if self.softcap is not None:
            logits.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits

    def logits(self, states: Tensor, *, capped: bool = True) -> Tensor:
        """The lens: [n, d_model] un-normed states to float32 logits [n, vocab]."""
        raw: Tensor = self.unembedding(self.normed(states) * self.state_scale).float()
        if capped:
            return self.cap(raw)
        return raw * self.logit_scale


def find_readout(model: Any, stream: Stream, record: Record) -> Readout:
    """Find the final norm and what happens to the logits, and check them on a probe.

    Raises:
        UnsupportedModelError: If lens(last row) does not give the model's logits.
    """
    embedding, unembedding = model.get_input_embeddings(), model.get_output_embeddings()
    if unembedding is None or record.logits is None:
        raise UnsupportedModelError(
            f"{type(model).__name__} has no unembedding.", "Name a causal language model."
        )
    last, head = record.of(stream.blocks[-1].module), record.of(unembedding)
    if last is None or head is None or head.entered is None:
        raise UnsupportedModelError("The unembedding was not called.", "It can't be read.")
    limit = tolerance(next(model.parameters()).dtype)
    norm, scale = _find_norm(record, last.left, head, limit)
    form = norm_form(norm, stream.d_model)
    if form is None:
        raise UnsupportedModelError(
            f"The final norm {type(norm).__name__} is neither RMSNorm nor LayerNorm.",
            "Its parts can't be told apart.",
        )
    readout = Readout(norm, form, unembedding, embedding, state_scale=scale)
    readout.logit_scale, readout.softcap = _find_cap(model, head.left, record.logits, limit)
    readout.embedding_scale = _embedding_scale(record, stream, embedding, limit)
    readout.tied = _tied(readout)
    _check(readout, last, record.logits, next(model.parameters()).dtype)
    return readout


def _find_norm(
    record: Record, last: Tensor, head: Event, limit: float
) -> tuple[nn.Module | None, float]:
    """The module that reads the last row and gives what the unembedding reads, up to a scale."""
    assert head.entered is not None  # noqa: S101 - narrowed by the caller
    for event in record.events:
        reads = event.entered is not None and torch.equal(event.entered, last)
        if reads and event.module is not head.module and event.left.shape == last.shape:
            scale = _ratio(event.left, head.entered, limit)
            if scale is not None:
                return event.module, scale
    scale = _ratio(last, head.entered, limit)
    if scale is None:
        raise UnsupportedModelError(
            "What the unembedding reads is not the last row after one norm.",
            "lens(last row) = logits can't hold for this model.",
        )
    return None, scale


def _ratio(one: Tensor, other: Tensor, limit: float) -> float | None:
    """The number that turns ``one`` into ``other``, 1 where they are equal, else None."""
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
    for name in ("final_logit_softcapping", "logit_softcapping", "logits_soft_cap"):
        cap = getattr(config, name, None)
        if cap and relative_error(cap * torch.tanh(raw / cap), logits) < limit:
            return 1.0, float(cap)
    raise UnsupportedModelError(
        "The logits are neither the unembedding's output, nor a multiple, nor a soft cap of it.",
        "lens(last row) = logits can't hold for this model.",
    )


def _embedding_scale(record: Record, stream: Stream, embedding: nn.Module, limit: float) -> float:
    """What multiplies a row of the embedding matrix; 1 where positions are added."""
    looked_up, first = record.of(embedding), record.of(stream.blocks[0].module)
    if looked_up is None or first is None or first.entered is None:
        return 1.0
    inside = float(getattr(embedding, "embed_scale", getattr(embedding, "scalar_embed_scale", 1.0)))
    return (_ratio(looked_up.left, first.entered, limit) or 1.0) * inside


def _tied(readout: Readout) -> bool:
    one, other = readout.input_rows, readout.output_rows
    if one.data_ptr() == other.data_ptr():
        return True
    return one.shape == other.shape and bool(torch.equal(one.cpu(), other.cpu()))


@torch.no_grad()
def _check(readout: Readout, last: Event, logits: Tensor, dtype: torch.dtype) -> None:
    states = last.left[0].to(readout.device, dtype)
    error = relative_error(readout.logits(states).cpu(), logits[0])
    if error > 10 * tolerance(dtype):
        raise UnsupportedModelError(
            f"lens(last row) = logits fails with relative error {error:.1e}.",
            "No picture of this model would be right.",
        )
