"""What the method effect refuses, and what it says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import analysis
from analysis.errors import BackwardError, NotEnoughMemoryError, SpecError
from analysis.flow_graph.specs import FlowSpec
from analysis.model import memory
from tests.support import built, every_architecture, zoo

TOKENS = (5, 9, 33, 2, 8, 41, 7, 60)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"row": 1}, "starts at the last row"),
        ({"position": (1, 2)}, "explains one position"),
        ({"direction": "up", "row": -1}, "goes down"),
        ({"baseline": "resample"}, "one second prompt"),
        ({"baseline": "zero", "prompts": ("a",)}, "no prompts"),
        ({"baseline": "reference"}, "at least one prompt"),
        ({"target": "kl"}, "has no gradient"),
        ({"target": "kl", "baseline": "resample", "prompts": ("a",), "token": 3}, "no token"),
        ({"baseline": "resample", "prompts": ("a",)}, "has 1 tokens, but 8 are needed"),
    ],
)
def test_what_has_no_effect_graph_is_refused(options: dict[str, Any], said: str) -> None:
    model = built.understood(zoo.make("llama"), "llama")
    with pytest.raises(SpecError, match=said):
        analysis.flow(model, analysis.trace(model, TOKENS), method="effect", **options)


def test_four_bit_weights_are_refused_with_the_reason() -> None:
    model = built.understood(zoo.make("llama"), "llama")
    run = analysis.trace(model, TOKENS)
    object.__setattr__(model, "info", replace(model.info, quantised="4bit"))
    with pytest.raises(SpecError, match="4-bit weights can't run backward"):
        analysis.flow(model, run, method="effect")
    assert analysis.flow(model, run).method == "proximity"


def test_a_model_that_cannot_run_backward_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = built.understood(zoo.make("llama"), "llama")
    run = analysis.trace(model, TOKENS)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("no backward for this kernel")

    monkeypatch.setattr(torch.autograd, "grad", fail)
    for options in ({"method": "effect"}, {"token": 3}):
        with pytest.raises(BackwardError, match="no backward for this kernel"):
            analysis.flow(model, run, **options)
    assert analysis.flow(model, run).method == "proximity"


@pytest.mark.parametrize(
    ("options", "method"),
    [
        ({}, "effect"),
        ({"row": 3, "budget": 9}, "effect"),
        ({"token": 3, "foil": 4}, "effect"),
        ({"row": 1}, "proximity"),
        ({"position": (1, 2)}, "proximity"),
        ({"direction": "up"}, "proximity"),
        ({"fold_sinks": True}, "proximity"),
        ({"hide_start": "loss"}, "proximity"),
        ({"method": "norm"}, "norm"),
    ],
)
def test_without_a_method_the_graph_shows_effects_where_it_can(
    options: dict[str, Any], method: str
) -> None:
    model = built.understood(zoo.make("llama"), "llama")
    run = analysis.trace(model, TOKENS)
    graph = analysis.flow(model, run, **options)
    assert graph.method == method
    named = analysis.flow(model, run, **{**options, "method": method})
    np.testing.assert_array_equal(graph.link_flow, named.link_flow)
    assert not graph.link_measured.any()
    assert analysis.compute(model, FlowSpec.from_options(**options), run).method == method


def test_a_token_needs_a_graph_in_logits() -> None:
    with pytest.raises(SpecError, match="The method effect explains one logit"):
        FlowSpec(token=3, direction="up")


def test_an_attention_that_runs_twice_in_a_pass_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = built.understood(zoo.make("llama"), "llama")
    run = analysis.trace(model, TOKENS)
    attention = model.stream.blocks[1].attention
    assert attention is not None
    own = attention.forward

    def twice(*args: Any, **kwargs: Any) -> Any:
        own(*args, **kwargs)
        return own(*args, **kwargs)

    monkeypatch.setattr(attention, "forward", twice)
    with pytest.raises(SpecError, match="layer 1 ran 2 times in one pass"):
        analysis.flow(model, run, method="effect")


def test_heads_that_cannot_be_split_are_refused_with_a_method_that_works() -> None:
    model = built.understood(every_architecture.make("diffllama"), "diffllama")
    run = analysis.trace(model, TOKENS)
    with pytest.raises(SpecError, match="can't be split into heads") as refused:
        analysis.flow(model, run, method="effect")
    assert refused.value.hint == "Choose the method residual_norm."
    assert analysis.flow(model, run, method="residual_norm").links


def test_a_graph_of_all_links_that_does_not_fit_is_refused_with_both_figures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(zoo.CONFIGS["llama"], "max_position_embeddings", 512)
    model = built.understood(zoo.make("llama"), "llama")
    run = analysis.trace(model, [position % 50 for position in range(400)])
    monkeypatch.setattr(memory, "free", lambda *_: 70_000_000)
    heads = sum(block.heads for block in model.stream.blocks)
    needed = heads * 400 * 401 // 2 * 120
    assert needed > 70_000_000
    for options in ({"exact": True, "budget": 9}, {}):
        with pytest.raises(NotEnoughMemoryError) as caught:
            analysis.flow(model, run, method="effect", **options)
        said = f"A graph of all links of 400 tokens needs up to {needed / 1e9:.1f} GB; 70.0 MB are"
        assert said in caught.value.message
        assert "budget" in caught.value.hint
    assert len(analysis.flow(model, run, method="effect", budget=9).links) == 9
