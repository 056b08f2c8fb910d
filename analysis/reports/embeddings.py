"""Whether a model uses the same embeddings at its input and its output, and how alike they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from analysis.contract import progress
from analysis.contract.results import Floats
from analysis.errors import SpecError
from analysis.model.handle import Model
from analysis.model.readout import Readout
from analysis.reports.specs import EmbeddingReport, EmbeddingSpec
from analysis.tracing.vocabulary import rank

LEVELS = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
BINS = 80
#: Rows compared with a whole matrix at once.
CHUNK = 256


@torch.no_grad()
def compute(model: Model, spec: EmbeddingSpec) -> EmbeddingReport:
    """Compare the rows of the embedding and the unembedding matrix, token by token.

    The cosine of a token's two rows, and the rank of its own row among all rows of the other
    matrix by cosine (Press and Wolf 2017, arXiv 1608.05859, on tying). Rows are as stored, without
    any scale on the way to row 0 or the final norm's. Of tied matrices each row is itself.

    Raises:
        SpecError: If the two matrices have different widths.
        CancelledError: If the caller's progress listener stops the work.
    """
    readout = model.readout
    inner, outer = _rows(readout)
    known = torch.nonzero(inner.any(-1) & outer.any(-1))[:, 0]
    cosine = torch.ones(len(known)) if readout.tied else _cosines(inner, outer, known, 0)
    drawn = np.random.default_rng(spec.seed)
    unrelated = _cosines(inner, outer, known, int(drawn.integers(1, max(len(known), 2))))
    ranks = _ranks(readout.tied, inner, outer, known, spec.sample, drawn)
    counts, edges = np.histogram(cosine.clamp(-1, 1).numpy(), BINS, (-1.0, 1.0))
    return EmbeddingReport(
        tied=readout.tied,
        tokens=len(inner),
        d_model=inner.shape[1],
        cosine_counts=counts.astype(np.int64),
        cosine_edges=edges.astype(np.float32),
        quantile_levels=np.array(LEVELS, np.float32),
        cosine_quantiles=_quantiles(cosine),
        cosine_mean=float(cosine.double().mean()),
        unrelated_mean=float(unrelated.double().mean()),
        zero_rows=len(inner) - len(known),
        sampled=len(ranks[0]),
        seed=spec.seed,
        self_nearest=np.array([float((found == 0).float().mean()) for found in ranks], np.float32),
        self_rank_quantiles=np.stack([_quantiles(found) for found in ranks]),
        **_lengths("input", inner),
        **_lengths("output", outer),
        embedding_scale=readout.embedding_scale,
        output_bias=readout.output_bias is not None,
    )


def _rows(readout: Readout) -> tuple[Tensor, Tensor]:
    """Both matrices in float32 on one device, cut to the tokens that both have."""
    outer = readout.output_rows.detach()
    inner = readout.input_rows.detach().to(outer.device)
    if inner.shape[1] != outer.shape[1]:
        raise SpecError(
            f"The input embeddings have {inner.shape[1]} channels and the output embeddings "
            f"{outer.shape[1]}: a projection lies between, and their rows can't be compared.",
            "Read the model through its own unembedding.",
        )
    count = min(len(inner), len(outer))
    return inner[:count].float(), outer[:count].float()


def _cosines(inner: Tensor, outer: Tensor, known: Tensor, offset: int) -> Tensor:
    """[n] cosine of each token's input row and the output row of itself, or of another token."""
    found = []
    others = known.roll(offset)
    for part, other in zip(torch.split(known, 4096), torch.split(others, 4096), strict=True):
        a, b = inner[part].double(), outer[other].double()
        found.append((a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1)))
    return torch.cat(found).float().cpu()


def _ranks(
    tied: bool,
    inner: Tensor,
    outer: Tensor,
    known: Tensor,
    sample: int | None,
    drawn: np.random.Generator,
) -> list[Tensor]:
    """Own ranks from input to output and back; 0 for every token where the matrices are one."""
    if tied:
        return [torch.zeros(len(known), dtype=torch.long)] * 2
    tokens = _sample(known, sample, drawn)
    return [_own_ranks(inner, outer, tokens, 0), _own_ranks(outer, inner, tokens, 1)]


def _lengths(which: str, rows: Tensor) -> dict[str, Any]:
    lengths = rows.norm(dim=-1)
    return {
        f"{which}_norm_quantiles": _quantiles(lengths),
        f"{which}_norm_mean": float(lengths.double().mean()),
    }


def _sample(known: Tensor, size: int | None, drawn: np.random.Generator) -> Tensor:
    if size is None or size >= len(known):
        return known
    places = np.sort(drawn.choice(len(known), size, replace=False))
    return known[torch.from_numpy(places).to(known.device)]


def _own_ranks(queries: Tensor, rows: Tensor, tokens: Tensor, number: int) -> Tensor:
    """[n] how many rows lie nearer, by cosine, to a token's query than its own row does.

    A row of zeros points nowhere: its cosine counts as 0.
    """
    units = torch.nn.functional.normalize(rows, dim=-1)
    found = []
    for done, part in enumerate(torch.split(tokens, CHUNK)):
        # The queries' lengths change no rank.
        near = queries[part] @ units.T
        found.append(rank(near, part).cpu())
        done_in_all = number * len(tokens) + done * CHUNK + len(part)
        progress.step(done_in_all, 2 * len(tokens), "Nearest embeddings")
        progress.pause()
    return torch.cat(found)


def _quantiles(values: Tensor) -> Floats:
    found: Floats = np.quantile(values.double().cpu().numpy(), LEVELS).astype(np.float32)
    return found


def embedding_report(
    model: Model, *, sample: int | None = EmbeddingSpec().sample, seed: int = 0
) -> EmbeddingReport:
    """Whether the model uses the same embeddings at its input and output.

    Args:
        model: From ``load_model``.
        sample: How many tokens have their nearest row looked for; None: all.
        seed: Of the draw.

    Raises:
        SpecError: If the two matrices have different widths.
    """
    return compute(model, EmbeddingSpec(sample, seed))
