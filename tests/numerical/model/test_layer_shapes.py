"""Models whose layers differ: no attention at all, or attention of different shapes."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import numpy as np
import pytest
from transformers.models.llama.modeling_llama import LlamaAttention

import analysis
from analysis.errors import SpecError
from analysis.interventions import Ablate, KnockOut
from analysis.ledger import check
from analysis.model.handle import Model
from analysis.registry import TECHNIQUES
from analysis.tracing.storage import LayerArrays
from tests.support import built, every_architecture, tiny, zoo
from tests.support.example_specs import example_spec


def other_heads() -> Model:
    """A Llama whose middle layer has 2 heads with one KV head; the others have 4 and 2."""
    hf = tiny.tiny_llama()
    config = deepcopy(hf.config)
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = 2, 1, 8
    config._attn_implementation = "eager"
    hf.model.layers[1].self_attn = LlamaAttention(config, 1)
    return built.understood(tiny.randomise(hf, 3), "other heads")


def other_values() -> Model:
    """A small mimo_v2_flash: the first layer has 2 KV heads, the others have 4."""
    return built.understood(every_architecture.make("mimo_v2_flash"), "mimo_v2_flash")


def wide_heads() -> Model:
    """A small Gemma 4: the heads of the last layer are 64 times as wide as the others."""
    kind = "gemma4_unified_text"
    return built.understood(every_architecture.make(kind), kind)


UNEVEN = pytest.mark.parametrize("make", [other_heads, other_values, wide_heads])


def test_a_model_without_any_attention_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {**zoo.CONFIGS["jamba"], "attn_layer_period": 8, "attn_layer_offset": 7}
    monkeypatch.setitem(zoo.CONFIGS, "jamba", config)
    model = built.understood(zoo.make("jamba"), "jamba")
    assert not any(block.heads for block in model.stream.blocks)
    assert check(model).passed


@UNEVEN
def test_a_model_with_layers_of_different_shapes_passes_its_check(
    make: Callable[[], Model],
) -> None:
    model = make()
    shapes = {(block.heads, block.kv_heads, block.d_head) for block in model.stream.blocks}
    assert len(shapes) == 2
    ledger = check(model)
    assert ledger.passed
    assert not any("not measured" in entry.note for entry in ledger.entries)


@UNEVEN
def test_each_head_of_such_a_model_is_what_its_ablation_takes_away(
    make: Callable[[], Model],
) -> None:
    model = make()
    ids = built.ids(model, 6)
    whole = analysis.trace(model, ids)
    for layer, block in enumerate(model.stream.blocks):
        assert whole.pattern_of(layer).shape == (block.heads, 6, 6)
        assert whole.value_of(layer).shape == (block.kv_heads, 6, block.d_head)
        if block.post_norm is not None:  # its scale would change with the ablation
            continue
        heads = analysis.head_output(model, whole, layer)
        for head in range(block.heads):
            without = analysis.trace(model, ids, [Ablate("head", layer, head)])
            taken = whole.attn_out[layer] - without.attn_out[layer]
            np.testing.assert_allclose(heads[head], taken, atol=2e-6)


def test_layers_with_other_numbers_of_heads_have_patterns_of_their_own() -> None:
    model = other_heads()
    states = analysis.trace(model, built.ids(model, 5))
    assert isinstance(states.pattern, LayerArrays)
    assert [layer.shape for layer in states.pattern] == [(4, 5, 5), (2, 5, 5), (4, 5, 5)]
    assert [layer.shape for layer in states.sink] == [(4, 5), (2, 5), (4, 5)]
    assert states.nbytes > sum(layer.nbytes for layer in states.pattern)
    with pytest.raises(SpecError, match=r"trace\.pattern\[layer\]"):
        states.pattern[:, 0]


def test_a_head_that_only_other_layers_have_is_refused() -> None:
    model = other_heads()
    states = analysis.trace(model, built.ids(model, 5))
    with pytest.raises(SpecError, match="In layer 1, head 3 does not exist"):
        analysis.head_output(model, states, 1, 3)
    with pytest.raises(SpecError, match="In layer 1, head 2 does not exist"):
        analysis.trace(model, built.ids(model, 5), [KnockOut(1, 2, 3, 1)])
    with pytest.raises(SpecError, match="In layer 1, head 3 does not exist"):
        analysis.decode(model, states, component="head_output", head=3)
    grid = analysis.decode(model, states, component="head_output", head=3, rows=(0, 2))
    assert grid.probs.shape[:2] == (2, 5)


@UNEVEN
def test_every_technique_reads_layers_of_different_shapes(make: Callable[[], Model]) -> None:
    model = make()
    states = analysis.trace(model, built.ids(model, 6))
    for technique in TECHNIQUES:
        if technique.subject == "trace":
            spec = example_spec(technique.spec)
            if technique.name == "neurons" and make is other_values:
                with pytest.raises(SpecError, match="no single down projection"):
                    technique.load()(model, states, spec)  # a mixture of experts
            elif technique.name == "state_circuits" and make is wide_heads:
                with pytest.raises(SpecError, match="are not linear"):
                    technique.load()(model, states, spec)  # its values are normed
            else:
                assert technique.load()(model, states, spec) is not None, technique.name
