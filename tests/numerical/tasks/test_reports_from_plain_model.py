"""Numbers of the tasks against the plain model, one prompt at a time."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import analysis
from analysis.errors import AnalysisError
from analysis.tasks import carry_patching, probes, suite_files, suite_report, sum_table
from analysis.tasks.suite_specs import SuiteSpec
from analysis.tasks.suites import Encoded, Suite, TaskPrompt, encode
from analysis.tasks.sum_table import Component
from tests.numerical import reference
from tests.numerical.conftest import Case
from tests.numerical.lens.test_grid import matrices, slow_norm
from tests.numerical.views.test_page_numbers import direct

NAME = "addition-5digit"
#: Four sums, then answers that the adder does not give: one with a non-digit, and two with a wrong
#: digit, one of them in a sum similar to the first.
OWN = Suite(
    "x", "x",
    tuple(
        TaskPrompt(text, answer, labels=(("kind", kind),))
        for text, answer, kind in (
            ("12345+11111=", "023456", "easy"), ("99999+00001=", "100000", "hard"),
            ("54321+06789=", "061110", "hard"), ("40404+50505=", "090909", "easy"),
            ("12346+11111=", "023999", "easy"), ("70007+10001=", "080018", "hard"),
        )
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def case(adder: Any) -> Case:
    return Case(adder, analysis.trace(adder, "1+1="))


@cache
def formed(hf: Any, ids: tuple[int, ...]) -> reference.Slow:
    return reference.forward(hf, ids)


def lens(case: Case, state: np.ndarray) -> np.ndarray:
    """[vocab] logits of the plain lens."""
    return matrices(case)[1] @ slow_norm(case, state, "full")


# -- emergence ---------------------------------------------------------------------------------


def staying(ranks: list[int]) -> int | None:
    return min((row for row in range(len(ranks)) if not any(ranks[row:])), default=None)


class Said:
    """The plain model's choice at one prompt's answer tokens, and the row of any token there."""

    def __init__(self, case: Case, prompt: Encoded) -> None:
        self.case, self.prompt = case, prompt
        self.slow = formed(case.model.hf, prompt.token_ids)
        self.right = list(prompt.token_ids[prompt.start :])
        self.choices = [int(self.logits(k)[-1].argmax()) for k in range(len(self.right))]
        hits = [a == b for a, b in zip(self.choices, self.right, strict=True)]
        self.first_wrong = hits.index(False) if not all(hits) else None

    def logits(self, k: int) -> list[np.ndarray]:
        at = self.prompt.start - 1 + k
        return [lens(self.case, row[at]) for row in self.slow.rows]

    def row(self, k: int, token: int) -> int | None:
        """The first row from which a token ranks first at answer token ``k``."""
        return staying([int((one > one[token]).sum()) for one in self.logits(k)])

    @property
    def spoken(self) -> range:
        """The answer tokens up to the first wrong one."""
        last = len(self.right) if self.first_wrong is None else self.first_wrong + 1
        return range(last)


def by_row(rows: list[int | None], last: int) -> list[float]:
    return [sum(r is not None and r <= row for r in rows) / len(rows) for row in range(last + 1)]


def test_emergence_and_accuracy_by_the_plain_model(adder: Any, case: Case) -> None:
    asked = SuiteSpec(NAME, "own", content=suite_files.as_lines(OWN), title="mine")
    found = suite_report.compute(adder, asked)
    prompts = [encode(adder.tokenizer, one) for one in OWN.prompts]
    said = [Said(case, prompt) for prompt in prompts]
    good = [one for one in said if one.first_wrong is None]
    bad = [one for one in said if one.first_wrong is not None]
    assert (len(good), len(bad)) == (4, 2)
    assert found.right.tolist() == [one.first_wrong is None for one in said]
    assert (found.emergence.accuracy.hits, found.emergence.accuracy.total) == (4, 6)
    groups = {one.name: (one.hits, one.total) for one in found.emergence.by_label}
    assert groups == {"kind easy": (2, 3), "kind hard": (2, 3)}
    for one, mean in zip(said, found.rows, strict=True):
        rows = [one.row(k, one.choices[k]) for k in one.spoken]
        assert mean == pytest.approx(np.mean([row for row in rows if row is not None]))
    foils = suite_report.with_equal_foils(prompts, 0)
    mixed = [Said(case, prompt) for prompt in suite_report.shuffled(prompts, 0)]
    wanted = [
        [one.row(k, one.choices[k]) for one in good for k in range(6)],
        [one.row(one.first_wrong, one.choices[one.first_wrong]) for one in bad],
        [one.row(one.first_wrong, one.right[one.first_wrong]) for one in bad],
        [one.row(k, foil) for one, prompt in zip(said, foils, strict=True)
         for k, foil in enumerate(prompt.foil_ids) if foil >= 0],
        [one.row(k, one.right[k]) for one in mixed for k in range(6)],
    ]  # fmt: skip
    for curve, rows in zip(found.emergence.curves, wanted, strict=True):
        came = [row for row in rows if row is not None]
        assert (curve.count, curve.never) == (len(rows), len(rows) - len(came)), curve.name
        np.testing.assert_allclose(curve.by_row, by_row(rows, 2), atol=1e-6, err_msg=curve.name)
        assert curve.mean == pytest.approx(np.mean(came) if came else np.nan, nan_ok=True)
    digits = {curve.name: curve for curve in found.emergence.by_digit}
    for k in range(6):
        rows = [one.row(k, one.choices[k]) for one in good]
        assert digits[f"token {k}: right"].rows.tolist() == rows
    wrongs = {f"token {one.first_wrong}: wrong" for one in bad}
    assert {name for name in digits if "wrong" in name} == wrongs


# -- contributions -----------------------------------------------------------------------------


def test_contributions_by_the_plain_model(adder: Any, case: Case) -> None:
    """Each part's vector times the unembedding, with the norm's scale frozen; means over sums."""
    sums = sum_table.random_sums(adder, 8, 3, 5, padded=True)
    found = sum_table.report(adder, sums)
    parts: dict[tuple[int, int], list[tuple[np.ndarray, np.ndarray, float]]] = {}
    seen = np.zeros(found.attention.shape)
    for n, (a, b) in enumerate(zip(sums.a.tolist(), sums.b.tolist(), strict=True)):
        slow = formed(adder.hf, sums.encoded[n].token_ids)
        for place, column in enumerate(found.columns.tolist()):
            at = 17 - column - 1
            carry = int(a % 10**column + b % 10**column >= 10**column)
            digit = (a + b) // 10**column % 10
            other = (digit - 1 if carry else digit + 1) % 10
            along = direct(case, slow, at, digit) - direct(case, slow, at, other)
            heads = np.array([[head[at].sum(0) @ along for head in v] for v in slow.vectors])
            mlps = np.array([mlp[at] @ along for mlp in slow.mlp])
            start = float(slow.rows[0][at] @ along)
            parts.setdefault((place, carry), []).append((heads, mlps, start))
            seen[place] += np.stack(slow.patterns)[:, :, at] / len(sums.a)
    for (place, carry), own in parts.items():
        assert found.counts[place, carry] == len(own)
        heads, mlps, start = (np.stack([one[part] for one in own]) for part in range(3))
        np.testing.assert_allclose(found.heads[place, carry], heads.mean(0), atol=2e-4)
        np.testing.assert_allclose(found.mlps[place, carry], mlps.mean(0), atol=2e-4)
        assert found.embedding[place, carry] == pytest.approx(start.mean(), abs=2e-4)
        half = found.spread[place, carry]
        if len(own) == 1:  # nothing is known from one sum
            assert np.isnan(half).all()
            continue
        error = 1.96 * heads.std(0, ddof=1) / np.sqrt(len(own))
        np.testing.assert_allclose(half, error, rtol=1e-3, atol=2e-4)
    assert found.counts.sum() == 8 * len(found.columns)
    np.testing.assert_allclose(found.attention, seen, atol=1e-5)


# -- probes and projections --------------------------------------------------------------------


def states_of(adder: Any, sums: sum_table.Table, name: str, at: int) -> np.ndarray:
    """[sum, d_model] of one component at one position."""
    kind, _, where = name.partition(" ")
    layer, _, head = where.partition(".")
    made = []
    for one in sums.encoded:
        slow = formed(adder.hf, one.token_ids)
        if kind == "head":
            made.append(slow.vectors[int(layer)][int(head), at].sum(0))
        else:
            table = {"row": slow.rows, "mlp": slow.mlp, "attention": slow.attn}[kind]
            made.append(table[int(layer)][at])
    return np.stack(made)


def ridge(states: np.ndarray, target: np.ndarray, fit: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Least squares with the penalty as further rows, instead of the normal equations."""
    spread = states[fit].std(0, ddof=1) + 1e-6
    known = (states - states[fit].mean(0)) / spread
    offset = target[fit].mean(0)
    penalty = np.sqrt(probes.RIDGE * len(fit)) * np.eye(states.shape[1])
    rows = np.concatenate([known[fit], penalty])
    right = np.concatenate([target[fit] - offset, np.zeros((len(penalty), target.shape[1]))])
    return known[test] @ np.linalg.lstsq(rows, right, rcond=None)[0] + offset


def accuracies(fitted: np.ndarray, true: np.ndarray, *, carry: bool) -> float:
    if not carry:
        return float(np.mean(fitted.argmax(1) == true))
    said = fitted[:, 0] > 0
    return float(np.mean([np.mean(said[true == kind] == kind) for kind in (0, 1)]))


@pytest.mark.parametrize(("target", "row", "place"), [("carry2", 1, ""), ("carry1", 2, "answer5")])
def test_a_probe_direction_raises_the_prediction_by_one(
    adder: Any, target: str, row: int, place: str
) -> None:
    found = probes.probe_direction(adder, target, row, place=place, sums=220, seed=4)
    sums = sum_table.random_sums(adder, 220, 4, 5, padded=True)
    fit, test, _ = (one.numpy() for one in probes._split(len(sums.a), 0.3, 4))
    above = 10 ** int(target[-1])
    carry = sums.a % above + sums.b % above >= above
    column = int(target[-1])  # the carry changes this digit, which the state before it predicts
    assert found.position == (sums.places.index(place) if place else sums.answers[column] - 1)
    states = states_of(adder, sums, f"row {row}", found.position)
    # The gradient by differences along each coordinate, and the step along the direction.
    width = states.shape[1]
    moved = states[test[0]] + np.concatenate([np.zeros((1, width)), np.eye(width)])
    moved = np.concatenate([moved, states[test] + 1.5 * found.vector])
    asked = np.arange(len(states), len(states) + len(moved))
    signs = np.concatenate([2 * carry - 1, np.zeros(len(moved))])[:, None].astype(float)
    predicted = ridge(np.concatenate([states, moved]), signs, fit, np.concatenate([test, asked]))
    own, (start, *along) = predicted[: len(test), 0], predicted[len(test) :, 0]
    gradient = np.array(along[:width]) - start
    wanted = gradient / (gradient**2).sum()
    assert found.vector == pytest.approx(wanted, rel=2e-3, abs=2e-4 * np.abs(wanted).max())
    assert np.array(along[width:]) - own == pytest.approx(1.5, abs=2e-3)
    said, true = own > 0, carry[test]
    balanced = np.mean([np.mean(said[true == kind] == kind) for kind in (False, True)])
    assert found.accuracy == pytest.approx(balanced, abs=0.03)  # predictions near 0 may turn
    assert f"row {row}" in found.source


def test_a_probe_direction_that_does_not_exist_is_refused(adder: Any) -> None:
    for options, said in (
        ({"target": "carry9", "row": 1}, "There is no carry 'carry9'"),
        ({"target": "carry1", "row": 9}, "Row 9 does not exist"),
        ({"target": "carry1", "row": 1, "place": "x"}, "no position named 'x'"),
        ({"target": "carry1", "row": 1, "sums": 5}, "5 sums are too few"),
    ):
        with pytest.raises(AnalysisError, match=said):
            probes.probe_direction(adder, **{"sums": 60, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("head 0.1", 13),
        *(pytest.param(*one, marks=pytest.mark.full) for one in (("row 1", 14), ("mlp 1", 15))),
    ],
)
def test_probes_by_least_squares(adder: Any, name: str, place: int) -> None:
    sums = sum_table.random_sums(adder, 220, 4, 5, padded=True)
    wanted = next(one for one in analysis.tasks.sum_table.all_components(adder) if one.name == name)
    found = probes.report(adder, sums, (wanted,), places=range(11, 17))
    fit, test, order = (one.numpy() for one in probes._split(len(sums.a), 0.3, 0))
    assert sorted((*fit, *test)) == list(range(220))
    assert (found.fitted, found.held_out) == (len(fit), len(test)) == (154, 66)
    states = states_of(adder, sums, name, place)
    a, b = sums.a, sums.b
    for column in range(5):
        total = a // 10**column % 10 + b // 10**column % 10
        above = 10 ** (column + 1)
        carry = (a % above + b % above >= above).astype(int)
        for target, true, shape in (
            (f"carry{column + 1}", carry, (2 * carry - 1)[:, None]),
            (f"sum{column}", total, np.eye(19)[total]),
        ):
            number, is_carry = found.targets.index(target), target.startswith("carry")
            fitted = ridge(states, shape.astype(float), fit, test)
            told = accuracies(fitted, true[test], carry=is_carry)
            assert found.accuracy[number, 0, place - 11] == pytest.approx(told, abs=1e-6), target
            mixed = ridge(states, shape[order].astype(float), fit, test)
            control = accuracies(mixed, true[order][test], carry=is_carry)
            assert found.control[number, 0, place - 11] == pytest.approx(control, abs=1e-6), target
            chance = 0.5 if is_carry else np.bincount(total).max() / 220
            assert found.chance[number] == pytest.approx(chance)


@pytest.mark.parametrize("column", [2, 5])
def test_projections_by_eigenvectors_of_the_covariance(adder: Any, column: int) -> None:
    sums = sum_table.random_sums(adder, 60, 4, 5, padded=True)
    at = sums.answers[column] - 1
    found = probes.projection(adder, sums, Component("head", 0, 1), at, column)
    states = states_of(adder, sums, "head 0.1", at)
    sizes, axes = np.linalg.eigh(np.cov(states.T))
    np.testing.assert_allclose(found.explained, sizes[::-1][:2] / sizes.sum(), rtol=1e-3)
    wanted = (states - states.mean(0)) @ axes[:, ::-1][:, :2]
    size = np.abs(wanted).max()
    np.testing.assert_allclose(np.abs(found.points), np.abs(wanted), atol=1e-3 * size)
    base = 10**column
    pairs = list(zip(sums.a.tolist(), sums.b.tolist(), strict=True))
    assert found.carry.tolist() == [int(a % base + b % base >= base) for a, b in pairs]
    assert found.digit_sum.tolist() == [a // base % 10 + b // base % 10 for a, b in pairs]


# -- patching ----------------------------------------------------------------------------------


def spot(hf: Any, name: str) -> tuple[Any, bool, slice]:
    """The module with a component's output, whether it is the module's input, and its columns."""
    kind, _, where = name.partition(" ")
    layer, _, head = where.partition(".")
    block = hf.transformer.h[int(layer) - (kind == "row")]
    width = hf.config.n_embd // hf.config.n_head
    if kind == "head":
        return block.attn.c_proj, True, slice(int(head) * width, (int(head) + 1) * width)
    return {"row": block, "mlp": block.mlp, "attention": block.attn}[kind], False, slice(None)


@torch.no_grad()
def choice(hf: Any, ids: list[int], name: str, edit: Any) -> int:
    """The plain model's next token, with ``edit`` on a component's output [pos, d]."""
    module, before, part = spot(hf, name)

    def change(state: torch.Tensor) -> torch.Tensor:
        state = state.clone()
        state[0, :, part] = edit(state[0, :, part])
        return state

    def enter(_: Any, args: Any) -> Any:
        return (change(args[0]), *args[1:])

    def leave(_: Any, args: Any, output: Any) -> Any:
        rest = isinstance(output, tuple)
        return (change(output[0]), *output[1:]) if rest else change(output)

    hook = (
        module.register_forward_pre_hook(enter) if before else module.register_forward_hook(leave)
    )
    logits = hf(torch.tensor([ids]), use_cache=False).logits
    hook.remove()
    return int(logits[0, -1].argmax())


def handed(hf: Any, name: str, own: list[int], donor: list[int], where: slice) -> int:
    """The answer to one sum with a component's output from the run of another sum."""
    kept: list[torch.Tensor] = []

    def keep(value: torch.Tensor) -> torch.Tensor:
        kept.append(value.clone())
        return value

    def put(value: torch.Tensor) -> torch.Tensor:
        value = value.clone()
        value[where] = kept[0][where]
        return value

    choice(hf, donor, name, keep)
    return choice(hf, own, name, put)


@pytest.mark.parametrize("name", ["row 1", "attention 0", "head 0.1", "head 1.2", "mlp 0"])
def test_patching_by_hooks_on_the_plain_model(adder: Any, name: str) -> None:
    part = next(one for one in analysis.tasks.sum_table.all_components(adder) if one.name == name)
    found = carry_patching.report(adder, 5, pairs=9, seed=2, components=(part,), columns=(2,))
    drawn = carry_patching.pairs_for(np.random.default_rng([2, 13]), 9, 5, 2, True, False)
    tables = [sum_table.table(adder, a, b, 5, padded=True) for a, b in drawn]
    at = int(found.positions[0])
    rows = [[list(one.token_ids) for one in table.encoded] for table in tables]
    effects, controls, kept = [], [], 0
    for own, donor, without in zip(*rows, strict=True):
        nothing = lambda value: value  # noqa: E731
        said = [choice(adder.hf, ids[: at + 1], name, nothing) for ids in (own, donor)]
        if said != [own[at + 1], donor[at + 1]]:
            continue
        kept += 1
        for other, shares in ((donor, effects), (without, controls)):
            shares.append([
                handed(adder.hf, name, own[: at + 1], other[: at + 1], where) == donor[at + 1]
                for where in (slice(6, 7), slice(at, at + 1), slice(None))
            ])  # fmt: skip
    assert kept == found.pairs[0] >= 5
    places = [6, at, -1]
    np.testing.assert_allclose(found.effect[0, 0, places], np.mean(effects, 0), atol=1e-6)
    np.testing.assert_allclose(found.control[0, 0, places], np.mean(controls, 0), atol=1e-6)
