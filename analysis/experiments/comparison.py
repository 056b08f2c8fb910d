"""Two prompts under the logit lens: where their runs differ, on aligned tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analysis.contract import jobs
from analysis.contract.specs import resolve_index
from analysis.errors import PromptError, SpecError
from analysis.experiments.alignment import aligned
from analysis.experiments.cells import run
from analysis.experiments.prompts import read
from analysis.experiments.specs import ALIGNMENTS, FIELDS, PromptComparison, PromptSpec
from analysis.model.handle import Model
from analysis.store.memo import Memo
from analysis.tracing.tokens import describe_tokens, token_ids

#: Logits that are decoded at once.
_MOST = 4_000_000


def compare(
    model: Model,
    a: Any,
    b: Any,
    *,
    tokens: Any = None,
    alignment: str = "token",
    pairs: Sequence[str] = (),
) -> PromptComparison:
    """Decode two prompts' states on aligned tokens, and measure how they differ.

    Each state is read by the logit lens (nostalgebraist, 2020). The last positions, which predict
    the answer, are always compared with each other.

    Args:
        model: From ``load_model``.
        a: A prompt: text or token ids.
        b: Another one.
        tokens: Tokens whose probabilities are followed, as ids or texts, one or several; the top
            tokens of the two runs unless given.
        alignment: "token": equal tokens, by a longest common subsequence (``align``); "position":
            prompts of equal length.
        pairs: Changes of the alignment: "3-5" makes position 3 of ``a`` and 5 of ``b`` partners;
            "3-" leaves 3 without a partner.

    Returns:
        A PromptComparison: KL divergence and probabilities for each row and pair of positions.

    Raises:
        PromptError: If a prompt is invalid, or a text is not one token.
        SpecError: If the prompts have no token in common, or lengths that differ, or a token does
            not exist.
        CancelledError: If the caller's progress listener stops the work.
    """
    ids = [read(model, name, one) for name, one in (("a", a), ("b", b))]
    ALIGNMENTS.check(alignment)
    return _compare(model, ids, _tokens(model, tokens), alignment, tuple(pairs))


def compute(
    model: Model, spec: PromptSpec, _memo: Memo | None = None, longest: int | None = None
) -> PromptComparison:
    """The comparison of a spec, a technique of ``analysis.registry``; see ``compare``."""
    ids = [read(model, name, one, longest) for name, one in (("a", spec.a), ("b", spec.b))]
    return _compare(model, ids, _tokens(model, spec.tokens), spec.alignment, spec.pairs)


def _tokens(model: Model, tokens: Any) -> tuple[int, ...]:
    try:
        return token_ids(model.tokenizer, tokens)
    except PromptError as error:
        raise PromptError(f"{FIELDS['tokens']} {error.message}", error.hint) from error


@torch.no_grad()
def _compare(
    model: Model,
    ids: list[tuple[int, ...]],
    tokens: tuple[int, ...],
    alignment: str,
    changes: tuple[str, ...],
) -> PromptComparison:
    pairs = _pairs(aligned(alignment, changes, *ids), *ids)
    rows = range(model.info.layers + 1)
    runs = [run(model, own, [("row", row) for row in rows]) for own in ids]
    tops = [int(one.logits.argmax()) for one in runs]
    vocab = int(runs[0].logits.shape[-1])
    followed = tuple(resolve_index("Token", one, vocab) for one in tokens or dict.fromkeys(tops))
    shape, at_once = (len(rows), len(pairs)), max(_MOST // vocab, 1)
    divergence = np.empty((2, *shape), np.float32)
    probs = np.empty((2, *shape, len(followed)), np.float32)
    best = np.empty((2, *shape), np.int64)
    for row in rows:
        states = [
            one.states["row", row][0][[pair[side] for pair in pairs]]
            for side, one in enumerate(runs)
        ]
        for first in range(0, len(pairs), at_once):
            where = slice(first, first + at_once)
            logs = [_decoded(model, one[where]) for one in states]
            for side, (own, other) in enumerate((logs, logs[::-1])):
                divergence[side, row, where] = (own.exp() * (own - other)).sum(-1).numpy()
                probs[side, row, where] = own[:, list(followed)].exp().numpy()
                best[side, row, where] = own.argmax(-1).numpy()
        jobs.step(row + 1, len(rows), "Comparing rows")
        jobs.pause()
    shown = tuple(dict.fromkeys([*followed, *best.reshape(-1).tolist()]))
    a, b, vocabulary = (describe_tokens(model.tokenizer, one) for one in (*ids, shown))
    return PromptComparison(
        np.array(pairs, np.int64), divergence[0], divergence[1], followed, probs[0], probs[1],
        best[0], best[1], a, b, vocabulary,
    )  # fmt: skip


def _pairs(
    pairs: tuple[tuple[int, int], ...], a: tuple[int, ...], b: tuple[int, ...]
) -> list[tuple[int, int]]:
    """Aligned positions; the last positions of both prompts are a pair.

    Raises:
        SpecError: If the prompts have no token in common.
    """
    if not pairs:
        raise SpecError("The prompts have no token in common.", "Choose prompts that differ less.")
    last = (len(a) - 1, len(b) - 1)
    return [*(pair for pair in pairs if pair[0] < last[0] and pair[1] < last[1]), last]


def _decoded(model: Model, states: Tensor) -> Tensor:
    """[n, vocab] log-probabilities of states by the logit lens, float64 on the CPU."""
    readout = model.readout
    states = states.to(readout.device, readout.output_rows.dtype)
    return readout.logits(states).cpu().double().log_softmax(-1)
