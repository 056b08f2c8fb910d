"""Statistics over the vocabulary, against float64 on whole rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from analysis.model.readout import NormForm, Readout
from analysis.tracing.vocabulary import Reference, decode_stats, row_stats, top_k


@pytest.mark.parametrize("vocab", [5, 300, 256 * 40, 256 * 40 + 17])
def test_top_k_is_exact(vocab: int) -> None:
    logits = torch.randn(11, vocab, generator=torch.Generator().manual_seed(vocab))
    values, found = top_k(logits, 5)
    wanted = logits.topk(5, -1)
    assert torch.equal(values, wanted.values)
    assert torch.equal(found, wanted.indices)


def test_entropy_where_probabilities_underflow() -> None:
    logits = torch.full((1, 600), -1e30)
    logits[0, 3] = 5.0
    stats = row_stats(logits, 2, torch.tensor([[3]]))
    assert float(stats.entropy) == 0.0
    assert float(stats.target_probs) == 1.0


def test_kl_keeps_the_small_terms_of_a_large_vocabulary() -> None:
    """Added one by one in float32, 50,000 small terms vanish beside a large sum."""
    own, read = torch.randn(2, 6, 50_000, generator=torch.Generator().manual_seed(2))
    own[:, 0], read[:, 1] = 12.0, 120.0
    stats, which = row_stats(read, 1, torch.zeros(6, 0, dtype=torch.long)), torch.arange(6)
    found = Reference.of(own).kl_to(read, stats, which)
    p, q = torch.log_softmax(own.double(), -1), torch.log_softmax(read.double(), -1)
    np.testing.assert_allclose(found, (p.exp() * (p - q)).sum(-1), rtol=2e-6)


@pytest.mark.parametrize("vocab", [256 * 40, 256 * 40 + 17, 300])
@pytest.mark.parametrize("cap", [None, 20.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_statistics_in_one_pass(vocab: int, cap: float | None, dtype: torch.dtype) -> None:
    """Against float64 on the whole row; the largest logit grows from block to block."""
    make = torch.Generator().manual_seed(vocab)
    head = torch.nn.Linear(16, vocab, dtype=dtype)
    head.weight.data = (torch.randn(vocab, 16, generator=make) * 3).to(dtype)
    head.bias.data = torch.linspace(-20, 20, vocab).to(dtype)
    form = NormForm("none", torch.ones(16), torch.zeros(16), 0.0)
    readout = Readout(None, form, head, torch.nn.Embedding(vocab, 16), softcap=cap)
    states = torch.randn(9, 16, generator=make).to(dtype)
    targets = torch.randint(0, vocab, (9, 2), generator=make)
    own, which = torch.randn(4, vocab, generator=make), torch.arange(9) % 4
    stats, kl = decode_stats(readout, states, 5, targets, Reference.of(own), which)
    assert kl is not None
    logits = readout.logits(states).double().detach()
    q, p = torch.log_softmax(logits, -1), torch.log_softmax(own.double(), -1)[which]
    np.testing.assert_allclose(stats.log_total, logits.logsumexp(-1), rtol=1e-6)
    np.testing.assert_allclose(stats.entropy, -(q.exp() * q).sum(-1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(kl, (p.exp() * (p - q)).sum(-1), rtol=2e-6)
    np.testing.assert_allclose(stats.values, logits.topk(5, -1).values, rtol=1e-6)
    np.testing.assert_allclose(logits.gather(1, stats.ids), stats.values, rtol=1e-6)
    np.testing.assert_allclose(stats.target_probs, q.gather(1, targets).exp(), 2e-5, 1e-30)
    # Equal logits do not count, and rounding may part those that are nearly equal.
    for column in range(2):
        wanted = logits.gather(1, targets)[:, column, None]
        least = (logits > wanted + 1e-5).sum(-1)
        most = (logits > wanted - 1e-5).sum(-1)
        ranks = stats.target_ranks[:, column]
        assert bool((least <= ranks).all() and (ranks <= most).all())


def test_tokens_of_probability_zero_add_nothing_in_one_pass() -> None:
    vocab = 256 * 40
    head = torch.nn.Linear(4, vocab)
    head.bias.data[: vocab // 2] = -torch.inf
    form = NormForm("none", torch.ones(4), torch.zeros(4), 0.0)
    readout = Readout(None, form, head, torch.nn.Embedding(vocab, 4))
    stats, _ = decode_stats(readout, torch.ones(3, 4), 2, torch.zeros(3, 1, dtype=torch.long))
    logits = readout.logits(torch.ones(3, 4)).detach().double()[:, vocab // 2 :]
    log_probs = torch.log_softmax(logits, -1)
    np.testing.assert_allclose(stats.entropy, -(log_probs.exp() * log_probs).sum(-1), rtol=1e-5)
    assert stats.target_ranks[:, 0].tolist() == [vocab // 2] * 3
