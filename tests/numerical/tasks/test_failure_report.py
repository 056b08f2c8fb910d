"""A wrong and a right answer, against both runs of the plain model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import analysis
from analysis.tasks import failure_report
from analysis.tasks.suites import Suite, TaskPrompt, encode
from tests.numerical import reference
from tests.numerical.conftest import Case
from tests.numerical.lens.test_grid import softmax
from tests.numerical.tasks.test_reports_from_plain_model import OWN, Said, formed, lens


@pytest.fixture(scope="module")
def case(adder: Any) -> Case:
    return Case(adder, analysis.trace(adder, "1+1="))


def apart(one: np.ndarray, other: np.ndarray) -> float:
    sizes = [float(np.sqrt((state**2).sum())) for state in (one, other)]
    return float(np.sqrt(((one - other) ** 2).sum())) / max(sizes)


def assert_parts(pair: Any, one: reference.Slow, other: reference.Slow) -> None:
    """The outputs of heads and MLPs at the last position, compared."""
    for layer in range(2):
        heads = [
            apart(one.vectors[layer][head, -1].sum(0), other.vectors[layer][head, -1].sum(0))
            for head in range(4)
        ]
        np.testing.assert_allclose(pair.heads[layer], heads, atol=1e-4)
        mlps = apart(one.mlp[layer][-1], other.mlp[layer][-1])
        assert pair.mlps[layer] == pytest.approx(mlps, abs=1e-4)


def test_a_failure_by_the_plain_model(adder: Any, case: Case) -> None:
    found = failure_report.report(adder, OWN)
    assert (found.right, found.wrong, len(found.pairs)) == (4, 2, 2)
    prompts = [encode(adder.tokenizer, one) for one in OWN.prompts]
    for pair in found.pairs:
        said = Said(case, prompts[pair.wrong])
        assert pair.token == said.first_wrong
        stop = prompts[pair.wrong].start + pair.token
        bad = prompts[pair.wrong].token_ids[:stop]
        differ = {
            n: sum(x != y for x, y in zip(prompts[n].token_ids[:stop], bad, strict=True))
            for n in range(4)
        }
        assert differ[pair.right] == min(differ.values())
        good = prompts[pair.right].token_ids[:stop]
        one, other = (formed(adder.hf, ids) for ids in (good, bad))
        distances = np.array(
            [[apart(x, y) for x, y in zip(*rows, strict=True)] for rows in zip(one.rows, other.rows,
                                                                              strict=True)]
        )  # fmt: skip
        np.testing.assert_allclose(pair.rows, distances, atol=1e-4)
        far = [
            (row, pos)
            for row in range(3)
            for pos in range(stop)
            if distances[row, pos] > 0.5 and good[pos] == bad[pos]
        ]
        assert pair.first == (far[0] if far else None)
        assert_parts(pair, one, other)
        for slow, n, probs in (
            (one, pair.right, pair.right_probs), (other, pair.wrong, pair.wrong_probs),
        ):  # fmt: skip
            token = prompts[n].token_ids[stop]
            wanted = [softmax(lens(case, row[-1]))[token] for row in slow.rows]
            np.testing.assert_allclose(probs, wanted, rtol=1e-3, atol=1e-6)


def test_a_failures_partner_counts_and_words(adder: Any) -> None:
    """The most similar sum up to the wrong token (the first of equals); others are counted."""
    prompts = tuple(
        TaskPrompt(text, answer)
        for text, answer in (
            ("12345+11111=", "023456"),  # one digit of the first operand differs
            (
                "12346+11131=",
                "023477",
            ),  # one digit of the second operand differs, which comes later
            ("12346+11111=", "023999"),
            ("12345+11111=", "02399"),  # no right answer is so short
            ("12345+11111=", "02345"),  # the whole answer, and one more digit
        )
    )
    found = failure_report.report(adder, Suite("x", "x", prompts))
    assert (found.right, found.wrong, found.unpaired, found.paired) == (2, 3, 1, 1)
    (pair,) = found.pairs
    assert (pair.right, pair.wrong, pair.token) == (0, 2, 3)
    assert pair.right_prompt is not None
    assert pair.wrong_prompt is not None
    assert (pair.right_prompt.written, pair.wrong_prompt.written) == ("023456", "0234")
    assert (pair.right_prompt.answer, pair.wrong_prompt.answer) == ("023456", "023999")
    assert pair.wrong_prompt.length == 6
