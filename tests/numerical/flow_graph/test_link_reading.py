"""What links write and which neurons write it, against full-vocabulary arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

import analysis
from analysis import codec
from analysis.flow_graph import link_reading
from analysis.flow_graph.specs import LinkSpec, NeuronSpec
from analysis.model.handle import Model
from analysis.tracing.capture import Trace
from tests.numerical import flow_reference
from tests.support import built, zoo

TOKENS = (5, 9, 33, 2, 8, 41, 7, 60)


@dataclass(frozen=True)
class Pair:
    """A model with its trace, and the same run by slow arithmetic."""

    model: Model
    trace: Trace
    slow: flow_reference.Slow


@pytest.fixture(scope="module", params=["llama", "phi", "olmo2", "gemma2"])
def pair(request: pytest.FixtureRequest) -> Pair:
    model = built.understood(zoo.make(request.param), request.param)
    slow = flow_reference.forward(zoo.make(request.param).double(), TOKENS)
    return Pair(model, analysis.trace(model, TOKENS), slow)


def every_logit(slow: flow_reference.Slow, part: np.ndarray, at: int) -> np.ndarray:
    """[vocab] what a part adds to each logit, the final norm's scale frozen at the last state."""
    state, centre = slow.rows[-1][at], 0.0
    if slow.parallel:
        part, centre = part - part.mean(), state.mean()
    sigma = np.sqrt(((state - centre) ** 2).mean() + flow_reference._eps(slow.norm))
    scaled = part / sigma * flow_reference._scale(slow.norm).numpy()
    return np.array([float(row.numpy() @ scaled) for row in slow.hf.lm_head.weight])


def kl(one: np.ndarray, other: np.ndarray) -> float:
    return float(sum(np.exp(p) * (p - q) for p, q in zip(one, other, strict=True)))


def vector_of(slow: flow_reference.Slow, spec: LinkSpec) -> np.ndarray:
    at, layer = spec.target_pos, spec.layer
    if spec.kind == "attention":
        heads = slow.vectors[layer][:, at, spec.source_pos]
        return heads.sum(0) if spec.head is None else heads[spec.head]
    return {
        "mlp": slow.mlp[layer][at],
        "residual": slow.rows[layer][at],
        "bias": slow.biases[layer][at],
    }[spec.kind]


@pytest.mark.parametrize(
    "spec",
    [
        LinkSpec("attention", 1, 3, 6, head=2, k=4),
        LinkSpec("attention", 2, 0, 7, k=4),
        LinkSpec("mlp", 1, 5, 5, k=4),
        LinkSpec("residual", 2, 4, 4, k=4),
        LinkSpec("bias", 0, 4, 4, k=4),
    ],
    ids=["head", "heads", "mlp", "residual", "bias"],
)
def test_a_link_reading_equals_the_full_vocabulary_computation(pair: Pair, spec: LinkSpec) -> None:
    reading = link_reading.compute(pair.model, pair.trace, spec)
    vector = vector_of(pair.slow, spec)
    logits = every_logit(pair.slow, vector, spec.target_pos)
    order = np.argsort(-logits, kind="stable")
    np.testing.assert_allclose(reading.promoted_logits, logits[order[:4]], atol=1e-4)
    np.testing.assert_allclose(reading.suppressed_logits, logits[order[::-1][:4]], atol=1e-4)
    np.testing.assert_allclose(logits[reading.promoted], reading.promoted_logits, atol=1e-4)
    assert reading.norm == pytest.approx(float(np.linalg.norm(vector)), rel=1e-4, abs=1e-6)
    kind = "block" if spec.kind == "mlp" else "mid"
    kind = "parallel" if pair.slow.parallel else kind
    whole, _ = flow_reference.wholes(pair.slow, kind, spec.layer, spec.target_pos)
    part = float(np.linalg.norm(vector) / np.linalg.norm(whole))
    assert reading.share_of_norm == pytest.approx(part, rel=1e-4, abs=1e-6)
    target = pair.slow.lens(whole)
    assert reading.kl_without == pytest.approx(kl(target, pair.slow.lens(whole - vector)), abs=1e-4)
    if np.any(vector):
        wanted = kl(target, pair.slow.lens(vector))
        assert reading.kl_source == pytest.approx(wanted, rel=1e-3, abs=1e-4)
    assert {token.id for token in reading.vocabulary} >= set(reading.promoted.tolist())
    assert codec.decode(codec.encode(reading)).norm == reading.norm


def down_projection(pair: Pair, layer: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights [neuron, d], bias [d], and what enters [pos, neuron], by the module's own name."""
    block = pair.slow.hf.model.layers[layer]
    module = block.mlp.fc2 if pair.slow.parallel else block.mlp.down_proj
    came: list[torch.Tensor] = []
    handle = module.register_forward_pre_hook(lambda m, args: came.append(args[0][0]))
    with torch.no_grad():
        pair.slow.hf(input_ids=torch.tensor([TOKENS]), use_cache=False)
    handle.remove()
    bias = np.zeros(module.out_features) if module.bias is None else module.bias.numpy()
    return module.weight.T.double().numpy(), bias, came[0].double().numpy()


@pytest.mark.parametrize(("layer", "at"), [(0, 2), (2, 7)])
def test_neurons_equal_explicit_vectors(pair: Pair, layer: int, at: int) -> None:
    weight, bias, came = down_projection(pair, layer)
    vectors = [came[at, n] * weight[n] for n in range(len(weight))]
    raw = sum(vectors) + bias
    if pair.slow.hf.config.model_type in ("olmo2", "gemma2"):
        post = pair.slow.hf.model.layers[layer].post_feedforward_layernorm
        root = 1.0 / np.sqrt((raw**2).mean() + flow_reference._eps(post))
        vectors = [v * root * flow_reference._scale(post).numpy() for v in vectors]
    token = int(pair.trace.logits[at].argmax())
    each = np.array([every_logit(pair.slow, v, at)[token] for v in vectors])
    found = link_reading.compute_neurons(
        pair.model, pair.trace, NeuronSpec(layer, at, k=6, tokens=3)
    )
    assert (found.token, found.size) == (token, len(weight))
    np.testing.assert_allclose(found.logit, each[found.neuron], atol=1e-4)
    np.testing.assert_allclose(np.abs(found.logit), np.sort(np.abs(each))[::-1][:6], atol=1e-4)
    np.testing.assert_allclose(found.activation, came[at, found.neuron], atol=1e-4)
    for place, neuron in enumerate(found.neuron.tolist()):
        logits = np.sort(every_logit(pair.slow, vectors[neuron], at))[::-1]
        np.testing.assert_allclose(found.token_logits[place], logits[:3], atol=1e-4)
    whole = every_logit(pair.slow, pair.slow.mlp[layer][at], at)[token]
    assert found.total == pytest.approx(whole, abs=1e-4)


def test_neurons_sum_to_what_attribution_gives_the_mlp(pair: Pair) -> None:
    parts = analysis.attribute(pair.model, pair.trace, position=6, token=3, foil=8)
    spec = NeuronSpec(1, 6, token=3, foil=8, by="norm", k=5)
    found = link_reading.compute_neurons(pair.model, pair.trace, spec)
    assert found.total == pytest.approx(float(parts.mlps[1]), abs=1e-4)
    assert found.norm.tolist() == sorted(found.norm.tolist(), reverse=True)


@pytest.mark.parametrize("kind", ["gpt2", "opt", "gptj", "granite", "bloom"])
def test_neurons_of_other_types_sum_to_attribution(kind: str) -> None:
    """MLPs with other classes and names, flattened positions, or a residual multiplier."""
    model = built.understood(zoo.make(kind), kind)
    trace = analysis.trace(model, TOKENS)
    parts = analysis.attribute(model, trace, position=-1)
    for layer in range(model.info.layers):
        found = link_reading.compute_neurons(model, trace, NeuronSpec(layer))
        assert found.total == pytest.approx(float(parts.mlps[layer]), abs=1e-4)


@pytest.mark.parametrize("kind", ["mixtral", "qwen2_moe", "gpt_oss"])
def test_experts_are_refused_with_a_message(kind: str) -> None:
    model = built.understood(zoo.make(kind), kind)
    trace = analysis.trace(model, TOKENS)
    with pytest.raises(analysis.AnalysisError, match="experts"):
        link_reading.compute_neurons(model, trace, NeuronSpec(1))
    assert np.array_equal(analysis.trace(model, TOKENS).logits, trace.logits)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (LinkSpec, {"kind": "mlp", "source_pos": 1, "target_pos": 2}, "Only attention"),
        (LinkSpec, {"kind": "glue", "source_pos": 1, "target_pos": 1}, "kind of link"),
        (LinkSpec, {"kind": "mlp", "source_pos": 1, "target_pos": 1, "k": 0}, "At least one"),
        (NeuronSpec, {"by": "luck"}, "order"),
        (NeuronSpec, {"k": 0}, "At least one"),
    ],
)
def test_invalid_options_are_refused_with_a_message(kind: Any, options: Any, words: str) -> None:
    with pytest.raises(analysis.AnalysisError, match=words):
        kind(layer=0, **options)


def test_a_link_from_the_future_is_refused(pair: Pair) -> None:
    with pytest.raises(analysis.AnalysisError, match="can't see"):
        link_reading.compute(pair.model, pair.trace, LinkSpec("attention", 0, 5, 2))
