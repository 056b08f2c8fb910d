"""What happens inside when an answer is wrong: beside the likest prompt answered rightly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from analysis import progress
from analysis.capture import Trace, trace
from analysis.models.handle import Model
from analysis.parts import has_heads, head_output
from analysis.results.base import Floats
from analysis.results.failures import Answered, FailureReport, Parting
from analysis.results.tasks import Outcome
from analysis.store import Memo
from analysis.tasks import flow_change, outcomes
from analysis.tasks.emergence import finished
from analysis.tasks.prompts import Encoded, Suite, encode

#: A state "differs" where its distance to the other exceeds this share of the larger norm.
APART = 0.5


def report(
    model: Model,
    suite: Suite,
    memo: Memo | None = None,
    *,
    most: int = 5,
    encoded: Sequence[Encoded] | None = None,
) -> FailureReport:
    """Pair wrong answers with the likest right ones, and see where the runs part ways.

    The likest right prompt has the same number of tokens and the fewest different ones before
    the token at which the wrong answer first goes wrong.

    Args:
        model: From ``analysis.load_model``.
        suite: What is asked.
        memo: Where finished prompts are kept.
        most: Pairs, the likest first.
        encoded: The suite's prompts as tokens, where they are at hand.

    Raises:
        CancelledError: If the caller's progress listener stops the work.
    """
    if encoded is None:
        encoded = [encode(model.tokenizer, prompt) for prompt in suite.prompts]
    found = outcomes.run(model, encoded, memo)
    right = [n for n, outcome in enumerate(found) if finished(model, outcome)]
    wrong = [n for n, outcome in enumerate(found) if not outcome.right]
    pairs = sorted(_pairs(found, right, wrong))
    made = []
    for number, (_, good, bad) in enumerate(pairs[:most], 1):
        made.append(_part(model, suite, found, good, bad))
        progress.step(number, min(len(pairs), most), "Comparing right and wrong")
    alone = len(wrong) - len(pairs)
    return FailureReport(tuple(made), len(right), len(found) - len(right), alone, len(pairs))


def _pairs(
    found: Sequence[Outcome], right: Sequence[int], wrong: Sequence[int]
) -> list[tuple[int, int, int]]:
    """(different tokens, right, wrong) for each wrong prompt that has one of its shape."""
    made = []
    for bad in wrong:
        mine = found[bad]
        stop = mine.start + mine.hits.index(False)
        distances = [
            (
                sum(
                    x != y for x, y in zip(mine.token_ids[:stop], found[n].token_ids, strict=False)
                ),
                n,
            )
            for n in right
            if found[n].start == mine.start and len(found[n].token_ids) == len(mine.token_ids)
        ]
        if distances:
            distance, good = min(distances)
            made.append((distance, good, bad))
    return made


def _part(model: Model, suite: Suite, found: Sequence[Outcome], good: int, bad: int) -> Parting:
    token = found[bad].hits.index(False)
    position = found[bad].start + token - 1
    runs = []
    for n in (good, bad):
        runs.append(trace(model, found[n].token_ids[: position + 1]))
        progress.pause()
    one, other = runs
    rows = _apart(one.resid, other.resid)
    same = np.array([x == y for x, y in zip(one.token_ids, other.token_ids, strict=True)])
    differs = np.argwhere((rows > APART) & same[None])
    return Parting(
        good,
        bad,
        token,
        rows,
        _heads(model, one, other, position),
        _apart(one.mlp_out[:, position], other.mlp_out[:, position]),
        found[good].right_probs[:, token],
        found[bad].right_probs[:, token],
        (int(differs[0][0]), int(differs[0][1])) if len(differs) else None,
        flow_change.compare(model, one, other),
        tuple(token.text for token in one.tokens),
        tuple(token.text for token in other.tokens),
        _answered(model, suite, found, good),
        _answered(model, suite, found, bad),
    )


def _answered(model: Model, suite: Suite, found: Sequence[Outcome], place: int) -> Answered:
    asked, outcome = suite.prompts[place], found[place]
    stop = outcome.hits.index(False) + 1 if not outcome.right else len(outcome.hits)
    said = model.tokenizer.decode(outcome.choices[:stop].tolist())
    return Answered(asked.text, asked.answer, said, len(outcome.right_ids))


def _apart(one: Any, other: Any) -> Floats:
    """[...] distance of states [..., d_model] over the larger of the two norms."""
    size = np.maximum(np.linalg.norm(one, axis=-1), np.linalg.norm(other, axis=-1))
    distance: Floats = (np.linalg.norm(one - other, axis=-1) / np.maximum(size, 1e-12)).astype(
        np.float32
    )
    return distance


@torch.no_grad()
def _heads(model: Model, one: Trace, other: Trace, position: int) -> Floats:
    apart = np.full((model.info.layers, model.info.heads), np.nan, np.float32)
    for layer in range(model.info.layers):
        if has_heads(model, layer):
            states = [head_output(model, run, layer)[:, position].numpy() for run in (one, other)]
            apart[layer] = _apart(*states)
            progress.pause()
    return apart
