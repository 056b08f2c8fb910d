"""Compare a learned lens with the logit lens, row by row, over the whole vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from analysis.contract import jobs
from analysis.errors import SpecError
from analysis.learned.library import Evaluation, RowFigures
from analysis.learned.translators import Lens, LogitLens
from analysis.lens_training.texts import Text
from analysis.model.handle import Model
from analysis.tracing.capture import trace
from analysis.tracing.vocabulary import kl


@dataclass(frozen=True)
class _Reference:
    """The model's own output at n positions."""

    log_probs: Tensor
    top: Tensor

    @classmethod
    def of(cls, logits: Tensor) -> _Reference:
        """From the model's own logits, [pos, vocab]."""
        return cls(torch.log_softmax(logits, -1), logits.argmax(-1))

    def sums(self, logits: Tensor) -> tuple[float, int]:
        """KL in nats and agreements of the top token, both summed over positions."""
        divergence = kl(self.log_probs, torch.log_softmax(logits, -1))
        agreed = logits.argmax(-1) == self.top
        return float(divergence.sum()), int(agreed.sum())


@torch.no_grad()
def evaluate(model: Model, lens: Lens, text: Text, tokens: int) -> Evaluation:
    """Mean KL(model || lens) and top-1 agreement of both lenses at every row before the last.

    Args:
        model: The model.
        lens: The lens, restored from its stored form.
        text: Text that the lens was not trained on.
        tokens: Number of positions to evaluate; all if the text has fewer.

    Raises:
        SpecError: If the text has no positions to evaluate.
        CancelledError: If the caller's progress listener stops the work.
    """
    rows, done = model.info.layers, 0
    kl, top = np.zeros((rows, 2)), np.zeros((rows, 2))
    for ids, start in zip(text.parts, text.starts, strict=True):
        length = min(len(ids), start + tokens - done)
        if length > start:
            _add(model, lens, ids[:length], start, kl, top)
            done += length - start
            jobs.step(done, tokens, f"Evaluating on {text.title}")
    if not done:
        raise SpecError("The text is too short to evaluate a lens.", "Choose a longer text.")
    figures = tuple(
        RowFigures(row, *(float(value) for value in (*kl[row] / done, *top[row] / done)))
        for row in range(rows)
    )
    return Evaluation(text.title, done, figures)


def _add(
    model: Model, lens: Lens, ids: tuple[int, ...], start: int, kl: np.ndarray, top: np.ndarray
) -> None:
    """Add the sums of one sequence: column 0 for the logit lens, column 1 for the lens."""
    states = trace(model, ids)
    device = model.readout.device
    own = _Reference.of(torch.from_numpy(states.logits[start:]).to(device))
    for row in range(model.info.layers):
        vectors = torch.from_numpy(states.resid[row, start:]).to(device)
        for column, reader in enumerate((LogitLens(), lens)):
            apart, agreed = own.sums(reader.logits(model.readout, vectors, row))
            kl[row, column] += apart
            top[row, column] += agreed


def table(found: Evaluation) -> str:
    """The evaluation as a Markdown table, one line for each residual row."""
    lines = [
        f"{found.text}, {found.tokens} tokens: the learned lens has the smaller KL at "
        f"{found.better} of {len(found.rows)} rows",
        "",
        "| row | KL logit lens | KL learned lens | top-1 logit lens | top-1 learned lens |",
        "|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.row} | {row.logit_kl:.3f} | {row.learned_kl:.3f} "
        f"| {100 * row.logit_top1:.1f} % | {100 * row.learned_top1:.1f} % |"
        for row in found.rows
    ]
    return "\n".join(lines)
