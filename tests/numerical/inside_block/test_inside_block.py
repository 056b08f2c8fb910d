"""An opened block, split scores and the report on aggregation, against the model's own numbers."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import analysis
from analysis.export.sheets import one_frame
from analysis.inside_block.scores import query_scores
from analysis.model.handle import Model
from tests.numerical.weights import reference
from tests.support import built, zoo

LAYER, POSITION = 2, 6
KINDS = (*reference.KINDS, "qwen3", "gpt_oss", "olmo2", "granite")


@cache
def case(kind: str) -> tuple[Model, analysis.Trace]:
    """A model and a trace of it."""
    model = reference.model_of(kind)
    return model, analysis.trace(model, reference.tokens_of(model))


def own_weights(model: Model, trace: analysis.Trace, layer: int = LAYER) -> np.ndarray:
    """[head, query, key] the model's own attention weights."""
    with torch.no_grad():
        output = model.hf(torch.tensor([trace.token_ids]), output_attentions=True)
    return np.asarray(output.attentions[layer][0].double().numpy())


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_a_score_sum_to_the_models_own(kind: str) -> None:
    """Differences of scores are the logarithms of the ratios of the model's weights."""
    model, trace = case(kind)
    weights, cap = own_weights(model, trace)[1, POSITION], 50.0 if kind == "gemma2" else 0.0
    keys = [key for key in range(POSITION - 3, POSITION + 1) if weights[key] > 0]
    found = [analysis.score_parts(model, trace, LAYER, 1, POSITION, key) for key in keys]
    size = max(1.0, *(abs(one.score) for one in found))
    for one in found:
        assert abs(one.residual_error) < 1e-5 * size
    totals = np.array([one.total for one in found])
    totals = cap * np.tanh(totals / cap) if cap else totals
    wanted = np.log(weights[keys])
    np.testing.assert_allclose(totals - totals[0], wanted - wanted[0], atol=2e-5 * size)
    assert found[0].weight == pytest.approx(weights[keys[0]], abs=1e-6)


def turned(vector: np.ndarray, place: int) -> np.ndarray:
    """Llama's rotation of one head's query or key."""
    half = len(vector) // 2
    made = np.empty_like(vector)
    for at in range(half):
        angle = place / 10_000.0 ** (2 * at / len(vector))
        one, other = vector[at], vector[at + half]
        made[at] = one * np.cos(angle) - other * np.sin(angle)
        made[at + half] = other * np.cos(angle) + one * np.sin(angle)
    return made


def test_one_product_of_parts_by_hand() -> None:
    """Head 0.2 in the query's state, the MLP of layer 1 in the key's, in a grouped Llama."""
    model, trace = case("llama")
    head, key = 3, 2
    found = analysis.score_parts(model, trace, LAYER, head, POSITION, key)
    names = [found.name(at) for at in range(len(found.kinds))]
    queries, keys, _, _ = reference.projections("llama", model.hf, LAYER)
    scale, _ = reference.input_norm("llama", model.hf.state_dict(), LAYER)

    def read(part: Any, position: int) -> np.ndarray:
        state = trace.resid[LAYER, position].astype(np.float64)
        return np.asarray(part / np.sqrt((state**2).mean() + 1e-6) * scale.numpy())

    left = read(analysis.head_output(model, trace, 0, 2)[POSITION].astype(np.float64), POSITION)
    right = read(trace.mlp_out[1, key].astype(np.float64), key)
    asked = turned(left @ queries[head].numpy(), POSITION)
    offered = turned(right @ keys[1].numpy(), key)
    at = names.index("layer 0, head 2"), names.index("layer 1, MLP")
    assert found.matrix[at] == pytest.approx(asked @ offered / 8**0.5, abs=1e-5)
    largest = found.largest(3)
    assert abs(largest[0].score) >= abs(largest[1].score) >= abs(largest[2].score)
    assert len(one_frame(found).rows) == 30


def test_content_is_the_score_at_distance_0() -> None:
    model, trace = case("llama")
    scores = query_scores(model, trace, LAYER, POSITION)
    queries, keys, _, _ = reference.projections("llama", model.hf, LAYER)
    state = model.hf.state_dict()
    scale, _ = reference.input_norm("llama", state, LAYER)
    at = f"model.layers.{LAYER}.self_attn"
    add_q = state[f"{at}.q_proj.bias"].view(4, 8).double().numpy()
    add_k = state[f"{at}.k_proj.bias"].view(2, 8).double().numpy()
    rows = trace.resid[LAYER].astype(np.float64)
    read = rows / np.sqrt((rows**2).mean(-1, keepdims=True) + 1e-6) * scale.numpy()
    for head in range(4):
        asked = read[POSITION] @ queries[head].numpy() + add_q[head]
        for key in range(POSITION + 1):
            offered = read[key] @ keys[head // 2].numpy() + add_k[head // 2]
            plain = asked @ offered / 8**0.5
            whole = turned(asked, POSITION) @ turned(offered, key) / 8**0.5
            assert float(scores.content[head, key]) == pytest.approx(plain, abs=1e-5)
            assert float(scores.rotation[head, key]) == pytest.approx(whole - plain, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_adds_up(kind: str) -> None:
    model, trace = case(kind)
    found = analysis.block(model, trace, LAYER, POSITION)
    assert not found.scores_missing
    assert not found.heads_missing
    assert max(found.attention_error, found.state_error, found.score_error) < 1e-5
    if kind in ("mixtral", "deepseek_v3", "gpt_oss"):
        assert "mixes experts" in found.neurons_missing
    else:
        assert found.mlp_error < 1e-5
    weights = own_weights(model, trace)[:, POSITION, : POSITION + 1]
    np.testing.assert_allclose(found.weights, weights, atol=1e-6)
    raw = found.content.astype(np.float64) + found.rotation
    raw = found.softcap * np.tanh(raw / found.softcap) if found.softcap else raw
    made = np.exp(raw + found.bias)
    made = made / made.sum(-1, keepdims=True) * weights.sum(-1, keepdims=True)
    np.testing.assert_allclose(made, weights, atol=2e-5)
    first, last = trace.resid[LAYER, POSITION], trace.resid[LAYER + 1, POSITION]
    assert found.lengths[0] == pytest.approx(np.linalg.norm(first), rel=1e-5)
    assert found.steps[-1] == "State out"
    wanted = first @ last / np.linalg.norm(first) / np.linalg.norm(last)
    assert found.cosines[-1] == pytest.approx(wanted, abs=1e-5)


def inputs_of(model: Model, trace: analysis.Trace, modules: dict[str, Any]) -> dict[str, Any]:
    """What some modules read at the position."""
    seen: dict[str, Any] = {}

    def hook(name: str) -> Any:
        def keep(_module: Any, args: Any, kwargs: Any) -> None:
            seen[name] = (args[0] if args else kwargs["hidden_states"])[0, POSITION].numpy()

        return keep

    handles = [
        module.register_forward_pre_hook(hook(name), with_kwargs=True)
        for name, module in modules.items()
    ]
    with torch.no_grad():
        model.hf(torch.tensor([trace.token_ids]))
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gpt_neox", "gemma2"])
def test_normed_states_are_what_the_modules_read(kind: str) -> None:
    model, trace = case(kind)
    block = model.hf.get_submodule(reference.prefix(kind, LAYER))
    attention = getattr(block, {"gpt2": "attn", "gpt_neox": "attention"}.get(kind, "self_attn"))
    seen = inputs_of(model, trace, {"attention": attention, "MLP": block.mlp})
    found = analysis.block(model, trace, LAYER, POSITION)
    for name, step in (("attention", "Normed for attention"), ("MLP", "Normed for the MLP")):
        at = found.steps.index(step)
        assert found.lengths[at] == pytest.approx(np.linalg.norm(seen[name]), rel=1e-4)
        order = np.argsort(-np.abs(seen[name]))[:2]
        assert found.coordinates[at, :2].tolist() == order.tolist()
    scale, _ = reference.input_norm(kind, model.hf.state_dict(), LAYER)
    assert found.norm_coordinates[0, 0] == int(scale.abs().argmax())


def test_sources_and_neurons_by_hand() -> None:
    model, trace = case("llama")
    found = analysis.block(model, trace, LAYER, POSITION, neurons=48)
    _, _, _, out = reference.projections("llama", model.hf, LAYER)
    values = trace.value_of(LAYER).astype(np.float64)
    whole = trace.attn_out[LAYER, POSITION].astype(np.float64)
    for head in range(4):
        for key in range(POSITION + 1):
            brought = found.weights[head, key] * values[head // 2, key] @ out[head].numpy()
            assert found.brought[head, key] == pytest.approx(np.linalg.norm(brought), abs=1e-5)
            cosine = brought @ whole / np.linalg.norm(brought) / np.linalg.norm(whole)
            assert found.brought_cosines[head, key] == pytest.approx(cosine, abs=1e-4)
    mlp = model.hf.model.layers[LAYER].mlp
    seen = inputs_of(model, trace, {"down": mlp.down_proj})["down"].astype(np.float64)
    last = trace.resid[-1, POSITION].astype(np.float64)
    norm = model.hf.model.norm.weight.double().numpy()
    row = model.hf.lm_head.weight.double().numpy()[found.token]
    frozen = norm * row / np.sqrt((last**2).mean() + 1e-6)
    effects = seen * (mlp.down_proj.weight.double().numpy().T @ frozen)
    np.testing.assert_allclose(found.effects, effects[found.neurons], atol=1e-5)
    assert np.abs(effects).argmax() == found.neurons[0]
    assert found.neuron_readers == ("gate_proj", "up_proj")
    scale = model.hf.model.layers[LAYER].post_attention_layernorm.weight.double().numpy()
    gate = mlp.gate_proj.weight.double().numpy()[found.neurons[0]] * scale
    along = model.hf.model.embed_tokens.weight.double().numpy() @ gate
    assert found.neuron_reads[0, 0].tolist() == np.argsort(-along)[:4].tolist()


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_states_are_decoded_by_the_chosen_decoder(kind: str) -> None:
    """Row 0 of E · N(h), the input decoder, by hand for three states."""
    model, trace = case(kind)
    found = analysis.block(model, trace, LAYER, POSITION, decoder="input")
    matrix = model.hf.get_input_embeddings().weight.double().numpy()
    norm = model.hf.transformer.ln_f if kind == "gpt2" else model.hf.model.norm
    states = {
        "State in": trace.resid[LAYER, POSITION],
        "State after attention": trace.middle(LAYER)[POSITION],
        "State out": trace.resid[LAYER + 1, POSITION],
    }
    for name, state in states.items():
        with torch.no_grad():
            normed = norm(torch.from_numpy(state.copy())).double().numpy()
        wanted = np.argsort(-(matrix @ normed))[:4]
        assert found.step_tokens[found.steps.index(name)].tolist() == wanted.tolist()
    with pytest.raises(analysis.AnalysisError, match="decoder"):
        analysis.block(model, trace, LAYER, POSITION, decoder="none such")


def test_what_a_block_does_not_offer_is_named() -> None:
    bloom = built.understood(zoo.make("bloom"), "bloom")
    found = analysis.block(bloom, analysis.trace(bloom, (4, 9, 33, 2)), 1, 3)
    assert "inside its own code" in found.scores_missing
    assert np.isnan(found.content).all()
    assert found.attention_error < 1e-5
    mamba = built.understood(zoo.make("mamba"), "mamba")
    trace = analysis.trace(mamba, (4, 9, 33, 2))
    opened = analysis.block(mamba, trace, 1, 3)
    assert "no attention" in opened.heads_missing
    assert opened.state_error < 1e-5
    model, own = case("llama")
    for place in ((LAYER, 1, 2, 5), (LAYER, 9, 5, 2), (9, 1, 5, 2)):
        with pytest.raises(analysis.AnalysisError):
            analysis.score_parts(model, own, *place)
    steered = analysis.trace(
        model, own.token_ids, analysis.interventions.Steer(1, 5, torch.ones(32))
    )
    with pytest.raises(analysis.AnalysisError, match="not the sum"):
        analysis.score_parts(model, steered, LAYER, 1, 5, 2)


def test_aggregation_by_hand() -> None:
    model, trace = case("llama")
    found = analysis.aggregation_report(model, trace, rank=3)
    assert found.positions == 6
    for layer in range(3):
        for name, array in (("attention", trace.attn_out), ("mlp", trace.mlp_out)):
            shares = []
            for position in range(3, 9):
                states = trace.resid[layer, : position + 1].astype(np.float64)
                basis = np.linalg.svd(states.T)[0][:, :3]
                one = array[layer, position].astype(np.float64)
                shares.append(((basis.T @ one) ** 2).sum() / (one**2).sum())
            assert getattr(found, name)[layer] == pytest.approx(np.mean(shares), abs=1e-4)
    assert abs(float(found.attention_control.mean()) - 3 / 32) < 0.08
    with pytest.raises(analysis.AnalysisError, match="no span"):
        analysis.aggregation_report(model, trace, rank=9)
