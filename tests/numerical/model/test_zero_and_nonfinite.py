"""Blocks that write nothing are read like any other; NaN, infinity and overflow are named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import analysis
from analysis.contract.ledger import LedgerSpec
from analysis.errors import NonFiniteError, UnsupportedModelError
from analysis.interventions import Steer
from analysis.ledger import check, check_run, require
from tests.support import built, zoo

#: Model type -> names of its attention's and MLP's output projections below a block.
PROJECTIONS = {
    "llama": ("self_attn.o_proj", "mlp.down_proj"),
    "gpt2": ("attn.c_proj", "mlp.c_proj"),
    "gemma2": ("self_attn.o_proj", "mlp.down_proj"),
    "granite": ("self_attn.o_proj", "mlp.down_proj"),
    "gpt_neox": ("attention.dense", "mlp.dense_4h_to_h"),
    "gptj": ("attn.out_proj", "mlp.fc_out"),
    "opt": ("self_attn.out_proj", "fc2"),
    "qwen2_moe": ("self_attn.o_proj", "mlp.experts"),
}


def blocks_of(hf: Any) -> Any:
    inner = getattr(hf, "model", None) or getattr(hf, "transformer", None) or hf.gpt_neox
    inner = getattr(inner, "decoder", inner)
    return getattr(inner, "layers", None) or inner.h


def blank(hf: Any, kind: str, layers: Any, parts: tuple[int, ...]) -> Any:
    """Set the chosen output projections of some layers to zero."""
    with torch.no_grad():
        for layer in layers:
            for part in parts:
                module = blocks_of(hf)[layer].get_submodule(PROJECTIONS[kind][part])
                for weight in module.parameters():
                    weight.zero_()
    return hf


@pytest.mark.parametrize("layers", [(1,), (0, 1, 2)], ids=["one layer", "every layer"])
@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        (kind, parts)
        for kind in PROJECTIONS
        for parts in ((0,), (1,), (0, 1))
        if kind != "qwen2_moe" or parts == (0,)  # its shared expert writes in any case
    ],
)
def test_a_zero_writer_is_no_ambiguity(kind: str, parts: tuple[int, ...], layers: Any) -> None:
    model = built.understood(blank(zoo.make(kind), kind, layers, parts), kind)
    require(model)
    usual = built.understood(zoo.make(kind), kind)
    for block, like in zip(model.stream.blocks, usual.stream.blocks, strict=True):
        assert type(block.attention_writer) is type(like.attention_writer)
        assert type(block.mlp_writer) is type(like.mlp_writer)
    if layers == (1,) or parts == (0,):
        assert model.info.parallel_blocks == usual.info.parallel_blocks
    trace = analysis.trace(model, [5, 9, 33, 2, 8])
    for layer in layers:
        assert 0 not in parts or not trace.attn_out[layer].any()
        assert 1 not in parts or not trace.mlp_out[layer].any()
    assert check(model).passed
    assert check_run(model, trace, LedgerSpec()).passed


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number_is_named(value: float) -> None:
    hf = zoo.make("llama")
    with torch.no_grad():
        hf.model.layers[1].mlp.up_proj.weight[3, 4] = value
    with pytest.raises(UnsupportedModelError, match=r"layers\.1\.mlp\.up_proj\.weight has NaN"):
        built.understood(hf)


def test_an_overflow_of_float16_is_named() -> None:
    hf = zoo.make("llama")
    with torch.no_grad():
        hf.model.layers[1].mlp.down_proj.weight.mul_(1e5)
    exact = built.understood(hf)
    assert exact.info.dtype == "float32"
    with pytest.raises(
        UnsupportedModelError, match=r"float16 overflows in .*layers\.1\.mlp"
    ) as told:
        built.understood(hf.half())
    assert "bfloat16" in told.value.hint


def test_a_run_that_is_no_number_is_named() -> None:
    hf = zoo.make("llama").half()
    model = built.understood(hf)
    push = np.full(model.info.d_model, 6e4, np.float32)
    with pytest.raises(NonFiniteError, match="at row 1, position 2") as told:
        analysis.trace(model, [5, 9, 33], [Steer(1, 2, push), Steer(1, 2, push)])
    assert "bfloat16" in told.value.hint
    with torch.no_grad():
        hf.model.embed_tokens.weight[7] = float("nan")
    with pytest.raises(NonFiniteError, match="at row 0, position 1"):
        analysis.trace(model, [5, 7, 33])
    assert analysis.trace(model, [5, 9, 33]).tokens
