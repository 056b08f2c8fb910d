"""Any number of writers in a block, scaled residuals, gated heads, and models without attention."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch

import analysis
from analysis.errors import AnalysisError, SpecError, UnsupportedModelError
from analysis.flow_graph.options import FLOW_METHODS
from analysis.flow_graph.specs import FlowSpec, LinkSpec
from analysis.interventions import Ablate, KnockOut, Steer
from analysis.ledger import check, graph_error
from analysis.lens.options import COMPONENTS
from analysis.lens.specs import ColourSpec, LensSpec
from analysis.model.handle import Model
from analysis.registry import TECHNIQUES
from analysis.tracing.heads import head_parts
from tests.support import built, every_architecture

TOKENS = every_architecture.prompt(9)
#: Model type -> the parts that its blocks write.
PARTS = {
    "falcon_h1": ("attention", "mlp", "ssm"),
    "granitemoehybrid": ("attention", "mlp", "ssm"),
    "doge": ("attention", "mlp"),
    "zaya": ("attention", "mlp"),
    "nemotron_h": ("attention", "mlp", "ssm"),
    "gpt_neox_japanese": ("attention", "mlp"),
    "mamba": ("ssm",),
    "rwkv": ("mlp", "ssm"),
    "zamba": ("ssm",),
    "minimax": ("whole_block",),
    "longcat_flash": ("whole_block",),
}
GATED = ("qwen3_next", "bitnet", "laguna", "lfm3")


def understood(kind: str) -> Model:
    return built.understood(every_architecture.make(kind), kind)


def recorded(model: Model, kind: str) -> dict[str, torch.Tensor]:
    """The outputs of all modules in a run of the model itself."""
    found: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        """A hook that keeps the output of the module of this name."""

        def hook(module: Any, args: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if isinstance(first, torch.Tensor):
                found[name] = first.detach().clone()

        return hook

    handles = [part.register_forward_hook(keep(name)) for name, part in model.hf.named_modules()]
    with torch.no_grad():
        model.hf(input_ids=torch.tensor([TOKENS]), use_cache=False)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("kind", PARTS)
def test_the_parts_of_a_block_are_named_and_sum_to_the_next_row(kind: str) -> None:
    model = understood(kind)
    assert model.info.parts == PARTS[kind]
    ledger = check(model)
    assert ledger.passed, [entry for entry in ledger.entries if not entry.passed]
    trace = analysis.trace(model, TOKENS)
    for layer, after in enumerate(trace.resid[1:]):
        parts = [trace.kept(layer), trace.attn_out[layer], trace.mlp_out[layer]]
        parts += trace.others(layer).values()
        np.testing.assert_allclose(sum(parts), after, atol=1e-4 * np.abs(after).max())


def test_a_state_space_model_beside_attention_is_a_part_of_its_own() -> None:
    model = understood("falcon_h1")
    own = recorded(model, "falcon_h1")
    config = model.hf.config
    trace = analysis.trace(model, TOKENS)
    for layer in range(model.info.layers):
        block = f"model.layers.{layer}"
        mamba = own[f"{block}.mamba"][0] * config.ssm_out_multiplier
        attention = own[f"{block}.self_attn"][0] * config.attention_out_multiplier
        np.testing.assert_allclose(trace.other_out["ssm"][layer], mamba, atol=1e-5)
        np.testing.assert_allclose(trace.attn_out[layer], attention, atol=1e-5)
    attribution = analysis.attribute(model, trace)
    assert attribution.other_parts == ("ssm",)
    assert np.abs(attribution.others).min() > 0.0
    assert abs(attribution.residual_error) < 1e-4 * abs(attribution.logit)
    links = {link.kind for link in analysis.flow(model, trace, method="proximity").links}
    assert {"ssm", "attention", "mlp", "residual"} <= links
    grid = analysis.decode(model, trace, component="ssm_output")
    assert grid.token_ids.shape[0] == model.info.layers
    ablated = analysis.trace(model, TOKENS, [Ablate("ssm", 1)])
    assert not ablated.other_out["ssm"][1].any()
    assert ablated.attn_out[1].any()


def test_a_scaled_residual_is_carried_to_the_logit() -> None:
    """Each part is multiplied by the factors of all later rows, here by a loop."""
    model = understood("doge")
    trace = analysis.trace(model, TOKENS)
    assert trace.carry is not None
    for layer, block in enumerate(model.hf.model.layers):
        own = block.input_residual * block.post_attention_residual
        np.testing.assert_allclose(trace.carry[layer], own.detach(), rtol=1e-3, atol=1e-5)
    total = trace.resid[0]
    for layer in range(model.info.layers):
        total = total * trace.carry[layer] + trace.attn_out[layer] + trace.mlp_out[layer]
    np.testing.assert_allclose(total, trace.resid[-1], atol=1e-5)
    attribution = analysis.attribute(model, trace)
    assert abs(attribution.residual_error) < 1e-4 * abs(attribution.logit)


@pytest.mark.parametrize("kind", GATED)
def test_gated_heads_are_what_enters_the_projection(kind: str) -> None:
    """Against the projection's own input, cut per head, and its own weight."""
    model = understood(kind)
    layer = next(i for i, block in enumerate(model.stream.blocks) if block.gated)
    block = model.stream.blocks[layer]
    read: list[torch.Tensor] = []
    handle = block.projection.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    with torch.no_grad():
        model.hf(input_ids=torch.tensor([TOKENS]), use_cache=False)
    handle.remove()
    trace = analysis.trace(model, TOKENS)
    heads = analysis.head_output(model, trace, layer)
    by_head = read[0][0].view(len(TOKENS), block.heads, block.d_head)
    weight = block.projection.weight.view(-1, block.heads, block.d_head)
    wanted = torch.einsum("qhd,ohd->hqo", by_head, weight).detach().numpy()
    scale = np.abs(wanted).max()
    if block.post_norm is None:
        np.testing.assert_allclose(heads, wanted, atol=1e-5 * scale)
    parts = head_parts(model, trace, layer)
    for query in range(len(TOKENS)):
        total = parts.sources(query).sum(1).numpy()
        np.testing.assert_allclose(total, heads[:, query], atol=1e-5 * np.abs(heads).max())
    spec = LensSpec(component="source_output", head=1, source=2)
    states = COMPONENTS["source_output"].load()(model, trace, spec, layer)
    np.testing.assert_allclose(states[5], parts.sources(5)[1, 2], atol=1e-5 * np.abs(heads).max())
    for method in ("proximity", "norm", "projection", "value_weighted", "signed"):
        graph = analysis.flow(model, trace, method=method)
        if method != "signed":
            assert graph_error(graph) < 1e-5
    ablated = analysis.trace(model, TOKENS, [Ablate("head", layer, head=1)])
    assert not np.abs(analysis.head_output(model, ablated, layer)[1]).any()
    parts = head_parts(model, ablated, layer)
    total = parts.heads().sum(0).numpy() + parts.bias.numpy()
    np.testing.assert_allclose(total, ablated.attn_out[layer], atol=1e-5 * scale)


def test_a_function_of_the_heads_that_is_no_gate_is_not_split() -> None:
    model = understood("diffllama")
    assert not model.info.split_heads
    assert model.info.missing


def test_a_model_without_attention_shows_its_stream_and_refuses_the_rest() -> None:
    model = understood("mamba")
    trace = analysis.trace(model, TOKENS)
    assert model.info.heads == 0
    assert "no attention patterns" in model.info.missing[0]
    grid = analysis.decode(model, trace)
    assert grid.token_ids[-1, -1, 0] == trace.logits[-1].argmax()
    assert abs(analysis.attribute(model, trace).residual_error) < 1e-4
    for method in set(FLOW_METHODS) - {"effect"}:
        kinds = {link.kind for link in analysis.flow(model, trace, method=method).links}
        assert not kinds & {"attention", "mlp", "bias"} or method == "signed"
        assert "ssm" in kinds or method == "rollout"
    for refused in (
        lambda: analysis.decode(model, trace, component="attention_output"),
        lambda: analysis.flow(model, trace, method="effect"),
        lambda: analysis.trace(model, TOKENS, [KnockOut(1, None, 4, 2)]),
        lambda: analysis.trace(model, TOKENS, [Ablate("mlp", 1)]),
    ):
        with pytest.raises(SpecError):
            refused()
    parts = {part.kind for part in analysis.attribute(model, trace).parts}
    assert parts == {"embedding", "ssm"}
    assert analysis.steps(model, trace).largest[0].component == "ssm"
    commits = analysis.emergence(model, trace)
    assert commits is not None


@pytest.mark.parametrize("kind", ["minimax", "longcat_flash"])
def test_blocks_that_cannot_be_split_count_as_a_whole(kind: str) -> None:
    model = understood(kind)
    trace = analysis.trace(model, TOKENS)
    outputs = recorded(model, kind)
    names = {id(module): name for name, module in model.hf.named_modules()}
    states = [outputs[names[id(block.module)]][0] for block in model.stream.blocks]
    for layer in range(1, len(states)):
        wanted = states[layer] - states[layer - 1]
        np.testing.assert_allclose(trace.others(layer)["whole_block"], wanted, atol=1e-6)
    notes = [entry.note for entry in check(model).entries]
    assert f"{len(states)} blocks can't be split into attention and MLP" in notes
    attribution = analysis.attribute(model, trace)
    assert attribution.other_parts == ("whole_block",)
    assert abs(attribution.residual_error) < 1e-4
    assert "whole_block" in {
        link.kind for link in analysis.flow(model, trace, method="proximity").links
    }
    assert analysis.steps(model, trace).largest[0].component == "whole_block"
    for component in ("attention_output", "mlp_output"):
        with pytest.raises(SpecError):
            analysis.decode(model, trace, component=component)
    with pytest.raises(SpecError, match="causal commit"):
        analysis.emergence(model, trace)
    assert analysis.emergence(model, trace, causal=False).causal_commit is None


def test_a_steered_state_does_not_count_as_written_by_a_whole_block() -> None:
    model = understood("minimax")
    vector = np.linspace(-1.0, 1.0, model.info.d_model).astype(np.float32)
    steered = analysis.trace(model, TOKENS, [Steer(2, -1, vector)])
    plain = analysis.trace(model, TOKENS)
    np.testing.assert_allclose(
        steered.others(1)["whole_block"], plain.others(1)["whole_block"], atol=1e-6
    )
    attribution = analysis.attribute(model, steered)
    assert abs(attribution.interventions) > 1e-3
    assert abs(attribution.residual_error) < 1e-4


def test_a_part_that_a_block_lacks_has_no_share() -> None:
    model = understood("nemotron_h")
    trace = analysis.trace(model, TOKENS)
    without = [i for i, block in enumerate(model.stream.blocks) if not block.of("mlp")]
    assert without
    compute = next(one for one in TECHNIQUES if one.name == "colours").load()
    colours = compute(model, trace, ColourSpec())
    for method in colours.methods:
        assert not colours.share("mlp", method)[without].any()
        total = sum(colours.share(part, method) for part in colours.parts)
        np.testing.assert_allclose(total, 1.0, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("bert", "post-norm"),
        ("qwen4_exp_text", "several residual streams"),
        ("deepseek_v4", "several residual streams"),
        ("cpmant", "39 positions for a prompt of 7 tokens"),
    ],
)
def test_a_model_is_refused_for_the_true_reason(kind: str, reason: str) -> None:
    with pytest.raises(UnsupportedModelError, match=reason):
        understood(kind)


def test_an_encoder_is_refused_because_it_sees_later_positions() -> None:
    hf = every_architecture.make("roberta-prelayernorm")
    hf.config.is_decoder = False
    with pytest.raises(UnsupportedModelError, match="attends to later positions"):
        built.understood(hf, "encoder")


@pytest.mark.parametrize(
    "kind", ["mamba", "falcon_h1", "qwen3_next", "doge", "modernbert-decoder", "diffllama"]
)
def test_every_technique_gives_a_result_or_a_typed_error(kind: str) -> None:
    model = understood(kind)
    trace = analysis.trace(model, TOKENS)
    links = [LinkSpec(name, 1, 3, 3) for name in ("attention", "residual", "mlp", "bias", "ssm")]
    done = 0
    for technique in TECHNIQUES:
        if technique.subject != "trace":
            continue
        for spec in (*links, *(FlowSpec(method=name) for name in FLOW_METHODS), None):
            try:
                given = technique.spec() if spec is None else spec
            except TypeError:
                continue
            if type(given) is not technique.spec:
                continue
            with suppress(AnalysisError):
                technique.load()(model, trace, given)
                done += 1
    assert done > 5
