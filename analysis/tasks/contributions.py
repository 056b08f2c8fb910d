"""What writes each digit of a sum, and which operand digits each head reads for it.

The token is the right digit and the foil is the digit that the other carry would give. A
contribution to their difference is a component's effect on the carry; constants that all digits
share cancel.
"""

from __future__ import annotations

import numpy as np

from analysis.attribution.direct import attribute_logit
from analysis.attribution.specs import Attribution
from analysis.contract import jobs
from analysis.model.handle import Model
from analysis.store.memo import Memo
from analysis.tasks.batch import states
from analysis.tasks.sum_specs import ContributionReport, ContributionSpec
from analysis.tasks.sum_table import Table, table_for_model


def report(model: Model, sums: Table) -> ContributionReport:
    """Average attribution and attention over sums, by answer column and carry.

    Args:
        model: From ``analysis.load_model``.
        sums: From ``sum_table``.

    Raises:
        CancelledError: If the caller's progress listener stops the work.
    """
    found: dict[tuple[int, int], list[Attribution]] = {}
    columns = [column for column in range(len(sums.answers)) if column <= sums.digits]
    info, length = model.info, len(sums.places)
    attention = np.zeros((len(columns), info.layers, info.heads, length))
    for batch in states(model, sums.token_ids, label="Attributing digits"):
        for place, trace in batch.traces(model):
            for column in columns:
                position = sums.answers[column] - 1
                carry = int(sums.carry[place, column])
                token, foil = _token_and_foil(model, sums, place, column, carry)
                attribution = attribute_logit(model, trace, position, token, foil)
                found.setdefault((column, carry), []).append(attribution)
                for layer in range(info.layers):
                    pattern = trace.pattern_of(layer)[:, position]
                    attention[column, layer, : len(pattern)] += pattern
            jobs.pause()
    return _averages(model, sums, columns, found, attention / len(sums.a))


def _token_and_foil(
    model: Model, sums: Table, place: int, column: int, carry: int
) -> tuple[int, int]:
    """Tokens of the right digit and of the digit that the other carry would give."""
    right = int(sums.a[place] + sums.b[place]) // 10**column % 10
    other = (right + (-1 if carry else 1)) % 10
    token = sums.encoded[place].token_ids[sums.answers[column]]
    ids = model.tokenizer(str(other), add_special_tokens=False)["input_ids"]
    return token, int(ids[-1])


def _averages(
    model: Model,
    sums: Table,
    columns: list[int],
    found: dict[tuple[int, int], list[Attribution]],
    attention: np.ndarray,
) -> ContributionReport:
    layers, heads = model.info.layers, model.info.heads
    shape = (len(columns), 2)
    counts = np.zeros(shape, np.int64)
    by_head = np.full((*shape, layers, heads), np.nan, np.float32)
    spread, by_mlp = by_head.copy(), np.full((*shape, layers), np.nan, np.float32)
    embedding = np.full(shape, np.nan, np.float32)
    for (column, carry), own in found.items():
        parts = np.stack([one.heads for one in own])
        counts[column, carry] = len(own)
        by_head[column, carry] = parts.mean(0)
        spread[column, carry] = _half_interval(parts)
        by_mlp[column, carry] = np.stack([one.mlps for one in own]).mean(0)
        embedding[column, carry] = np.mean([one.embedding for one in own])
    return ContributionReport(
        np.array(columns, np.int64), sums.places, counts, by_head, by_mlp, embedding, spread,
        attention.astype(np.float32),
        np.array([sums.answers[column] - 1 for column in columns], np.int64),
        sums.texts, sums.carry[:, : len(columns)], sums.length,
    )  # fmt: skip


def _half_interval(parts: np.ndarray) -> np.ndarray:
    """[...] half a 95 % interval of the mean over the first axis; NaN for a single entry."""
    if len(parts) < 2:
        return np.full(parts.shape[1:], np.nan)
    half: np.ndarray = 1.96 * parts.std(0, ddof=1) / np.sqrt(len(parts))
    return half


def compute(
    model: Model, spec: ContributionSpec, _memo: Memo | None = None, _longest: int | None = None
) -> ContributionReport:
    """What writes each digit of the sums of a spec."""
    return report(model, table_for_model(model, spec.digits, spec.sums, spec.seed))
