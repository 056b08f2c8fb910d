"""Circuits, kinds of heads, composition and norms against the weights in the state dict."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import analysis
from analysis.model.handle import Model
from analysis.weights.matrices import head_matrices
from analysis.weights.report import repeated
from analysis.weights.specs import KINDS as HEAD_KINDS
from tests.numerical.weights import reference
from tests.support import built, every_architecture, zoo

LAYER = 1


@pytest.fixture(scope="module", params=reference.KINDS)
def known(request: pytest.FixtureRequest) -> tuple[str, Model]:
    return request.param, reference.model_of(request.param)


def near(found: Any, wanted: Any, tolerance: float = 2e-5) -> None:
    """Equal within a share of the largest number."""
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    np.testing.assert_allclose(found, wanted, atol=tolerance * max(np.abs(wanted).max(), 1e-9))


def test_both_products_of_each_head(known: tuple[str, Model]) -> None:
    kind, model = known
    made = head_matrices(model, LAYER)
    for head in range(made.heads):
        qk, ov = reference.head_products(kind, model, LAYER, head)
        near(made.reads_queries(head) @ made.reads_keys(head).T, qk)
        near(made.reads_values(head) @ made.writes(head), ov)


def embeddings(kind: str, model: Model) -> np.ndarray:
    """Each token's embedding over its own root, float64."""
    rows = model.hf.get_input_embeddings().weight.double().numpy()
    rows = rows * (32**0.5 if kind == "gemma2" else 1.0)
    if kind in ("gpt2", "gpt_neox"):
        rows = rows - rows.mean(-1, keepdims=True)
    eps = 1e-5 if kind in ("gpt2", "gpt_neox", "mixtral") else 1e-6
    return np.asarray(rows / np.sqrt((rows**2).mean(-1, keepdims=True) + eps))


def unembedded(kind: str, model: Model, parts: np.ndarray) -> np.ndarray:
    """Logits of parts, without the final norm's root."""
    state = model.hf.state_dict()
    name = {"gpt2": "transformer.ln_f", "gpt_neox": "gpt_neox.final_layer_norm"}
    scale = state[f"{name.get(kind, 'model.norm')}.weight"].double().numpy()
    if kind in ("gpt2", "gpt_neox"):
        parts = parts - parts.mean(-1, keepdims=True)
    scale = scale + (kind == "gemma2")
    rows = model.hf.get_output_embeddings().weight.double().numpy()
    return np.asarray(parts * scale @ rows.T)


def test_circuits_by_hand(known: tuple[str, Model]) -> None:
    kind, model = known
    head = 3
    found = analysis.circuits(model, LAYER, head, token=7, k=3, directions=2, sample=None)
    qk, ov = (one.numpy() for one in reference.head_products(kind, model, LAYER, head))
    size = len(found.ov_values)
    near(found.ov_values, np.linalg.svd(ov)[1][:size], 1e-4)
    near(found.qk_values, np.linalg.svd(qk)[1][: len(found.qk_values)], 1e-4)
    tokens = embeddings(kind, model)
    logits = unembedded(kind, model, tokens @ ov)
    assert found.exact
    assert found.sampled == len(tokens)
    own = np.arange(len(tokens))
    assert found.copying == pytest.approx((logits.argmax(-1) == own).mean(), abs=1e-9)
    assert found.raised == pytest.approx((np.diag(logits) > logits.mean(-1)).mean(), abs=1e-9)
    assert found.promoted[0].tolist() == np.argsort(-logits[7])[:3].tolist()
    assert found.suppressed[0].tolist() == np.argsort(logits[7])[:3].tolist()
    near(found.promoted_logits[0], np.sort(logits[7])[::-1][:3], 1e-4)
    left = np.linalg.svd(ov)[0][:, 0]
    along = tokens @ left
    ends = {tuple(np.argsort(-along)[:3]), tuple(np.argsort(along)[:3])}
    assert {tuple(one) for one in found.ov_read[0].tolist()} == ends


@pytest.mark.parametrize("row", [None, 1])
def test_circuits_of_a_rows_states_by_hand(known: tuple[str, Model], row: int | None) -> None:
    """The head reads the states of a prompt instead of embeddings."""
    kind, model = known
    head, trace = 3, analysis.trace(model, reference.tokens_of(model))
    found = analysis.state_circuits(model, trace, LAYER, head, row, k=3)
    assert found.row == (LAYER if row is None else row)
    states = trace.resid[found.row].astype(np.float64)
    if kind in ("gpt2", "gpt_neox"):
        states = states - states.mean(-1, keepdims=True)
    eps = 1e-5 if kind in ("gpt2", "gpt_neox", "mixtral") else 1e-6
    units = states / np.sqrt((states**2).mean(-1, keepdims=True) + eps)
    _, ov = (one.numpy() for one in reference.head_products(kind, model, LAYER, head))
    logits = unembedded(kind, model, units @ ov)
    for at, token in enumerate(trace.token_ids):
        assert found.promoted[at].tolist() == np.argsort(-logits[at])[:3].tolist()
        assert found.suppressed[at].tolist() == np.argsort(logits[at])[:3].tolist()
        near(found.promoted_logits[at], np.sort(logits[at])[::-1][:3], 1e-4)
        assert found.own_ranks[at] == (logits[at] > logits[at, token]).sum() + 1
    assert found.copying == (found.own_ranks == 1).mean()


def test_the_keys_that_states_look_for() -> None:
    """At row 0 of a model without position embeddings, they are those of the tokens' embeddings."""
    model = reference.model_of("llama")
    trace = analysis.trace(model, (7, 9, 4))
    found = analysis.state_circuits(model, trace, 0, 2, row=0, k=4)
    wanted = analysis.circuits(model, 0, 2, token=7, k=4)
    assert found.keys[0].tolist() == wanted.keys[0].tolist()
    near(found.key_scores[0], wanted.key_scores[0], 1e-5)
    near(found.promoted_logits[0], wanted.promoted_logits[0][:4], 1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2"])
def test_the_keys_that_a_query_looks_for(kind: str) -> None:
    """The score of every key at distance 0, biases included."""
    model, head = reference.model_of(kind), 2
    found = analysis.circuits(model, 0, head, token=7, k=4)
    query, key, _, _ = reference.projections(kind, model.hf, 0)
    state = model.hf.state_dict()
    scale, bias = reference.input_norm(kind, state, 0)
    read = embeddings(kind, model) * scale.numpy() + (0 if bias is None else bias.numpy())
    add_q, add_k = np.zeros(8), np.zeros(8)
    kv_head = head * len(key) // len(query)
    if kind == "llama":
        at = "model.layers.0.self_attn"
        add_q = state[f"{at}.q_proj.bias"].view(4, 8)[head].double().numpy()
        add_k = state[f"{at}.k_proj.bias"].view(2, 8)[kv_head].double().numpy()
    if kind == "gpt2":
        three = state["transformer.h.0.attn.c_attn.bias"].view(3, 4, 8).double().numpy()
        add_q, add_k = three[0, head], three[1, head]
    asked = read[7] @ query[head].numpy() + add_q
    scores = (read @ key[kv_head].numpy() + add_k) @ asked / 8**0.5
    assert found.keys[0].tolist() == np.argsort(-scores)[:4].tolist()
    near(found.key_scores[0], np.sort(scores)[::-1][:4], 1e-4)


def test_kinds_come_from_the_models_own_patterns(known: tuple[str, Model]) -> None:
    _, model = known
    found = analysis.weight_report(model, composition=False)
    tokens = repeated(model, 0)
    half = len(tokens) // 2
    assert tokens[:half] == tokens[half:]
    with torch.no_grad():
        output = model.hf(torch.tensor([tokens]), output_attentions=True)
    for at, (layer, head) in enumerate(zip(found.layers, found.heads, strict=True)):
        weights = output.attentions[layer][0, head].double().numpy()
        wanted = [
            np.mean([weights[q, q - 1] for q in range(1, 2 * half)]),
            np.mean([weights[q, q - half] for q in range(half, 2 * half)]),
            np.mean([weights[q, q - half + 1] for q in range(half, 2 * half)]),
            np.mean([weights[q, 0] for q in range(2, 2 * half)]),
        ]
        np.testing.assert_allclose(found.kinds[[0, 1, 2, 4], at], wanted, atol=1e-5)


def test_composition_from_whole_matrices(known: tuple[str, Model]) -> None:
    kind, model = known
    found = analysis.weight_report(model)
    size = len(found.layers)
    products = [
        [one.numpy() for one in reference.head_products(kind, model, int(layer), int(head))]
        for layer, head in zip(found.layers, found.heads, strict=True)
    ]
    norm = np.linalg.norm
    for first in range(0, size, 3):
        for second in range(size):
            if found.layers[second] <= found.layers[first]:
                assert np.isnan(found.composition[:, first, second]).all()
                continue
            ov, (qk, later) = products[first][1], products[second]
            wanted = [
                norm(ov @ qk) / norm(ov) / norm(qk),
                norm(qk @ ov.T) / norm(ov) / norm(qk),
                norm(ov @ later) / norm(ov) / norm(later),
            ]
            np.testing.assert_allclose(found.composition[:, first, second], wanted, rtol=1e-3)
    assert 0.0 < found.baseline < 1.0


def test_norms_by_layer(known: tuple[str, Model]) -> None:
    kind, model = known
    found = analysis.weight_report(model, composition=False)
    parts = reference.projections(kind, model.hf, LAYER)
    for row, part in enumerate(parts):
        assert found.norms[row, LAYER] == pytest.approx(float(part.norm()), rel=1e-4)
    if kind in ("llama", "gemma2"):
        mlp = model.hf.model.layers[LAYER].mlp
        for name in ("gate_proj", "up_proj", "down_proj"):
            wanted = float(getattr(mlp, name).weight.double().norm())
            row = found.norm_names.index(f"mlp.{name}")
            assert found.norms[row, LAYER] == pytest.approx(wanted, rel=1e-5)
    if kind == "mixtral":
        row = next(at for at, name in enumerate(found.norm_names) if "down" in name)
        experts = model.hf.model.layers[LAYER].mlp.experts.down_proj.double()
        assert found.norms[row, LAYER] == pytest.approx(
            float(torch.linalg.matrix_norm(experts).mean()), rel=1e-5
        )


VOCAB, PLACES, D_HEAD = 24, 48, 60


def hand_built() -> GPT2LMHeadModel:
    """Head 0.0 reads the previous token, head 1.0 is an induction head; the others do nothing.

    The state has four parts: token, position, previous token, answer.
    """
    width = 2 * D_HEAD
    config = GPT2Config(
        vocab_size=VOCAB, n_positions=PLACES, n_embd=width, n_layer=2, n_head=2,
        tie_word_embeddings=False, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        weight.fill_(1.0 if weight.ndim == 1 and name.endswith("weight") else 0.0)
    before, answer = VOCAB + PLACES, 2 * VOCAB + PLACES
    every, body = torch.arange(VOCAB), model.transformer
    body.wte.weight[every, every] = 1.0
    places = torch.arange(PLACES)
    body.wpe.weight[places, VOCAB + places] = 1.0
    model.lm_head.weight[every, answer + every] = 1.0
    first, second = (block.attn for block in body.h)
    first.c_attn.weight[VOCAB + places[1:], places[:-1]] = 40.0  # asks for the place before
    first.c_attn.weight[VOCAB + places, width + places] = 40.0
    second.c_attn.weight[every, every] = 40.0  # asks for its own token as the previous one
    second.c_attn.weight[before + every, width + every] = 40.0
    for attention, where in ((first, before), (second, answer)):
        attention.c_attn.weight[every, 2 * width + every] = 1.0
        attention.c_proj.weight[every, where + every] = 1.0
    return model


def test_hand_built_heads_are_found() -> None:
    model = built.understood(hand_built(), "hand built")
    found = analysis.weight_report(model)
    scores = {kind: found.kinds[at].reshape(2, 2) for at, kind in enumerate(HEAD_KINDS)}
    for kind, (layer, head) in {"previous": (0, 0), "induction": (1, 0), "copy": (1, 0)}.items():
        assert scores[kind][layer, head] > 0.95
        others = [scores[kind][at] for at in np.ndindex(2, 2) if at != (layer, head)]
        assert max(others) < 0.2
    for kind in ("duplicate", "sink"):
        assert scores[kind].max() < 0.2
    assert scores["copy"][1, 0] == 1.0
    read = analysis.circuits(model, 1, 0, token=5, sample=None)
    assert read.copying == 1.0
    assert read.promoted[0, 0] == 5
    # Both matrices map 24 tokens one to one, so only K-composition is large: √24 / 24.
    assert found.composition[1, 0, 2] == pytest.approx(24**-0.5, rel=0.1)
    assert found.composition[0, 0, 2] < found.baseline


def test_what_cannot_be_read_is_refused_with_the_reason() -> None:
    bloom = built.understood(zoo.make("bloom"), "bloom")
    with pytest.raises(analysis.AnalysisError, match="inside its own code"):
        analysis.circuits(bloom, 1, 0)
    mamba = built.understood(zoo.make("mamba"), "mamba")
    with pytest.raises(analysis.AnalysisError, match="no attention"):
        analysis.weight_report(mamba)
    curved = built.understood(every_architecture.make("modernbert-decoder"), "curved")
    with pytest.raises(analysis.AnalysisError, match="not linear"):
        analysis.circuits(curved, 1, 0)
    model = reference.model_of("gpt2")
    for options in ({"k": 0}, {"directions": 99}, {"sample": 1}, {"token": 10_000}):
        with pytest.raises(analysis.AnalysisError):
            analysis.circuits(model, 1, 0, **options)
