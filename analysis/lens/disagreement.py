"""How far several decoders' readings of a state differ. It shows where to distrust a lens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from analysis.contract import jobs
from analysis.contract.specs import Floats, Ints, as_tuple
from analysis.lens.cells import CellReader, cells_at_once, coincide
from analysis.lens.results import Disagreement
from analysis.lens.specs import DisagreementSpec, LensSpec, entries
from analysis.model.handle import Model
from analysis.tracing.capture import Trace
from analysis.tracing.tokens import vocabulary

#: Cells that each decoder decodes at once.
CHUNK = 128


@torch.no_grad()
def compute(model: Model, trace: Trace, spec: DisagreementSpec) -> Disagreement:
    """Top-1 agreement and Jensen-Shannon divergence of several decoders at every block output.

    With n decoders of distributions p_i: agreement is the share of the n (n - 1) / 2 pairs with
    the same most probable token; the divergence is ``mean_i KL(p_i || mean_j p_j)``, 0 to ln n
    (Lin 1991, "Divergence measures based on the Shannon entropy"), equal weights. Decoders that
    are the same matrix on this model are evaluated once and named in ``coincide``.

    Args:
        model: The model the trace was made with.
        trace: From ``analysis.trace``.
        spec: Which decoders, norm, rows and positions.

    Raises:
        SpecError: If a row or position does not exist, or the model has no learned lens.
        CancelledError: If the caller's progress listener stops the work.
    """
    rows = np.array(entries("Row", spec.rows, model.info.layers + 1))
    positions = np.array(entries("Position", spec.positions, len(trace.tokens)))
    groups = coinciding(model, spec.decoders)
    weights = torch.tensor([len(group) / len(spec.decoders) for group in groups])
    specs = [LensSpec(decoder=name, norm=spec.norm) for name, *_ in groups]
    readers = [CellReader(model, trace, one) for one in specs]
    top, divergence = _compare(readers, weights, rows, positions, cells_at_once(model, CHUNK))
    which = [next(n for n, group in enumerate(groups) if name in group) for name in spec.decoders]
    chosen = top[which]
    return Disagreement(
        rows,
        positions,
        tuple(spec.decoders),
        chosen,
        agreement(chosen),
        divergence,
        tuple(group for group in groups if len(group) > 1),
        spec.norm,
        vocabulary(model.tokenizer, np.unique(chosen).tolist()),
    )


def _compare(
    readers: list[CellReader], weights: Tensor, rows: Ints, positions: Ints, at_once: int
) -> tuple[Ints, Floats]:
    """[reader, row, pos] top tokens, and [row, pos] divergence of the weighted readings."""
    shape = (len(rows), len(positions))
    top, divergence = np.full((len(readers), *shape), -1, np.int64), np.zeros(shape, np.float32)
    chunks = _chunks(shape, at_once)
    for done, places in enumerate(chunks):
        logits = [one.scores(rows[places[0]], positions[places[1]])[0] for one in readers]
        for number, one in enumerate(logits):
            top[(number, *places)] = one.argmax(-1).cpu().numpy()
        divergence[places] = jensen_shannon(logits, weights).cpu().numpy()
        jobs.step(done + 1, len(chunks), "Comparing decoders")
        jobs.pause()
    return top, divergence


def coinciding(model: Model, decoders: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Groups of decoders that decode every state of this model alike.

    If the embeddings are tied and the unembedding has no bias, the output decoder, the input
    decoder and the interpolations between them are one matrix.
    """
    one = coincide(model.readout)
    same = tuple(name for name in decoders if one and name != "learned")
    groups = [same] if same else []
    return groups + [(name,) for name in decoders if name not in same]


def _chunks(shape: tuple[int, int], size: int) -> list[tuple[Ints, Ints]]:
    """Indices of the cells of each chunk, row by row: some decoders have a matrix for each row."""
    places = np.arange(shape[0] * shape[1])
    parts = [places[start : start + size] for start in range(0, len(places), size)]
    return [(part // shape[1], part % shape[1]) for part in parts]


def jensen_shannon(logits: list[Tensor], weights: Tensor) -> Tensor:
    """[n] ``sum_i w_i KL(p_i || sum_j w_j p_j)``, nats, of logits [n, vocab] each."""
    if len(logits) == 1:
        return logits[0].new_zeros(len(logits[0]))
    logs = [torch.log_softmax(one, -1) for one in logits]
    shares = weights.tolist()
    mean = sum((log.exp() * share for log, share in zip(logs, shares, strict=True)), 0.0)
    assert isinstance(mean, Tensor)  # noqa: S101 - there are two at least
    # If the mean underflows, so does every p_i, and the term is 0.
    log_mean = mean.clamp_min_(1e-45).log_()
    total = logits[0].new_zeros(len(logits[0]))
    for log, share in zip(logs, shares, strict=True):
        total += share * (log.exp() * (log - log_mean)).sum(-1)
    return total.clamp_min_(0.0)


def agreement(top: Ints) -> Floats:
    """[row, pos] share of pairs of decoders with the same token in ``top`` [decoder, row, pos]."""
    count = len(top)
    pairs = [top[one] == top[other] for one in range(count) for other in range(one)]
    shares: Floats = np.mean(pairs, axis=0).astype(np.float32)
    return shares


def disagreement(
    model: Model,
    trace: Trace,
    decoders: Sequence[str] = ("output", "input", "linear"),
    *,
    norm: str = "full",
    rows: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
) -> Disagreement:
    """How far several decoders' readings differ, cell by cell.

    Args:
        model: From ``load_model``.
        trace: From ``trace``.
        decoders: "output", "input", "linear", "quadratic", "learned"; at least two.
        norm: As in ``decode``.
        rows: Which rows; all unless given.
        positions: Which positions; all unless given.

    Raises:
        SpecError: If an option has no such value, or the model has no learned lens.
    """
    spec = DisagreementSpec(
        tuple(decoders),
        norm,
        rows=None if rows is None else as_tuple(rows),
        positions=None if positions is None else as_tuple(positions),
    )
    return compute(model, trace, spec)
