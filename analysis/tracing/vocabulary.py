"""Statistics over the vocabulary: top k, rank, entropy, KL, promoted tokens."""

from __future__ import annotations

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
_DECODED = 4 * BLOCK
#: Logarithm of the smallest normal float32.
_LEAST = -87.0


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
    _blocks: tuple[list[Tensor], Tensor] | None = None

    @classmethod
    def of(cls, logits: Tensor) -> Reference:
        """From the model's logits [position, vocab]; in float64, as so few rows cost nothing."""
        log_probs = torch.log_softmax(logits.double(), -1).clamp_min(-1e4)
        probs = log_probs.exp()
        return cls(probs.float(), (probs * log_probs).sum(-1).float())

    def in_blocks(self) -> tuple[list[Tensor], Tensor]:
        """Probabilities [tokens, position] of each block of ``decode_stats``.

        And [block, position] float64 sums of the probabilities of all tokens before it.
        """
        if self._blocks is None:
            parts = [part.T.contiguous() for part in torch.split(self.probs, _DECODED, 1)]
            sums = torch.stack([part.sum(0, dtype=torch.float64) for part in parts]).cumsum(0)
            self._blocks = parts, torch.cat([torch.zeros_like(sums[:1]), sums])
        return self._blocks

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


@torch.no_grad()
def decode_stats(
    readout: Readout,
    normed: Tensor,
    k: int,
    targets: Tensor,
    final: Reference | None = None,
    which: Tensor | None = None,
) -> tuple[RowStats, Tensor | None]:
    """``row_stats`` of the model's own logits, and their KL, in one pass over the vocabulary.

    On the CPU some tokens are decoded at a time. Their maximum, sums and cross terms are taken
    while their logits are in the cache, which costs a tenth of the matrix product. The sums follow
    the largest logit so far ("online softmax", Milakov and Gimelshein 2018, arXiv 1805.02867).

    Args:
        readout: The model's readout.
        normed: [n, d_model] states after the final norm.
        k: How many candidates.
        targets: [n, m] token ids to score in each row; m may be 0.
        final: The reference of the KL; None: no KL.
        which: [n] the reference position of each row.

    Returns:
        The statistics, and [n] KL in nats, or None.
    """
    states = normed * readout.state_scale
    if not _decodes_in_blocks(readout, states, k):
        logits = readout.cap(readout.scores(states))
        stats = row_stats(logits, k, targets)
        found = None if final is None or which is None else final.kl_to(logits, stats, which)
        return stats, found
    running = _Running(len(states), int(readout.output_rows.shape[0]), final, which)
    for number in range(len(running.logits)):
        running.add(number, _decode(readout, states, number, running.logits[number]))
    return running.stats(k, targets), running.kl()


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
        final, which: As for ``decode_stats``.

    Attributes:
        logits: [block, n, _DECODED]; after the last token, minus infinity.
    """

    def __init__(
        self, rows: int, vocab: int, final: Reference | None, which: Tensor | None
    ) -> None:
        blocks = -(-vocab // _DECODED)
        self.logits = torch.empty(blocks, rows, _DECODED)
        self._best = torch.empty(rows, blocks, _DECODED // BLOCK)
        self._peak = torch.full((rows,), torch.finfo(torch.float32).min)
        self._total, self._mean, self._cross = torch.zeros(3, rows, dtype=torch.float64)
        self._shifted, self._weights = torch.empty(2, rows, _DECODED)
        self._final, self._which = final, which
        if final is not None:
            self._before = final.in_blocks()[1][:, which]

    def add(self, number: int, logits: Tensor) -> None:
        """Take the logits [n, tokens] of one block of tokens."""
        whole = self.logits[number].view(len(logits), -1, BLOCK)
        torch.amax(whole, -1, out=self._best[:, number])
        peak = torch.maximum(self._peak, self._best[:, number].amax(-1))
        rise = (peak - self._peak).double()
        shifted, weights = (array[:, : logits.shape[1]] for array in (self._shifted, self._weights))
        torch.sub(logits, peak[:, None], out=shifted)
        self._add_cross(number, shifted, rise)
        # Smaller probabilities are below float32's range, and 0 * -inf would be NaN.
        torch.exp(shifted.clamp_min_(_LEAST), out=weights)
        scale = rise.neg().exp_()
        self._mean.addcmul_(rise, self._total, value=-1.0).mul_(scale)
        self._total *= scale
        self._total += weights.sum(-1)
        self._mean += weights.mul_(shifted).sum(-1)
        self._peak = peak

    def _add_cross(self, number: int, shifted: Tensor, rise: Tensor) -> None:
        """Add ``sum p (x - peak)``, p the reference of each row."""
        if self._final is None or self._which is None:
            return
        probs, _ = self._final.in_blocks()
        self._cross -= self._before[number] * rise
        self._cross += (shifted @ probs[number]).gather(1, self._which[:, None])[:, 0]

    def stats(self, k: int, targets: Tensor) -> RowStats:
        """The statistics of all tokens."""
        values, ids = self._top_k(k)
        log_total = self._peak + self._total.log().float()
        entropy = (self._total.log() - self._mean / self._total).float()
        rows = torch.arange(len(ids))[:, None]
        target_logits = self.logits[targets // _DECODED, rows, targets % _DECODED]
        ranks = torch.zeros_like(targets)
        for column in range(targets.shape[1]):
            for block in self.logits:
                ranks[:, column] += _better(block, target_logits[:, column, None])
        return RowStats(ids, values, log_total, entropy, target_logits, ranks)

    def _top_k(self, k: int) -> tuple[Tensor, Tensor]:
        """Exact k largest of each row, from the groups of tokens with the k largest maxima."""
        best = self._best.flatten(1).topk(k, dim=-1).indices
        groups = self.logits.view(len(self.logits), len(best), -1, BLOCK)
        each = groups.shape[2]
        found = groups[best // each, torch.arange(len(best))[:, None], best % each].flatten(1)
        ids = (best[..., None] * BLOCK + torch.arange(BLOCK)).flatten(1)
        values, places = found.topk(k, dim=-1)
        return values, ids.gather(1, places)

    def kl(self) -> Tensor | None:
        """KL(reference || row) in nats, [n]; None without a reference."""
        if self._final is None or self._which is None:
            return None
        own: Tensor = self._final.negative_entropy[self._which]
        found: Tensor = (own - self._cross + self._total.log()).clamp_min(0.0).float()
        return found


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
