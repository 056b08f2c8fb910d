"""Statistics over the vocabulary: top k, rank, entropy, KL, promoted tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from analysis.model.handle import Model
from analysis.model.readout import Readout

#: Tokens in a block; ``top_k`` looks for the best blocks first.
BLOCK = 256
#: Tokens in one float32 partial sum of a KL; the partial sums are added in float64.
_SUMMED = 1024
#: Tokens decoded at once by ``decode_stats``: so few that their logits stay in the cache.
_DECODED = 2 * BLOCK
#: Logarithm of the smallest normal float32.
_LEAST = -87.0
#: Powers of 2 take half the time of powers of e.
_LOG2_E = 1.4426950408889634


@dataclass
class RowStats:
    """Statistics of n rows of logits.

    Attributes:
        ids: [n, k] best tokens. values: [n, k] their logits.
        log_total: [n] log-sum-exp. entropy: [n] nats.
        target_logits: [n, m]. target_ranks: [n, m] 0 is best, ties in the target's favour.
    """

    ids: Tensor
    values: Tensor
    log_total: Tensor
    entropy: Tensor
    target_logits: Tensor
    target_ranks: Tensor

    @property
    def probs(self) -> Tensor:
        """[n, k]."""
        return (self.values - self.log_total[:, None]).exp()

    @property
    def target_probs(self) -> Tensor:
        """[n, m]."""
        return (self.target_logits - self.log_total[:, None]).exp()


def top_k(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Exact k largest of each row, best first: the k best blocks hold them all."""
    rows, vocab = logits.shape
    k = min(k, vocab)
    whole = vocab // BLOCK
    if whole <= 2 * k:
        return torch.topk(logits, k, dim=-1)
    blocks = logits[:, : whole * BLOCK].view(rows, whole, BLOCK)
    best = blocks.amax(-1).topk(k, dim=-1).indices
    found = blocks.gather(1, best[..., None].expand(-1, -1, BLOCK)).flatten(1)
    offsets = torch.arange(BLOCK, device=logits.device)
    ids = (best[..., None] * BLOCK + offsets).flatten(1)
    if whole * BLOCK < vocab:
        tail = torch.arange(whole * BLOCK, vocab, device=logits.device).expand(rows, -1)
        found, ids = torch.cat([found, logits[:, whole * BLOCK :]], 1), torch.cat([ids, tail], 1)
    values, places = found.topk(k, dim=-1)
    return values, ids.gather(1, places)


def row_stats(logits: Tensor, k: int, targets: Tensor) -> RowStats:
    """Candidates, log-sum-exp, entropy and targets of float32 logits [n, vocab].

    Args:
        logits: Read only; one temporary of the same size is made.
        k: How many candidates.
        targets: [n, m] token ids to score in each row; m may be 0.
    """
    values, ids = top_k(logits, k)
    shifted = logits - values[:, :1]
    weights = shifted.exp()
    total = weights.sum(-1)
    # 0 * -inf would be NaN; a token of probability 0 adds nothing to the entropy. A dot product
    # would add 50,000 terms one by one and lose three digits; sum() adds them pairwise.
    mean = weights.mul_(shifted.clamp_min_(-1e4)).sum(-1) / total
    log_total = values[:, 0] + total.log()
    target_logits = logits.gather(1, targets)
    ranks = torch.zeros_like(targets)
    for column in range(targets.shape[1]):
        ranks[:, column] = rank(logits, targets[:, column])
    return RowStats(ids, values, log_total, total.log() - mean, target_logits, ranks)


def rank(scores: Tensor, tokens: Tensor) -> Tensor:
    """[n] rank of one token in each row of scores [n, vocab]; 0 is best, ties in its favour."""
    return _better(scores, scores.gather(1, tokens[:, None]))


def _better(scores: Tensor, limit: Tensor) -> Tensor:
    """[n] how many of the scores [n, tokens] are above a limit [n, 1]."""
    better = (scores > limit).float()
    # A product with ones sums comparisons four times as fast as sum(), exactly up to 2**24 tokens.
    return (better @ torch.ones(better.shape[1], device=better.device)).long()


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) in nats over the last axis of log-probabilities, summed in float64.

    Give float64 where the KL may be smaller than float32's rounding.
    """
    # exp(log p) is 0 where log p is below -745; 0 * -inf would be NaN.
    terms = (log_p - log_q).mul_(log_p.exp()).nan_to_num_(0.0, posinf=torch.inf)
    return terms.sum(-1, dtype=torch.float64).clamp_min(0.0)


@dataclass
class Reference:
    """The model's own output at some positions: the reference of a KL.

    Attributes:
        probs: [position, vocab]. negative_entropy: [position] sum of p log p, nats.
    """

    probs: Tensor
    negative_entropy: Tensor

    @classmethod
    def of(cls, logits: Tensor) -> Reference:
        """From the model's logits [position, vocab]; in float64, as so few rows cost nothing."""
        log_probs = torch.log_softmax(logits.double(), -1).clamp_min(-1e4)
        probs = log_probs.exp()
        return cls(probs.float(), (probs * log_probs).sum(-1).float())

    def kl_to(self, logits: Tensor, stats: RowStats, which: Tensor) -> Tensor:
        """KL(model's output || row) in nats, [n].

        Args:
            logits: [n, vocab] of the rows.
            stats: Of those logits.
            which: [n] the reference position that each row belongs to.
        """
        # Cross terms with every reference at once, some tokens at a time: a single product over
        # 50,000 tokens would lose the many small terms beside a large sum (5e-3 nats of 100).
        peak = stats.values[:, :1]
        mean = torch.zeros(len(logits), dtype=torch.float64, device=logits.device)
        for start in range(0, logits.shape[1], _SUMMED):
            part = logits[:, start : start + _SUMMED] - peak
            terms = part @ self.probs[:, start : start + _SUMMED].T
            mean += terms.gather(1, which[:, None])[:, 0]
        own = self.negative_entropy[which]
        return (own - mean + stats.log_total - peak[:, 0]).clamp_min(0.0).float()


class Room:
    """Memory for the logits of ``decode_stats``, for one call after the other.

    The pages of a new array cost as much time as the statistics.
    """

    def __init__(self) -> None:
        self._numbers = torch.empty(0)

    def array(self, *shape: int) -> Tensor:
        """A float32 array whose numbers are not set; it replaces the last one."""
        size = math.prod(shape)
        if len(self._numbers) < size:
            self._numbers = torch.empty(size)
        return self._numbers[:size].view(shape)


@torch.no_grad()
def decode_stats(
    readout: Readout,
    normed: Tensor,
    k: int,
    targets: Tensor,
    final: Reference | None = None,
    which: Tensor | None = None,
    room: Room | None = None,
) -> tuple[RowStats, Tensor | None]:
    """``row_stats`` of the model's own logits, and their KL, in one pass over them.

    On the CPU some tokens are decoded at a time, and their maxima taken while their logits are in
    the cache. One pass over the logits, some tokens at a time, then takes the sums, ranks and cross
    terms: its intermediate results stay in the cache.

    Args:
        readout: The model's readout.
        normed: [n, d_model] states after the final norm.
        k: How many candidates.
        targets: [n, m] token ids to score in each row; m may be 0.
        final: The reference of the KL; None: no KL.
        which: [n] the reference position of each row.
        room: Memory of an earlier call.

    Returns:
        The statistics, and [n] KL in nats, or None.
    """
    states = normed * readout.state_scale
    if not _decodes_in_blocks(readout, states, k):
        logits = readout.cap(readout.scores(states))
        stats = row_stats(logits, k, targets)
        found = None if final is None or which is None else final.kl_to(logits, stats, which)
        return stats, found
    running = _Running(len(states), int(readout.output_rows.shape[0]), room or Room())
    for number in range(len(running.logits)):
        _decode(readout, states, number, running.logits[number])
        running.add(number)
    return running.stats(k, targets, final, which)


def _decodes_in_blocks(readout: Readout, states: Tensor, k: int) -> bool:
    plain = readout.linear and type(readout.unembedding) is nn.Linear
    vocab = int(readout.output_rows.shape[0])
    return plain and states.device.type == "cpu" and vocab // BLOCK > max(2 * k, _DECODED // BLOCK)


def _decode(readout: Readout, states: Tensor, number: int, logits: Tensor) -> Tensor:
    """Logits [n, tokens] of one block of tokens, written to ``logits`` [n, _DECODED]."""
    part = slice(number * _DECODED, (number + 1) * _DECODED)
    rows, bias = readout.output_rows[part], readout.output_bias
    if states.dtype == rows.dtype == torch.float32 and len(rows) == _DECODED:
        if bias is None:
            torch.mm(states, rows.T, out=logits)
        else:
            torch.addmm(bias[part], states, rows.T, out=logits)
        return readout.cap(logits)
    found = nn.functional.linear(states, rows, None if bias is None else bias[part]).float()
    found = readout.cap(found)
    logits.fill_(-torch.inf)
    logits[:, : found.shape[1]] = found
    return found


class _Running:
    """Statistics of n rows of logits whose tokens come a block at a time.

    Args:
        rows: n.
        vocab: Number of tokens.
        room: Where ``logits`` is.

    Attributes:
        logits: [block, n, _DECODED]; after the last token, minus infinity.
    """

    def __init__(self, rows: int, vocab: int, room: Room) -> None:
        blocks = -(-vocab // _DECODED)
        self.logits = room.array(blocks, rows, _DECODED)
        self._vocab = vocab
        self._best = torch.empty(rows, blocks, _DECODED // BLOCK)

    def add(self, number: int) -> None:
        """Take a block of ``logits`` that was just filled."""
        groups = self.logits[number].view(len(self._best), -1, BLOCK)
        torch.amax(groups, -1, out=self._best[:, number])

    def stats(
        self, k: int, targets: Tensor, final: Reference | None, which: Tensor | None
    ) -> tuple[RowStats, Tensor | None]:
        """The statistics of all tokens, and the KL; arguments as for ``decode_stats``."""
        peak, rows = self._best.amax((1, 2)), torch.arange(len(targets))[:, None]
        target_logits = self.logits[targets // _DECODED, rows, targets % _DECODED]
        ranks = torch.zeros_like(targets)
        total, mean, cross = torch.zeros(3, len(self.logits), len(peak))
        arrays = torch.empty(2, len(peak), _DECODED)
        for number, logits in enumerate(self.logits):
            part = slice(number * _DECODED, min((number + 1) * _DECODED, self._vocab))
            shifted, weights = arrays[..., : part.stop - part.start]
            torch.sub(logits[:, : part.stop - part.start], peak[:, None], out=shifted)
            if final is not None and which is not None:
                torch.index_select(final.probs[:, part], 0, which, out=weights)
                torch.sum(weights.mul_(shifted), -1, out=cross[number])
            for column in range(targets.shape[1]):
                ranks[:, column] += _better(logits, target_logits[:, column, None])
            # Smaller probabilities are below float32's range, and 0 * -inf would be NaN.
            torch.mul(shifted.clamp_min_(_LEAST), _LOG2_E, out=weights)
            torch.sum(weights.exp2_(), -1, out=total[number])
            torch.sum(weights.mul_(shifted), -1, out=mean[number])
        log_sum = total.double().sum(0).log()
        entropy = (log_sum - mean.double().sum(0) / log_sum.exp()).float()
        values, ids = self._top_k(k)
        stats = RowStats(ids, values, peak + log_sum.float(), entropy, target_logits, ranks)
        if final is None or which is None:
            return stats, None
        own = final.negative_entropy[which]
        return stats, (own - cross.double().sum(0) + log_sum).clamp_min(0.0).float()

    def _top_k(self, k: int) -> tuple[Tensor, Tensor]:
        """Exact k largest of each row, from the groups of tokens with the k largest maxima."""
        best = self._best.flatten(1).topk(k, dim=-1).indices
        groups = self.logits.view(len(self.logits), len(best), -1, BLOCK)
        each = groups.shape[2]
        found = groups[best // each, torch.arange(len(best))[:, None], best % each].flatten(1)
        ids = (best[..., None] * BLOCK + torch.arange(BLOCK)).flatten(1)
        values, places = found.topk(k, dim=-1)
        return values, ids.gather(1, places)


def token_logits(model: Model, parts: Tensor, state: Tensor) -> Tensor:
    """[n, vocab] what parts [n, d_model] of a last state add to every token's logit.

    The final norm's scale is frozen at ``state`` [d_model] (direct logit attribution). The logits
    of a state's parts, and the biases once, add up to its logits before any soft cap.
    """
    readout = model.readout
    readout.require_linear()
    rows = readout.form.frozen(parts, state) * (readout.state_scale * readout.logit_scale)
    weight = readout.output_rows
    logits: Tensor = (rows.to(weight.device, weight.dtype) @ weight.T).float().cpu()
    return logits


def extremes(logits: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ids and logits of the k most promoted and the k most suppressed tokens of each row."""
    raised, promoted = top_k(logits, k)
    lowered, suppressed = top_k(-logits, k)
    return promoted, raised, suppressed, -lowered


def log_probs(model: Model, states: Tensor) -> Tensor:
    """[n, vocab] the lens, as log-probabilities in float64."""
    readout = model.readout
    logits = readout.logits(states.to(readout.device, readout.output_rows.dtype))
    return torch.log_softmax(logits.double().cpu(), -1)
