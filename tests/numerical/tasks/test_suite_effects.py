"""Checks of a whole suite against a loop over the checks of single prompts."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

import analysis
from analysis.errors import SpecError
from analysis.flow_graph import causal_check
from analysis.flow_graph.specs import CausalSpec, ComparisonSpec, FlowSpec
from analysis.model.handle import Model
from analysis.tasks import suite_effects, suites
from analysis.tasks.suite_effects import SuiteEffectSpec, median
from tests.numerical.conftest import Case

METHODS = ("attention", "effect")


def by_hand(
    model: Model, suite: Any, limit: int, per_head: bool
) -> tuple[list[Any], dict[Any, Any]]:
    """Each prompt's correlations, and the effects of each role, prompt by prompt."""
    correlations, roles = [], defaultdict(list)
    for prompt in suite.prompts:
        encoded = suites.encode(model.tokenizer, prompt)
        run = analysis.trace(model, encoded.token_ids[: encoded.start])
        foil = encoded.foil_ids[0]  # -1: the first token does not differ
        token = encoded.token_ids[encoded.start]
        spec = CausalSpec(
            FlowSpec(exact=True), token=token, foil=foil if foil >= 0 else None, limit=limit
        )
        check = causal_check.compare(model, run, ComparisonSpec(spec, METHODS, per_head))
        correlations.append(check.correlations)
        names = {
            place: name for name, places in reversed(encoded.places.items()) for place in places
        }
        names |= {encoded.start - 1: "last token"}
        sums: dict[Any, float] = defaultdict(float)
        for n in range(len(check.kind)):
            where = [
                names.get(int(pos), "other" if pos else "first token")
                for pos in (check.source_pos[n], check.target_pos[n])
            ]
            key = (int(check.kind[n]), int(check.layer[n]), int(check.head[n]), *where)
            sums[key] += float(check.effect[n])
        for key, value in sums.items():
            roles[key].append(value)
    return correlations, roles


@pytest.mark.parametrize(
    ("name", "per_head"), [("indirect-objects", False), ("induction", True), ("addition", False)]
)
def test_a_suite_is_the_median_of_its_prompts(llama: Case, name: str, per_head: bool) -> None:
    model, size, limit = llama.model, 7, 5
    found = suite_effects.suite_effects(
        model, name, size=size, digits=2, methods=METHODS, limit=limit, per_head=per_head
    )
    suite = suites.build(name, size, 0, 2)
    correlations, roles = by_hand(model, suite, limit, per_head)
    assert found.prompts == tuple(prompt.text for prompt in suite.prompts)
    assert found.methods == METHODS
    assert_allclose(found.correlations, np.array(correlations).T, atol=1e-6)
    assert_allclose(found.median, np.nanmedian(correlations, axis=0), atol=1e-6)
    keys = list(
        zip(found.kind.tolist(), found.layer.tolist(), found.head.tolist(), found.sources,
            found.targets, strict=True)
    )  # fmt: skip
    assert set(keys) == set(roles)
    assert len(keys) == len(roles) > 3
    for at, key in enumerate(keys):
        assert found.count[at] == len(roles[key])
        assert found.effect[at] == pytest.approx(np.median(roles[key]), abs=1e-6)
        inside = sorted(roles[key])
        if len(inside) == 7:  # the chance of all seven on one side is 1 in 64
            assert_allclose([found.effect_low[at], found.effect_high[at]], inside[::6], atol=1e-6)
        if len(inside) < 6:
            assert math.isnan(found.effect_low[at])
    assert np.isfinite(found.flow).all()


def test_the_interval_of_a_median_holds_it_as_often_as_it_says() -> None:
    assert median([3.0, float("nan"), 1.0])[0] == 2.0
    assert all(math.isnan(one) for one in median([]))
    assert median(range(6))[1:] == (0.0, 5.0)
    assert median(range(9))[1:] == (1.0, 7.0)
    rng = np.random.default_rng(0)
    draws = np.sort(rng.exponential(size=(4000, 25)), 1)
    held = [low <= math.log(2) <= high for _, low, high in map(median, draws)]
    assert 0.95 < np.mean(held) < 0.975


def test_a_built_circuit_is_found_by_role() -> None:
    model = analysis.load_model("copy-by-hand")
    text = "\n".join(
        f'{{"prompt": "{a}{b}*{c}=", "answer": "{b}", "foil": "{a}"}}'
        for a, b, c in ("abc", "cde", "hgf", "bad", "ceg", "dfh", "efg")
    )
    spec = SuiteEffectSpec(model.info.name, "own", 7, content=text, limit=3, per_head=True)
    found = suite_effects.compute(model, spec)
    assert [found.name(at) for at in found.order[:2]] == [
        "head 0.0 from other to other", "head 1.1 from other to last token",
    ]  # fmt: skip
    assert (found.count[found.order[:2]] == 7).all()
    assert (found.effect_low[found.order[:2]] > 9).all()


def test_what_no_prompt_has_is_refused(llama: Case) -> None:
    with pytest.raises(SpecError, match="No answer of the suite has a token 40"):
        suite_effects.suite_effects(llama.model, "induction", size=2, answer=40)
    with pytest.raises(SpecError, match="can't be checked"):
        suite_effects.suite_effects(llama.model, "induction", size=0)
    with pytest.raises(SpecError, match="no suite"):
        suite_effects.suite_effects(llama.model, "nothing")
