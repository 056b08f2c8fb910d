"""Edits in the selection, the predictions of an edited run, and what edits do to one token."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from analysis.contract.specs import Token
from analysis.errors import SpecError
from analysis.lens.results import Grid
from analysis.lens.specs import LensSpec
from analysis.tracing.edits import has_positions, parse, to_text
from analysis.tracing.specs import RunResult, TraceSpec

#: Before the short form of an edit that is switched off.
OFF = "~"


def canonical(text: str) -> str:
    """An edit of the selection in the one form that equal edits share.

    Raises:
        ValueError: If it is no edit.
    """
    off = OFF if text.startswith(OFF) else ""
    try:
        return off + to_text(parse(text.removeprefix(OFF)))
    except SpecError as error:
        raise ValueError(error.message) from error


def switched(edit: str) -> str:
    """The edit switched off, or on again."""
    return edit.removeprefix(OFF) if edit.startswith(OFF) else OFF + edit


def still_valid(edits: tuple[str, ...], changed: set[str]) -> tuple[str, ...]:
    """The edits after a request for another run: none for another model.

    For another prompt, those that name positions are switched off: their tokens are others now.

    Args:
        edits: Those before.
        changed: Which of model, prompt and template changed.
    """
    if "model" in changed:
        return ()
    if not changed:
        return edits
    named = (has_positions(parse(text.removeprefix(OFF))) for text in edits)
    pairs = zip(edits, named, strict=True)
    kept = (OFF + text.removeprefix(OFF) if fixed else text for text, fixed in pairs)
    return tuple(dict.fromkeys(kept))


def predicted(service: Any, baseline: RunResult, trace: TraceSpec) -> RunResult:
    """The baseline's tokens with the next-token predictions of an edited pass over them.

    Args:
        service: Computes; ``context.Service``.
        baseline: The run without edits.
        trace: The edited pass.
    """
    following = baseline.token_ids[1:]
    targets = tuple(dict.fromkeys(following))
    spec = LensSpec(k=baseline.top_ids.shape[1], target=targets, rows=(baseline.info.layers,))
    grid: Grid = service.ask(trace, spec)
    places = np.array([targets.index(token) for token in following], np.int64)
    at = np.arange(len(following))
    next_prob, next_rank = baseline.next_prob.copy(), baseline.next_rank.copy()
    next_prob[:-1], next_rank[:-1] = (
        values[0][at, places] for values in (grid.target_probs, grid.target_ranks)
    )
    return replace(
        baseline,
        top_ids=grid.token_ids[0],
        top_probs=grid.probs[0],
        next_prob=next_prob,
        next_rank=next_rank,
        entropy=grid.entropy[0],
        vocabulary=grid.vocabulary,
    )


@dataclass(frozen=True, slots=True)
class Change:
    """What the edits did to the baseline's best token at one position.

    Attributes:
        token: That token.
        before, after: Its probability in the baseline and in the edited run, 0 to 1.
        leader: The best token of the edited run.
    """

    token: Token
    before: float
    after: float
    leader: Token


def change(
    service: Any, baseline: RunResult, edited: RunResult, trace: TraceSpec, position: int
) -> Change:
    """What the edits did at a position.

    Args:
        service: Computes; ``context.Service``.
        baseline: The run without edits.
        edited: The run with them: see ``predicted``.
        trace: The edited pass.
        position: The position that predicts.
    """
    best, rows = int(baseline.top_ids[position, 0]), (baseline.info.layers,)
    spec = LensSpec(k=1, target=(best,), rows=rows, positions=(position,))
    after = float(service.ask(trace, spec).target_probs[0, 0, 0])
    known = {token.id: token for token in (*baseline.vocabulary, *edited.vocabulary)}
    leader = known[int(edited.top_ids[position, 0])]
    return Change(known[best], float(baseline.top_probs[position, 0]), after, leader)
