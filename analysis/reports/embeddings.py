"""Whether a model's input and output embeddings are the same, and how similar they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from analysis.contract import jobs
from analysis.contract.specs import Floats
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
    the embedding scale or the final norm's. In tied matrices both rows are the same.

    Args:
        model: From ``load_model``.
        spec: Number of tokens whose nearest row is searched, and the seed.

    Raises:
        SpecError: If the two matrices have different widths.
        CancelledError: If the caller's progress listener stops the work.
    """
    readout = model.readout
    inner, outer = _rows(readout)
    nonzero = torch.nonzero(inner.any(-1) & outer.any(-1))[:, 0]
    cosine = torch.ones(len(nonzero)) if readout.tied else _cosines(inner, outer, nonzero, 0)
    rng = np.random.default_rng(spec.seed)
    unrelated = _cosines(inner, outer, nonzero, int(rng.integers(1, max(len(nonzero), 2))))
    ranks = _ranks(readout.tied, inner, outer, nonzero, spec.sample, rng)
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
        zero_rows=len(inner) - len(nonzero),
        sampled=len(ranks[0]),
        seed=spec.seed,
        self_nearest=np.array([float((own == 0).float().mean()) for own in ranks], np.float32),
        self_rank_quantiles=np.stack([_quantiles(own) for own in ranks]),
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
            f"{outer.shape[1]}: their rows can't be compared.",
            "Read the model through its own unembedding.",
        )
    count = min(len(inner), len(outer))
    return inner[:count].float(), outer[:count].float()


def _cosines(inner: Tensor, outer: Tensor, tokens: Tensor, offset: int) -> Tensor:
    """[n] cosine of each token's input row and the output row of the token ``offset`` away."""
    found = []
    others = tokens.roll(offset)
    for part, other in zip(torch.split(tokens, 4096), torch.split(others, 4096), strict=True):
        a, b = inner[part].double(), outer[other].double()
        found.append((a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1)))
    return torch.cat(found).float().cpu()


def _ranks(
    tied: bool,
    inner: Tensor,
    outer: Tensor,
    tokens: Tensor,
    sample: int | None,
    rng: np.random.Generator,
) -> list[Tensor]:
    """[n] own ranks from input to output, and from output to input; 0 for tied matrices."""
    if tied:
        return [torch.zeros(len(tokens), dtype=torch.long)] * 2
    if sample is not None and sample < len(tokens):
        places = np.sort(rng.choice(len(tokens), sample, replace=False))
        tokens = tokens[torch.from_numpy(places).to(tokens.device)]
    return [_own_ranks(inner, outer, tokens, 0), _own_ranks(outer, inner, tokens, 1)]


def _lengths(which: str, rows: Tensor) -> dict[str, Any]:
    lengths = rows.norm(dim=-1)
    return {
        f"{which}_norm_quantiles": _quantiles(lengths),
        f"{which}_norm_mean": float(lengths.double().mean()),
    }


def _own_ranks(queries: Tensor, rows: Tensor, tokens: Tensor, number: int) -> Tensor:
    """[n] how many rows are nearer, by cosine, to a token's query than its own row is.

    The cosine of a row of zeros counts as 0.
    """
    units = torch.nn.functional.normalize(rows, dim=-1)
    found = []
    for done, part in enumerate(torch.split(tokens, CHUNK)):
        # Queries need no normalising: their lengths change no rank.
        cosines = queries[part] @ units.T
        found.append(rank(cosines, part).cpu())
        total = number * len(tokens) + done * CHUNK + len(part)
        jobs.step(total, 2 * len(tokens), "Nearest embeddings")
        jobs.pause()
    return torch.cat(found)


def _quantiles(values: Tensor) -> Floats:
    found: Floats = np.quantile(values.double().cpu().numpy(), LEVELS).astype(np.float32)
    return found


def embedding_report(
    model: Model, *, sample: int | None = EmbeddingSpec().sample, seed: int = 0
) -> EmbeddingReport:
    """Whether a model's input and output embeddings are the same.

    Args:
        model: From ``load_model``.
        sample: Number of tokens whose nearest row is searched; None: all.
        seed: The seed of that sample.

    Raises:
        SpecError: If the two matrices have different widths.
    """
    return compute(model, EmbeddingSpec(sample, seed))
