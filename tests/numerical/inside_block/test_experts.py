"""Chosen experts against loops over the weights of a Mixtral and a DeepSeek-V3."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import analysis
from analysis.export.sheets import one_frame
from analysis.model.handle import Model
from tests.numerical.weights import reference

POSITION = 6


def silu(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / (1 + np.exp(-x)))


class Layer:
    """The MLP of one layer, by its weights, in float64."""

    def __init__(self, model: Model, layer: int) -> None:
        state = model.hf.state_dict()
        at = f"model.layers.{layer}"
        self.w = {
            name.removeprefix(f"{at}.mlp."): value.double().numpy()
            for name, value in state.items()
            if name.startswith(f"{at}.mlp.")
        }
        self.norm = state[f"{at}.post_attention_layernorm.weight"].double().numpy()

    def read(self, middle: np.ndarray) -> np.ndarray:
        root = np.sqrt((middle**2).mean() + 1e-6)
        return np.asarray(middle / root * self.norm)

    def expert(self, number: int, read: np.ndarray) -> np.ndarray:
        gate, up = np.split(self.w["experts.gate_up_proj"][number] @ read, 2)
        return np.asarray(self.w["experts.down_proj"][number] @ (silu(gate) * up))

    def shared(self, read: np.ndarray) -> np.ndarray:
        gate, up, down = (self.w[f"shared_experts.{n}_proj.weight"] for n in ("gate", "up", "down"))
        return np.asarray(down @ (silu(gate @ read) * (up @ read)))


def routed(kind: str, config: Any, layer: Layer, read: np.ndarray) -> dict[int, float]:
    """Expert -> weight, as the papers of the two models define them."""
    logits = layer.w["gate.weight"] @ read
    if kind == "mixtral":
        shares = np.exp(logits) / np.exp(logits).sum()
        best = np.argsort(-shares)[: config.num_experts_per_tok]
        return {int(one): shares[one] / shares[best].sum() for one in best}
    shares = 1 / (1 + np.exp(-logits))
    wanted = shares + layer.w["gate.e_score_correction_bias"]
    groups = wanted.reshape(config.n_group, -1)
    kept = np.argsort(-np.sort(groups, 1)[:, -2:].sum(1))[: config.topk_group]
    outside = ~np.isin(np.arange(len(wanted)) // groups.shape[1], kept)
    best = np.argsort(-np.where(outside, -np.inf, wanted))[: config.num_experts_per_tok]
    total = shares[best].sum() if config.norm_topk_prob else 1.0
    return {int(one): shares[one] / total * config.routed_scaling_factor for one in best}


@pytest.mark.parametrize("kind", ["mixtral", "deepseek_v3"])
def test_chosen_experts_by_their_weights(kind: str) -> None:
    model = reference.model_of(kind)
    trace = analysis.trace(model, reference.tokens_of(model))
    number = model.info.layers - 1  # the first layers of DeepSeek-V3 are dense
    found = analysis.experts(model, trace, number, POSITION)
    layer = Layer(model, number)
    middle = trace.middle(number)[POSITION].astype(np.float64)
    read = layer.read(middle)
    wanted = routed(kind, model.hf.config, layer, read)
    order = sorted(wanted, key=lambda one: -wanted[one])
    assert found.chosen.tolist() == order
    assert found.count == len(layer.w["experts.down_proj"])
    np.testing.assert_allclose(found.weights, [wanted[one] for one in order], rtol=1e-5)
    parts = [wanted[one] * layer.expert(one, read) for one in order]
    parts.append(layer.shared(read) if kind == "deepseek_v3" else np.zeros_like(read))
    np.testing.assert_allclose(found.lengths, np.linalg.norm(parts, axis=1), rtol=1e-4, atol=1e-5)
    assert found.error < 1e-5
    whole = trace.mlp_out[number, POSITION].astype(np.float64)
    np.testing.assert_allclose(np.sum(parts, 0), whole, atol=1e-5)
    last = trace.resid[-1, POSITION].astype(np.float64)
    scale = model.hf.model.norm.weight.double().numpy() / np.sqrt((last**2).mean() + 1e-6)
    logits = np.stack(parts) * scale @ model.hf.lm_head.weight.double().numpy().T
    np.testing.assert_allclose(found.effects, logits[:, found.token], rtol=1e-3, atol=1e-5)
    assert found.tokens[0].tolist() == np.argsort(-logits[0])[:4].tolist()
    assert found.token == int(np.argmax(trace.logits[POSITION]))
    assert found.name(len(order)) == "Shared experts and biases"
    assert len(one_frame(found).rows) == len(order) + 1


def test_a_dense_layer_has_no_experts_and_says_so() -> None:
    model = reference.model_of("llama")
    trace = analysis.trace(model, reference.tokens_of(model))
    found = analysis.experts(model, trace, 1, POSITION)
    assert "has no experts" in found.missing
    assert found.chosen.size == found.count == 0
    assert found.lengths.tolist() == pytest.approx([np.linalg.norm(trace.mlp_out[1, POSITION])])
