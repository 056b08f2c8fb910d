"""Heads that make carries, found in the weights: against loops over them, and patching."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from analysis.contract import jobs
from analysis.errors import CancelledError, SpecError
from analysis.tasks import carry_patching, sum_table
from analysis.tasks.carry_circuits import carry_circuits
from analysis.tasks.sum_specs import CarryCircuitSpec
from tests.numerical.conftest import Case

DIGITS = 5


class Plain:
    """Heads of the adder over embeddings, by loops in float64; positions of an adder's sum."""

    def __init__(self, adder: Any) -> None:
        weights = {
            name.removeprefix("transformer."): value.double().numpy()
            for name, value in adder.hf.state_dict().items()
        }
        self.w, self.tokens, self.rows = weights, weights["wte.weight"], weights["wpe.weight"]

    def read(self, layer: int, digit: int | str, position: int) -> np.ndarray:
        token = {"+": 10, "=": 11}.get(digit, digit)  # type: ignore[call-overload]
        state = self.tokens[int(token)] + self.rows[position]
        centred = state - state.mean()
        normed = centred / np.sqrt((centred**2).mean() + 1e-5)
        return np.asarray(
            normed * self.w[f"h.{layer}.ln_1.weight"] + self.w[f"h.{layer}.ln_1.bias"]
        )

    def part(self, layer: int, head: int, which: int, read: np.ndarray) -> np.ndarray:
        at = slice(128 * which + 32 * head, 128 * which + 32 * head + 32)
        made = read @ self.w[f"h.{layer}.attn.c_attn.weight"][:, at]
        return np.asarray(made + self.w[f"h.{layer}.attn.c_attn.bias"][at])

    def tables(self, layer: int, head: int, column: int) -> tuple[np.ndarray, np.ndarray]:
        """[digit column] what is read, and [a, b, d_model] what is written, of one column."""
        asking = 12 + DIGITS - column - 1  # the position before the digit of the column
        size = asking + 1
        signs = {5: "+", 11: "="}
        key_of = [
            [self.part(layer, head, 1, self.read(layer, signs.get(at, d), at)) for d in range(10)]
            for at in range(size)
        ]
        places = [4 - (column - 1), 10 - (column - 1)]
        out = self.w[f"h.{layer}.attn.c_proj.weight"][32 * head : 32 * head + 32]
        brought = [
            [self.part(layer, head, 2, self.read(layer, d, at)) @ out for d in range(10)]
            for at in places
        ]
        reads, written = np.zeros(size), np.zeros((10, 10, 128))
        for asked in range(10):
            query = self.part(layer, head, 0, self.read(layer, asked, asking))
            sizes = np.array([[np.exp(query @ key / 32**0.5) for key in one] for one in key_of])
            mean = sizes.mean(1)
            reads += mean / mean.sum() / 10
            rest = mean.sum() - mean[places].sum()
            for a in range(10):
                for b in range(10):
                    one, other = sizes[places[0], a], sizes[places[1], b]
                    made = one * brought[0][a] + other * brought[1][b]
                    written[a, b] += made / (one + other + rest) / 10
        pairs = [[4 - n, 10 - n] for n in range(DIGITS)]
        return np.array([reads[pair].sum() for pair in pairs]), written


def explained(written: np.ndarray) -> tuple[float, np.ndarray]:
    """The share of the variance between the two groups, and the place of each sum between them."""
    rows = [(a + b, written[a, b]) for a in range(10) for b in range(10)]
    groups = [[row for total, row in rows if (total >= 10) == carried] for carried in (False, True)]
    means = [np.mean(group, 0) for group in groups]
    centre = np.mean([row for _, row in rows], 0)
    whole = sum(((row - centre) ** 2).sum() for _, row in rows)
    between = sum(
        len(group) * ((mean - centre) ** 2).sum() for group, mean in zip(groups, means, strict=True)
    )
    step = means[1] - means[0]
    curve = [
        np.mean([(row - means[0]) @ step / (step @ step) for found, row in rows if found == total])
        for total in range(19)
    ]
    return between / whole, np.array(curve)


def test_every_number_from_the_weights_by_loops(adder: Any) -> None:
    found = carry_circuits(adder)
    plain = Plain(adder)
    assert found.columns.tolist() == [1, 2, 3, 4]
    for at, column in ((0, 1), (1, 3), (2, 2), (5, 4)):
        layer, head = int(found.layers[at]), int(found.heads[at])
        reads, written = plain.tables(layer, head, column)
        share, curve = explained(written)
        np.testing.assert_allclose(found.reads[at, column - 1], reads, atol=1e-5)
        # Queries and keys are float32, and the exponentials of scores up to 58 are compared.
        assert found.carry[at, column - 1] == pytest.approx(share, abs=1e-4)
        np.testing.assert_allclose(found.outputs[at, column - 1], curve, atol=1e-3)


def test_the_head_that_makes_carries_is_found_and_patching_confirms_it(adder: Any) -> None:
    """The weights alone name the head whose patch, in runs of the model, changes the digit."""
    found = carry_circuits(adder)
    first, second = found.order[:2]
    assert found.scores[first] > 0.9
    assert found.scores[second] < 0.2
    assert found.name(int(first)) in found.sentence
    heads = tuple(one for one in sum_table.all_components(adder) if one.kind == "head")
    patched = carry_patching.report(adder, 5, pairs=12, components=heads, positions="written")
    assert patched.columns.tolist() == found.columns.tolist()
    effect = np.mean([patched.effect[n, :, p] for n, p in enumerate(patched.positions)], 0)
    assert patched.components[int(effect.argmax())] == found.name(int(first))
    assert effect.max() > 0.8
    assert np.sort(effect)[-2] < 0.2
    assert [found.name(at) for at in range(8)] == list(patched.components)


def test_random_weights_make_no_carries(small: Case) -> None:
    found = carry_circuits(small.model, 3)
    assert found.scores.max() < 0.2
    assert "does not make carries by itself" in found.sentence
    assert found.reads.sum(-1).max() <= 1 + 1e-6


def test_what_cannot_be_read_is_refused(adder: Any) -> None:
    with pytest.raises(SpecError, match="no column below"):
        CarryCircuitSpec("m", 1)

    def stop(*_step: Any) -> None:
        raise CancelledError

    with jobs.listening(stop), pytest.raises(CancelledError):
        carry_circuits(adder)
