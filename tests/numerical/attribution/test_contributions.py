"""The parts of an attribution: all of them, in the model's order, summing to the logit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import analysis
from analysis.attribution.direct import compute
from analysis.attribution.specs import AttributionSpec, Contribution
from analysis.errors import SpecError
from analysis.export.sheets import one_frame
from dash_app import cli
from tests.numerical.conftest import Case
from tests.support import built, zoo

IDS = (5, 9, 33, 2, 8, 41)


@pytest.mark.parametrize("foil", [None, 17])
def test_the_technique_equals_the_function(case: Case, foil: int | None) -> None:
    found = compute(case.model, case.trace, AttributionSpec(-1, 3, foil))
    wanted = analysis.attribute(case.model, case.trace, position=-1, token=3, foil=foil)
    assert np.array_equal(found.heads, wanted.heads)
    assert np.array_equal(found.mlps, wanted.mlps)
    assert (found.embedding, found.bias, found.logit) == (
        wanted.embedding, wanted.bias, wanted.logit,
    )  # fmt: skip
    total = sum(part.logit for part in found.parts)
    assert total == pytest.approx(found.total, abs=1e-4)
    scale = float(np.abs(case.trace.logits[-1]).max())
    assert found.residual_error == pytest.approx(0.0, abs=1e-4 * scale)


def test_parts_are_named_in_the_order_of_the_model(gpt2: Case, llama: Case) -> None:
    found = analysis.attribute(gpt2.model, gpt2.trace, token=3)
    kinds = [part.kind for part in found.parts]
    heads = ["head"] * gpt2.model.info.heads
    block = [*heads, "attention_bias", "mlp"]
    assert kinds == ["embedding", *block * gpt2.model.info.layers, "bias"]
    part = found.parts[2]
    assert part == Contribution("head", 0, 1, pytest.approx(found.heads[0, 1]))
    plain = [part.kind for part in analysis.attribute(llama.model, llama.trace, token=3).parts]
    assert plain[-1] == "mlp"  # neither the final norm nor the unembedding has a bias


def test_it_is_the_logit_before_a_soft_cap() -> None:
    model = built.understood(zoo.make("gemma2"), "gemma2")
    trace = analysis.trace(model, IDS)
    found = compute(model, trace, AttributionSpec())
    assert model.readout.softcap is not None
    assert found.token == trace.logits[-1].argmax()
    assert found.total == pytest.approx(found.logit, abs=1e-4)
    assert found.logit > trace.logits[-1].max()


def test_the_table_lists_the_largest_first(llama: Case) -> None:
    found = analysis.attribute(llama.model, llama.trace)
    table = one_frame(found)
    head, rows = tuple(table.columns), table.rows
    assert head == ("kind", "layer", "head", "logit")
    sizes = [abs(row[-1]) for row in rows]
    assert sizes == sorted(sizes, reverse=True)
    assert len(rows) == len(found.parts)


def test_from_a_terminal(tiny_llama_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["attribute", str(tiny_llama_dir), "abc", "--token", "4", "--foil", "7", "--json"]
    assert cli.main(words) == 0
    printed = json.loads(capsys.readouterr().out)["result"]
    model = analysis.load_model(str(tiny_llama_dir))
    found = analysis.attribute(model, analysis.trace(model, "abc"), token=4, foil=7)
    assert np.array_equal(np.array(printed["heads"], np.float32), found.heads)
    assert printed["logit"] == found.logit


def test_a_token_is_not_its_own_foil(llama: Case) -> None:
    with pytest.raises(SpecError, match="own foil"):
        compute(llama.model, llama.trace, AttributionSpec(-1, 3, 3))
