"""One head's OV and QK circuit, read as tokens without a matrix of vocabulary by vocabulary.

The head reads the embeddings of tokens, or the states of a prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from analysis.contract import jobs
from analysis.contract.specs import Floats, Ints, resolve_index
from analysis.errors import SpecError
from analysis.model.handle import Model
from analysis.tracing.capture import Trace
from analysis.tracing.tokens import token_id, vocabulary
from analysis.tracing.vocabulary import extremes, top_k
from analysis.weights.matrices import EMBEDDING_ONLY, HeadMatrices, head_matrices
from analysis.weights.specs import Circuits, CircuitSpec, StateCircuits, StateCircuitSpec

#: Tokens whose states, or whose logits, are in memory at once.
CHUNK = 1024
#: Tokens that are listed unless one is given.
LISTED = 8


def has_embeddings(model: Model) -> bool:
    """Whether a token's embedding is a state of the stream, and logits are linear in one."""
    return model.readout.linear and model.readout.input_rows.shape[1] == model.info.d_model


def require_embeddings(model: Model) -> None:
    """Refuse a model whose heads can't be read as tokens.

    Raises:
        SpecError: If its embeddings have another width than its states, or its logits no parts.
    """
    model.readout.require_linear()
    if not has_embeddings(model):
        raise SpecError(
            "The embeddings have another width than the states, so heads can't be read as tokens.",
            "Read its patterns and its heads' outputs instead.",
        )


@dataclass(frozen=True)
class TokenStates:
    """Every token as attention of one layer would read its embedding, and as the readout names it.

    Attributes:
        model: The model. made: The layer's matrices.
    """

    model: Model
    made: HeadMatrices

    def __post_init__(self) -> None:
        require_embeddings(self.model)

    @property
    def size(self) -> int:
        """Tokens that both embedding matrices have."""
        readout = self.model.readout
        return min(len(readout.input_rows), len(readout.output_rows))

    def unit(self, tokens: Tensor) -> Tensor:
        """[n, d_model] embeddings over their own root: what the folded matrices read."""
        rows = self.model.readout.input_rows[tokens.to(self.model.readout.input_rows.device)]
        rows = rows.detach().float().cpu() * self.model.readout.embedding_scale
        return self.made.norm.unit(rows)

    def read(self, tokens: Tensor) -> Tensor:
        """[n, d_model] embeddings after the layer's norm, bias included."""
        return self.unit(tokens) * self.made.norm.scale + self.made.norm.bias

    def written(self, parts: Tensor, tokens: Tensor | None = None) -> Tensor:
        """[n, token] logits of parts [n, d_model], without the root of the final norm."""
        readout = self.model.readout
        folded = readout.form.centred(parts) * readout.form.scale
        folded = folded * (readout.state_scale * readout.logit_scale)
        rows = readout.output_rows if tokens is None else readout.output_rows[tokens]
        rows = rows[: self.size].detach()
        return (folded.to(rows.device) @ rows.float().T).cpu()

    def chunks(self) -> Iterator[Tensor]:
        """All tokens, ``CHUNK`` at a time, with the progress of the work."""
        parts = torch.split(torch.arange(self.size), CHUNK)
        for done, part in enumerate(parts):
            yield part
            jobs.step(done + 1, len(parts), "Reading the vocabulary")
            jobs.pause()


@torch.no_grad()
def compute(model: Model, spec: CircuitSpec) -> Circuits:
    """A head's circuits, read as tokens; see ``circuits``.

    Raises:
        SpecError: If there is no such layer or head, or the head's matrices can't be read.
        CancelledError: If the caller's progress listener stops the work.
    """
    layer = resolve_index("Layer", spec.layer, model.info.layers)
    head = model.head_index(layer, spec.head)
    made = head_matrices(model, layer)
    states = TokenStates(model, made)
    value, write = made.reads_values(head), made.writes(head)
    ov = low_rank_svd(value, write.T)
    qk = low_rank_svd(made.reads_queries(head), made.reads_keys(head))
    count = min(spec.directions, len(ov[1]), len(qk[1]))
    ends = [part[:, :count] for part in (ov[0], qk[0], qk[2])]
    read = _ends(states, torch.stack(ends), spec.k)
    written = _pairs(states.written(ov[2][:, :count].T), spec.k)
    sample = sampled(states.size, spec.sample, spec.seed)
    copying, raised, largest = copying_score(states, value, write, sample, "Copying score")
    tokens = sample[largest.topk(min(LISTED, len(sample))).indices]
    if spec.token is not None:
        tokens = torch.tensor([resolve_index("Token", spec.token, states.size)])
    added = states.written(states.unit(tokens) @ value @ write)
    up, more, down, less = extremes(added, spec.k)
    keys, scores = wanted_keys(states, head, states.read(tokens), spec.k)
    named = [*read, written, up, down, keys, tokens]
    return Circuits(
        layer, head, made.kv_head(head), made.query.shape[-1], made.value.shape[-1],
        floats(ov[1]), floats(qk[1]), ints(read[0]), ints(written), ints(read[1]),
        ints(read[2]), copying, raised, len(sample), spec.seed, len(sample) == states.size,
        ints(tokens), ints(up), floats(more), ints(down), floats(less), ints(keys),
        floats(scores), made.notes,
        vocabulary(model.tokenizer, sorted({int(one) for part in named for one in part.flatten()})),
    )  # fmt: skip


def low_rank_svd(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The singular value decomposition of ``left @ right.T`` through its two thin factors.

    Args:
        left: [d_model, rank]; neither the product nor its SVD is formed at full size.
        right: [d_model, rank].

    Returns:
        Left vectors [d_model, rank], singular values [rank] (descending), right vectors.
    """
    one, small = torch.linalg.qr(left)
    other, short = torch.linalg.qr(right)
    inner, values, outer = torch.linalg.svd(small @ short.T)
    return one @ inner, values, other @ outer.T


def sampled(size: int, wanted: int | None, seed: int) -> Tensor:
    """[n] token ids: all, or a seeded sample in ascending order."""
    if wanted is None or wanted >= size:
        return torch.arange(size)
    chosen = np.random.default_rng(seed).choice(size, wanted, replace=False)
    return torch.from_numpy(np.sort(chosen))


def copying_score(
    states: TokenStates, value: Tensor, write: Tensor, sample: Tensor, label: str = ""
) -> tuple[float, float, Tensor]:
    """How many of some tokens promote themselves through a head.

    Args:
        states: The tokens.
        value: [d_model, d_head] the folded W_V.
        write: [d_head, d_model] the folded W_O.
        sample: [n] token ids; the logits of these tokens are compared, ``CHUNK`` rows at a time.
        label: What the progress listener reads; empty: nothing is reported.

    Returns:
        The share of tokens whose own logit is the largest of the sample's, the share whose own
        logit is above the sample's mean, and [n] each token's largest logit.
    """
    best, above, largest = 0, 0, []
    read = states.written(write, sample)  # [d_head, n]: logits of what the head's values write
    for start, part in zip(range(0, len(sample), CHUNK), torch.split(sample, CHUNK), strict=True):
        logits = states.unit(part) @ value @ read
        own = logits[torch.arange(len(part)), torch.arange(start, start + len(part))]
        best += int((logits.argmax(-1) == torch.arange(start, start + len(part))).sum())
        above += int((own > logits.mean(-1)).sum())
        largest.append(logits.amax(-1))
        if label:
            jobs.step(start + len(part), len(sample), label)
    return best / len(sample), above / len(sample), torch.cat(largest)


def _ends(states: TokenStates, directions: Tensor, k: int) -> list[Tensor]:
    """For several sets of directions [set, d_model, n]: [n, 2, k] tokens at both ends of each."""
    sets, _, count = directions.shape
    flat = directions.permute(1, 0, 2).flatten(1)
    found = torch.cat([states.unit(part) @ flat for part in states.chunks()])
    return list(_pairs(found.T, k).view(sets, count, 2, -1))


def _pairs(scores: Tensor, k: int) -> Tensor:
    """[n, 2, k] tokens with the largest and the smallest scores [n, vocab]."""
    up, _, down, _ = extremes(scores, k)
    return torch.stack([up, down], 1)


def wanted_keys(states: TokenStates, head: int, read: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """[n, k] the tokens that queries look for as keys, and the scores.

    Args:
        states: The tokens.
        head: The head.
        read: [n, d_model] what attention reads at the queries: states after the norm.
        k: Tokens in each list.
    """
    made = states.made
    front, kv_head = made.front, made.kv_head(head)
    query = front.run(read, at_zero=True).query[head]
    parts = [
        query @ front.run(states.read(part), at_zero=True).key[kv_head].T
        for part in states.chunks()
    ]
    values, ids = top_k(torch.cat(parts, 1) * score_scale(front.call.options, query.shape[-1]), k)
    return ids, values


def score_scale(options: dict[str, object], d_key: int) -> float:
    """The factor of q · k: the attention function's own, else 1 / √d_key."""
    found = options.get("scaling")
    return float(found) if isinstance(found, int | float) else d_key**-0.5


def ints(values: Tensor) -> Ints:
    """A tensor as int64."""
    found: Ints = values.numpy().astype(np.int64)
    return found


def floats(values: Tensor) -> Floats:
    """A tensor as float32."""
    found: Floats = values.numpy().astype(np.float32)
    return found


def circuits(
    model: Model,
    layer: int,
    head: int,
    token: int | str | None = None,
    *,
    k: int = 8,
    directions: int = 4,
    sample: int | None = 2048,
    seed: int = 0,
) -> Circuits:
    """One head's OV and QK circuit, read as tokens.

    W_OV = W_V W_O maps what a head reads to what it writes, and W_QK = W_Q W_Kᵀ scores pairs of
    states (Elhage et al. 2021). The scales of the norms around them are multiplied in; roots are
    left out. Singular vectors are read as tokens (Millidge and Black 2022), from QR
    decompositions of the d_head-wide factors. A token is its embedding after the layer's norm.

    Args:
        model: From ``load_model``.
        layer: The block.
        head: The head.
        token: The token that the head reads, as id or text; the sampled tokens that it moves most
            unless given.
        k: Tokens in each list.
        directions: Pairs of singular vectors.
        sample: Tokens in the seeded sample of the copying score; None: all tokens.
        seed: The seed of that sample.

    Raises:
        SpecError: If there is no such layer, head or token, or the architecture's queries and
            keys can't be read.
    """
    chosen = token_id(model.tokenizer, token)
    return compute(model, CircuitSpec(layer, head, chosen, k, directions, sample, seed))


#: Replaces ``EMBEDDING_ONLY``: states contain positions, and the embeddings of keys do not.
KEYS = "The keys are embeddings without a position."


@torch.no_grad()
def compute_of_states(model: Model, trace: Trace, spec: StateCircuitSpec) -> StateCircuits:
    """A head's circuits for the states of a row; see ``state_circuits``.

    Raises:
        SpecError: If there is no such layer, head or row, or the head's matrices can't be read.
        CancelledError: If the caller's progress listener stops the work.
    """
    trace.require_model(model)
    layer = resolve_index("Layer", spec.layer, model.info.layers)
    head = model.head_index(layer, spec.head)
    row = layer if spec.row is None else resolve_index("Row", spec.row, model.info.layers + 1)
    made = head_matrices(model, layer)
    tokens = TokenStates(model, made)
    states = torch.from_numpy(trace.resid[row])
    logits = tokens.written(made.norm.unit(states) @ made.reads_values(head) @ made.writes(head))
    up, more, down, less = extremes(logits, spec.k)
    own = torch.tensor(trace.token_ids)
    seen = own < tokens.size
    mine = logits.gather(1, own.clamp(max=tokens.size - 1)[:, None])
    ranks = torch.where(seen, (logits > mine).sum(1) + 1, -1)
    keys, scores = wanted_keys(tokens, head, made.norm.full(states), spec.k)
    notes = tuple(KEYS if one == EMBEDDING_ONLY else one for one in made.notes)
    ids = {int(one) for part in (own, up, down, keys) for one in part.flatten()}
    return StateCircuits(
        layer, head, row, ints(own), ints(ranks), ints(up), floats(more), ints(down),
        floats(less), ints(keys), floats(scores), notes, vocabulary(model.tokenizer, ids),
    )  # fmt: skip


def state_circuits(
    model: Model, trace: Trace, layer: int, head: int, row: int | None = None, *, k: int = 8
) -> StateCircuits:
    """One head's OV and QK circuit for the states of a row, read as tokens.

    As ``circuits``, but the head reads the states of a prompt instead of embeddings: what it would
    write if it read one state only, and the tokens whose embeddings it would look for from that
    state. With ``row = layer`` these are the states that the head really reads.

    Args:
        model: From ``load_model``.
        trace: From ``trace``.
        layer: The block.
        head: The head.
        row: The row whose states are read; the head's own input unless given.
        k: Tokens in each list.

    Raises:
        SpecError: If there is no such layer, head or row, or the architecture's queries and keys
            can't be read.
    """
    return compute_of_states(model, trace, StateCircuitSpec(layer, head, row, k))
