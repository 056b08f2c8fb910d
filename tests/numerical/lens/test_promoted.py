"""Promoted and suppressed tokens of any component, against plain arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

import analysis
from analysis.attribution.direct import uncapped
from analysis.lens.results import Promoted
from tests.numerical import reference
from tests.numerical.conftest import Case
from tests.numerical.lens.test_grid import matrices, slow_norm
from tests.support import built, zoo

AT = 6


def everything(case: Case, component: str, layer: int, **options: object) -> np.ndarray:
    """[vocab] the value of every token."""
    vocab = case.model.info.vocab
    found = analysis.promoted(case.model, case.trace, component, layer, AT, k=vocab, **options)
    values = np.empty(vocab)
    values[found.promoted] = found.promoted_logits
    assert np.array_equal(found.suppressed_logits, np.sort(found.promoted_logits))
    assert found.mean == pytest.approx(values.mean(), abs=1e-5)
    return values


def frozen(case: Case, part: np.ndarray) -> np.ndarray:
    """[vocab] a part of the last state through norm and unembedding, with the scale frozen."""
    state, (_, e_out) = case.trace.resid[-1, AT].astype(np.float64), matrices(case)
    hf = case.model.hf
    if case.model.info.norm == "LayerNorm":
        norm = hf.transformer.ln_f
        root = np.sqrt(state.var() + norm.eps)
        part = part - part.mean()
    else:
        norm = hf.model.norm
        root = np.sqrt((state**2).mean() + norm.variance_epsilon)
    return e_out @ (part / root * norm.weight.double().numpy())


def test_a_direct_effect_by_hand(small: Case) -> None:
    slow = reference.forward(small.model.hf, small.trace.token_ids)
    for values, part in (
        (everything(small, "mlp_output", 1), slow.mlp[1][AT]),
        (everything(small, "attention_output", 2), slow.attn[2][AT]),
        (everything(small, "block_output", 1), slow.rows[1][AT]),
        (everything(small, "head_output", 0, head=3), slow.vectors[0][3, AT].sum(0)),
        (everything(small, "source_output", 0, head=3, source=2), slow.vectors[0][3, AT, 2]),
        (everything(small, "block_increment", 1), slow.rows[2][AT] - slow.rows[1][AT]),
    ):
        np.testing.assert_allclose(values, frozen(small, part), atol=1e-4)


def test_the_lens_normalises_a_part_alone(small: Case) -> None:
    values = everything(small, "mlp_output", 1, reading="lens")
    _, e_out = matrices(small)
    part = small.trace.mlp_out[1, AT].astype(np.float64)
    np.testing.assert_allclose(values, e_out @ slow_norm(small, part, "full"), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "granite", "gpt_neox"])
def test_direct_effects_of_all_parts_add_up_to_the_logits(kind: str) -> None:
    model = built.understood(zoo.make(kind), kind)
    case = Case(model, analysis.trace(model, (5, 9, 33, 2, 8, 41, 7, 60)))
    total = everything(case, "block_output", 0)
    for layer in range(model.info.layers):
        total += everything(case, "mlp_output", layer)
        total += everything(case, "attention_output", layer)
    readout = model.readout
    total += (readout.output_rows.double() @ readout.form.bias.double()).numpy() * (
        readout.state_scale * readout.logit_scale
    )
    if readout.output_bias is not None:
        total += readout.output_bias.double().numpy() * readout.logit_scale
    wanted = uncapped(model, case.trace, AT)
    np.testing.assert_allclose(total, wanted, atol=2e-5 * np.abs(wanted).max())


def test_the_result_names_its_inputs(llama: Case) -> None:
    found: Promoted = analysis.promoted(
        llama.model, llama.trace, "source_output", -1, head=2, source=4, k=3
    )
    assert (found.layer, found.position, found.head, found.source) == (2, 8, 2, 4)
    assert found.reading == "direct"
    assert {token.id for token in found.vocabulary} == {*found.promoted, *found.suppressed}
    slow = reference.forward(llama.model.hf, llama.trace.token_ids)
    assert found.norm == pytest.approx(np.linalg.norm(slow.vectors[2][2, 8, 4]), rel=1e-4)


@pytest.mark.parametrize(
    ("component", "layer", "options", "says"),
    [
        ("mlp_output", 9, {}, "Layer 9"),
        ("block_output", 4, {}, "Row 4"),
        ("mlp_output", 0, {"head": 1}, "head"),
        ("source_output", 0, {"head": 1, "source": 8, "position": 2}, "can't see"),
        ("mlp_output", 0, {"reading": "tea leaves"}, "reading"),
        ("mlp_output", 0, {"k": 0}, "At least one"),
    ],
)
def test_missing_indices_are_refused(
    llama: Case, component: str, layer: int, options: dict[str, object], says: str
) -> None:
    with pytest.raises(analysis.AnalysisError, match=says):
        analysis.promoted(llama.model, llama.trace, component, layer, **options)
