"""One test for each fault of a report on other decoders, through the public functions only.

The faults were present in commit 27ee109. Other files test each of them in depth.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import analysis
from analysis.interventions import Ablate, KnockOut, Steer
from tests.support import adapters, built, every_architecture, tiny, zoo

TOKENS = every_architecture.prompt(9)


def llama(**changes: Any) -> Any:
    """A small random Llama with other settings."""
    values = {**tiny.tiny_llama().config.to_dict(), **changes}
    return tiny.randomise(LlamaForCausalLM(LlamaConfig(**values)), 0)


def sum_of_heads(model: Any, states: Any, layer: int) -> Any:
    heads = analysis.head_output(model, states, layer)
    return heads.sum(0) + analysis.attention_bias(model, states, layer)


@pytest.mark.parametrize("kind", ["deepseek_v32", "glm_moe_dsa"])
def test_01_sparse_attention_gives_the_models_own_logits(kind: str) -> None:
    tokens = every_architecture.prompt(40)
    own = every_architecture.make(kind)
    wanted = every_architecture.logits(deepcopy(own), tokens).numpy()
    found = analysis.trace(built.understood(own, kind), tokens).logits
    assert np.linalg.norm(found - wanted) <= 1e-4 * np.linalg.norm(wanted)


def test_02_an_ablated_head_has_no_output() -> None:
    model = built.understood(tiny.tiny_llama())
    states = analysis.trace(model, TOKENS, [Ablate("head", 1, head=2)])
    assert not analysis.head_output(model, states, 1, 2).any()


def test_03_a_query_without_keys_reads_no_later_token() -> None:
    model = built.understood(tiny.tiny_llama())
    cuts = [KnockOut(1, None, 2, key) for key in range(3)]
    one, other = (analysis.trace(model, [5, 6, 7, last], cuts).logits for last in (8, 9))
    np.testing.assert_allclose(one[:3], other[:3], atol=1e-6)


def test_04_greedy_generation_is_the_argmax() -> None:
    hf = tiny.tiny_gpt2()
    model = built.understood(hf)
    wanted = list(TOKENS)
    for _ in range(6):
        wanted.append(int(analysis.trace(model, wanted).logits[-1].argmax()))
    hf.generation_config.repetition_penalty = 9.0
    hf.generation_config.eos_token_id = None
    assert analysis.generate(model, TOKENS, 6)[: len(wanted)] == tuple(wanted)


@pytest.mark.parametrize("kind", ["granite_swa", "granitemoe_swa"])
def test_05_a_model_that_is_served_passes_its_check(kind: str) -> None:
    assert built.understood(zoo.make(kind), kind).check().passed


def test_06_a_position_means_the_same_at_each_step() -> None:
    model = built.understood(tiny.tiny_llama())
    vector = 40.0 * torch.randn(32, generator=torch.Generator().manual_seed(0))
    answers = [
        analysis.generate(model, TOKENS, 8, interventions=[Steer(1, position, vector)])
        for position in (-1, len(TOKENS) - 1)
    ]
    assert answers[0] == answers[1]


def test_07_a_trace_of_another_model_is_refused() -> None:
    one, other = (built.understood(tiny.tiny_llama(seed), f"llama {seed}") for seed in (0, 1))
    with pytest.raises(analysis.AnalysisError, match="llama 0"):
        analysis.decode(other, analysis.trace(one, TOKENS))


def test_08_fractions_are_no_ids() -> None:
    model = built.understood(tiny.tiny_llama())
    with pytest.raises(analysis.AnalysisError, match=r"1\.5"):
        analysis.trace(model, [1.5, 2.7])


@pytest.mark.parametrize("kind", ["qwen3_next", "bitnet"])
def test_09_gated_heads_sum_to_attention(kind: str) -> None:
    model = built.understood(every_architecture.make(kind), kind)
    states = analysis.trace(model, TOKENS)
    layer = max(n for n, block in enumerate(model.stream.blocks) if block.heads)
    found, wanted = sum_of_heads(model, states, layer), states.attn_out[layer]
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("kind", ["mimo_v2_flash", "gemma4_unified_text"])
def test_10_layers_may_have_attention_of_different_shapes(kind: str) -> None:
    model = built.understood(every_architecture.make(kind), kind)
    states = analysis.trace(model, TOKENS)
    for layer in range(model.info.layers):
        found, wanted = sum_of_heads(model, states, layer), states.attn_out[layer]
        np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("kind", ["falcon_h1", "mamba"])
def test_11_blocks_may_have_one_writer_or_three(kind: str) -> None:
    model = built.understood(every_architecture.make(kind), kind)
    states = analysis.trace(model, TOKENS)
    written = states.attn_out + states.mlp_out + sum(states.other_out.values())
    wanted = states.resid[1:] - states.resid[:-1]
    np.testing.assert_allclose(written, wanted, atol=1e-5 * np.abs(wanted).max())


def test_12_the_text_decoder_of_a_composite_checkpoint_is_read(tmp_path: Path) -> None:
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    text = tiny.tiny_llama().config.to_dict()
    vision = {
        "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
        "projection_dim": 32,
    }  # fmt: skip
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=1)
    own = tiny.randomise(LlavaForConditionalGeneration(config), 0)
    model = analysis.load_model(str(tiny.save(own, tmp_path)), device="cpu")
    wanted = every_architecture.logits(own, TOKENS).numpy()
    np.testing.assert_allclose(analysis.trace(model, TOKENS).logits, wanted, atol=1e-4)


@pytest.mark.parametrize("part", ["self_attn.o_proj", "mlp.down_proj"])
def test_13_a_block_whose_part_writes_zero_is_read(part: str) -> None:
    hf = llama(attention_bias=False, mlp_bias=False)
    hf.model.layers[1].get_submodule(part).weight.data.zero_()
    model = built.understood(hf)
    states = analysis.trace(model, TOKENS)
    zero = states.attn_out if part.startswith("self_attn") else states.mlp_out
    assert not zero[1].any()
    assert zero[0].any()


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
def test_14_an_adapter_with_tokens_of_its_own_is_explained(
    tiny_llama_dir: Path, tmp_path: Path
) -> None:
    ends = ["embed_tokens", "lm_head"]
    adapters.write(
        tmp_path, tiny_llama_dir, more=3, target_modules=["q_proj"], modules_to_save=ends
    )
    with pytest.raises(analysis.AnalysisError, match="tokens and its base has"):
        analysis.load_model(str(tmp_path), device="cpu")


def test_14_scaled_positions_reach_beyond_the_configured_limit() -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
    model = built.understood(llama(max_position_embeddings=8, rope_parameters=rope))
    assert len(analysis.trace(model, [3] * 12).tokens) == 12
    with pytest.raises(analysis.AnalysisError, match="16 positions"):
        analysis.trace(model, [3] * 17)


def test_15_usual_arguments_are_taken_and_others_refused() -> None:
    model = built.understood(tiny.tiny_llama())
    states = analysis.trace(model, torch.tensor([list(TOKENS)]))
    assert states.token_ids == TOKENS
    grids = [
        analysis.decode(model, states, target=target)
        for target in (" the", np.int64(model.tokenizer(" the")["input_ids"][-1]))
    ]
    np.testing.assert_array_equal(grids[0].target_rank, grids[1].target_rank)
    with pytest.raises(analysis.AnalysisError, match="Did you mean 'decoder'"):
        analysis.decode(model, states, decodr="input")  # type: ignore[call-arg]
    with pytest.raises(analysis.AnalysisError, match="surrogate"):
        analysis.trace(model, "\ud800")


def test_16_a_trace_that_does_not_fit_is_refused_with_both_figures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = built.understood(llama(max_position_embeddings=4096))
    little = SimpleNamespace(available=100_000_000, total=100_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: little)
    figures = r"needs about [\d.]+ [GM]B.*100\.0 MB are free|0\.1 GB are free"
    with pytest.raises(analysis.AnalysisError, match=figures):
        analysis.trace(model, [3] * 2000)
