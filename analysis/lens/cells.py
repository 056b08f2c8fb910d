"""The cells of a grid: the states of a component, and their scores by a decoder's matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from analysis.contract.specs import (
    NO_ATTENTION,
    PART_NAMES,
    Floats,
    Ints,
    resolve_index,
)
from analysis.errors import SpecError
from analysis.learned.translators import lens_of
from analysis.lens.options import COMPONENTS, DECODERS
from analysis.lens.specs import LensSpec, PromotedSpec
from analysis.model.handle import Model
from analysis.model.readout import Readout
from analysis.tracing.capture import Trace
from analysis.tracing.heads import head_parts, other_parts
from analysis.tracing.vocabulary import Room

ComponentSpec: TypeAlias = LensSpec | PromotedSpec


def states_of(model: Model, trace: Trace, spec: ComponentSpec, index: int) -> Floats:
    """[pos, d_model] the states of one row or layer.

    "block_increment" is what a block adds, ``resid[layer + 1] - resid[layer]``. "source_output" is
    what one head adds from one source position, ``pattern[i, j] · v[j] · W_O`` (Kobayashi et al.
    2020, arXiv 2004.10102), through a post-norm with its scale frozen and any multiplier; over
    all sources it sums to "head_output". At positions before the source it is 0.

    Args:
        model: The model the trace was made with.
        trace: From ``analysis.trace``.
        spec: Names the component, and its head and source.
        index: Entry of the component's first axis.

    Raises:
        SpecError: If the model has no mid residual, a head or source does not exist, or the
            attention can't be split into heads.
    """
    trace.require_model(model)
    states: Floats = COMPONENTS[spec.component].load()(model, trace, spec, index)
    return states


def block_output(model: Model, trace: Trace, spec: ComponentSpec, row: int) -> Floats:
    """``resid[row]``."""
    states: Floats = trace.resid[row]
    return states


def attention_output(model: Model, trace: Trace, spec: ComponentSpec, layer: int) -> Floats:
    """``attn_out[layer]``; refused in a model without attention."""
    _require_heads(model)
    states: Floats = trace.attn_out[layer]
    return states


def _require_heads(model: Model) -> None:
    if not model.info.heads:
        raise SpecError(NO_ATTENTION, "Read ssm_output instead.")


def mlp_output(model: Model, trace: Trace, spec: ComponentSpec, layer: int) -> Floats:
    """``mlp_out[layer]``; refused in a model without MLPs."""
    _require_part(model, "mlp")
    states: Floats = trace.mlp_out[layer]
    return states


def _require_part(model: Model, part: str) -> None:
    if part not in model.info.parts:
        raise SpecError(f"This model has no {PART_NAMES[part]}.", "Choose another component.")


def ssm_output(model: Model, trace: Trace, spec: ComponentSpec, layer: int) -> Floats:
    """What a mixer besides attention adds; zero in a layer without one."""
    _require_part(model, "ssm")
    others = other_parts(model, trace, layer)
    states: Floats = others["ssm"] if "ssm" in others else np.zeros_like(trace.attn_out[layer])
    return states


def per_layer_embedding_output(
    model: Model, trace: Trace, spec: ComponentSpec, layer: int
) -> Floats:
    """What the per-layer embedding adds."""
    _require_part(model, "per_layer_embedding")
    return trace.others(layer)["per_layer_embedding"]


def block_increment(model: Model, trace: Trace, spec: ComponentSpec, layer: int) -> Floats:
    """``resid[layer + 1] - resid[layer]``."""
    states: Floats = trace.resid[layer + 1] - trace.resid[layer]
    return states


def mid_residual(model: Model, trace: Trace, spec: ComponentSpec, layer: int) -> Floats:
    """``resid_mid[layer]``; refused in parallel blocks."""
    if model.info.parallel_blocks:
        raise SpecError(
            "This model's attention and MLP run in parallel: it has no mid residual.",
            "Decode the block output instead.",
        )
    return trace.middle(layer)


def head_output(model: Model, trace: Trace, spec: ComponentSpec, layer: int) -> Floats:
    """What one head adds."""
    _require_heads(model)
    head = model.head_index(layer, spec.head or 0)
    states: Floats = head_parts(model, trace, layer).heads()[head].numpy().astype(np.float32)
    return states


def source_output(model: Model, trace: Trace, spec: ComponentSpec, layer: int) -> Floats:
    """What one head adds from one source position."""
    _require_heads(model)
    head = model.head_index(layer, spec.head or 0)
    source = resolve_index("Source position", spec.source or 0, len(trace.tokens))
    pairs = head_parts(model, trace, layer).factors(torch.arange(len(trace.tokens)))
    parts = [weights[head, :, source, None] * vectors[head, source] for weights, vectors in pairs]
    states: Floats = torch.cat(parts).numpy()
    return states.astype(np.float32)


#: Bytes of decoder rows held in float64 at once.
_BYTES = 64 << 20


def coincide(readout: Readout) -> bool:
    """Whether the output decoder, the input decoder and all mixes of them are one matrix."""
    return readout.tied and readout.output_bias is None


def one_matrix(readout: Readout, decoder: str) -> bool:
    """Whether a decoder uses one matrix for all rows, so that rows can share a product."""
    return not DECODERS[decoder].by_row or coincide(readout)


@dataclass(frozen=True)
class Reader:
    """Scores states of one row with one matrix.

    Attributes:
        readout: The model's own readout.
        share: Weight of the output decoder, 0 (input embedding) to 1 (unembedding).
    """

    readout: Readout
    share: float

    @property
    def own(self) -> bool:
        """Whether its logits are the model's own."""
        return self.share == 1.0 or coincide(self.readout)

    def logits(self, normed: Tensor) -> Tensor:
        """Normed states [n, d_model] to float32 logits [n, vocab], scale and cap applied."""
        readout = self.readout
        scaled = normed * readout.state_scale
        if self.own:
            return readout.cap(readout.scores(scaled))
        readout.require_linear()
        raw = (scaled @ self._input_rows(scaled).T).float() * (1.0 - self.share)
        if self.share > 0.0:
            raw += readout.scores(scaled) * self.share
        return readout.cap(raw)

    def rows(self) -> Tensor:
        """[vocab, d_model] the decoder's rows, float32."""
        self.readout.require_linear()
        out = self.readout.output_rows.float()
        if self.share == 1.0 or self.readout.tied:
            return out
        inner = self._input_rows(out).float()
        return (1.0 - self.share) * inner + self.share * out

    def _input_rows(self, like: Tensor) -> Tensor:
        return self.readout.input_rows.to(like.device, like.dtype)


def output_matrix(readout: Readout, depth: float) -> list[Reader]:
    """The unembedding U. A learned lens uses it too: its translator comes before the norm."""
    return [Reader(readout, 1.0)]


def input_matrix(readout: Readout, depth: float) -> list[Reader]:
    """The input embedding E."""
    return [Reader(readout, 0.0)]


def linear(readout: Readout, depth: float) -> list[Reader]:
    """``(1 - s) E + s U`` with ``s = row / last row`` (InTraVisTo 2024, rows 0..L)."""
    return [Reader(readout, depth)]


def quadratic(readout: Readout, depth: float) -> list[Reader]:
    """``(1 - s) E + s U`` with ``s = (row / last row)^2`` (InTraVisTo 2024)."""
    return [Reader(readout, depth**2)]


def midpoint(readout: Readout, depth: float) -> list[Reader]:
    """``(E + U) / 2`` at every depth: the control for ``linear`` and ``quadratic``."""
    return [Reader(readout, 0.5)]


def output_and_input(readout: Readout, depth: float) -> list[Reader]:
    """U and E; one of them where they are the same matrix."""
    both = [Reader(readout, 1.0), Reader(readout, 0.0)]
    return both[:1] if coincide(readout) else both


def readers(readout: Readout, spec: LensSpec, row: int, last_row: int) -> list[Reader]:
    """The readers of a row. With several, the one with the most certain top token decodes a cell.

    Args:
        readout: The model's own readout.
        spec: Names the decoder.
        row: 0 to ``last_row``.
        last_row: The number of layers.
    """
    found: list[Reader] = DECODERS[spec.decoder].load()(readout, row / last_row)
    return found


def similarity(reader: Reader, normed: Tensor, kind: str) -> Tensor:
    """[n, vocab] cosine to, or Euclidean distance from, each of the decoder's rows."""
    rows, states = reader.rows(), normed.float()
    if kind == "cosine":
        units = torch.nn.functional.normalize(states, dim=-1)
        return (units @ rows.T).div_(rows.norm(dim=-1).clamp_min(1e-12))
    return _distances(states.double(), rows)


def _distances(states: Tensor, rows: Tensor) -> Tensor:
    """[n, vocab] float32 ``sqrt(|h|^2 + |e|^2 - 2 h.e)``, as one product.

    In float64: float32 would lose the digits of a distance that is small beside the lengths.
    """
    found = states.new_empty(len(states), len(rows), dtype=torch.float32)
    size = max(_BYTES // (8 * rows.shape[1]), 1)
    square = states.square().sum(-1, keepdim=True)
    for start in range(0, len(rows), size):
        part = rows[start : start + size].double()
        squared = torch.addmm(part.square().sum(-1) + square, states, part.T, alpha=-2.0)
        found[:, start : start + size] = squared.clamp_min_(0.0).sqrt_()
    return found


#: Scores held at once, float32.
_MAX_SCORES = 1 << 25


def axis_size(model: Model, component: str) -> int:
    """Entries of the first axis: rows for block outputs, layers for the parts of a block."""
    return model.info.layers + COMPONENTS[component].by_row


def decoder_row(component: str, index: int) -> int:
    """The row whose matrix an interpolated decoder uses for entry ``index``."""
    return index if COMPONENTS[component].by_row else index + 1


def readable(spec: ComponentSpec, positions: list[int], size: int) -> Ints:
    """Indices into ``positions`` of those that have a state.

    A head reads nothing from a later source position.

    Raises:
        SpecError: If the source position does not exist.
    """
    first = 0 if spec.source is None else resolve_index("Source position", spec.source, size)
    places: Ints = np.flatnonzero(np.array(positions) >= first)
    return places


def cells_at_once(model: Model, most: int) -> int:
    """How many cells to decode together: ``most``, or fewer for a large vocabulary."""
    return min(max(_MAX_SCORES // int(model.readout.output_rows.shape[0]), 1), most)


class CellReader:
    """Reads cells of one component with one decoder, norm and similarity.

    Args:
        model: The model the trace was made with.
        trace: From ``analysis.trace``.
        spec: The component and how it is decoded.

    Attributes:
        room: Memory for the logits of some cells.
    """

    def __init__(self, model: Model, trace: Trace, spec: LensSpec) -> None:
        trace.require_model(model)
        self._model, self._trace, self._spec = model, trace, spec
        self._lens = lens_of(model, spec.decoder)
        self._states: dict[int, Floats] = {}
        self._translated: dict[int, Tensor] = {}
        self.room = Room()

    def states(self, row: int) -> Floats:
        """[pos, d_model] the states of one entry of the first axis; computed once."""
        if row not in self._states:
            self._states[row] = states_of(self._model, self._trace, self._spec, row)
        return self._states[row]

    @torch.no_grad()
    def translated(self, row: int) -> Tensor:
        """[pos, d_model] the states that the decoder receives.

        A learned lens translates them to the last row's basis first (arXiv 2303.08112); for
        other decoders they are the states themselves.
        """
        if row not in self._translated:
            states = torch.from_numpy(self.states(row))
            self._translated[row] = self._lens.translate(states, row)
        return self._translated[row]

    def vectors(self, rows: Ints, positions: Ints) -> Tensor:
        """[n, d_model] the translated states of n cells, on the readout's device."""
        pairs = zip(rows.tolist(), positions.tolist(), strict=True)
        states = torch.stack([self.translated(row)[pos] for row, pos in pairs])
        readout = self._model.readout
        return states.to(readout.device, readout.output_rows.dtype)

    @property
    def plain(self) -> bool:
        """Whether the scores are the model's own logits: dot products with the unembedding."""
        spec, readout = self._spec, self._model.readout
        if spec.similarity != "dot" or not one_matrix(readout, spec.decoder):
            return False
        found = self.readers(0)
        return len(found) == 1 and found[0].own

    def readers(self, row: int) -> list[Reader]:
        """The matrices of one row: two for the decoder "max_probability"."""
        row = decoder_row(self._spec.component, row)
        return readers(self._model.readout, self._spec, row, self._model.info.layers)

    @torch.no_grad()
    def scores(self, rows: Ints, positions: Ints) -> tuple[Tensor, Tensor]:
        """Score n cells, and report the matrix of each.

        If each row has its own matrix, the cells are decoded row by row.

        Returns:
            [n, vocab] float32 logits, cosines, or minus distances; and [n] 1 if the input
            embedding gives the higher top probability ("max_probability"), else 0.
        """
        vectors = self.vectors(rows, positions)
        if one_matrix(self._model.readout, self._spec.decoder):
            return self._scores(vectors, int(rows[0]))
        found: Tensor | None = None
        chosen = torch.zeros(len(rows), dtype=torch.long, device=vectors.device)
        for row in np.unique(rows).tolist():
            here = torch.from_numpy(rows == row).to(vectors.device)
            part, chosen[here] = self._scores(vectors[here], row)
            if found is None:
                found = part.new_empty(len(rows), part.shape[1])
            found[here] = part
        assert found is not None  # noqa: S101 - there is at least one row
        return found, chosen

    def _scores(self, vectors: Tensor, row: int) -> tuple[Tensor, Tensor]:
        """Scores of cells that share matrices; the most certain top token decides a cell's."""
        spec = self._spec
        normed = self._model.readout.normed(vectors, spec.norm)
        choices = self.readers(row)
        if spec.similarity == "dot":
            scores = [reader.logits(normed) for reader in choices]
        else:
            sign = 1.0 if spec.similarity == "cosine" else -1.0
            scores = [sign * similarity(reader, normed, spec.similarity) for reader in choices]
        if len(scores) == 1:
            return scores[0], torch.zeros(len(vectors), dtype=torch.long, device=vectors.device)
        top = torch.stack([one.amax(-1) for one in scores])
        if spec.similarity == "dot":
            top -= torch.stack([one.logsumexp(-1) for one in scores])
        chosen = top.argmax(0)
        return torch.stack(scores)[chosen, torch.arange(len(chosen), device=chosen.device)], chosen
