"""Models whose layers differ: no attention at all, or attention of different shapes."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from analysis.errors import UnsupportedModelError
from analysis.ledger import check
from analysis.loading import _check_equal_shapes
from tests.support import built, zoo


def test_a_model_without_any_attention_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {**zoo.CONFIGS["jamba"], "attn_layer_period": 8, "attn_layer_offset": 7}
    monkeypatch.setitem(zoo.CONFIGS, "jamba", config)
    model = built.understood(zoo.make("jamba"), "jamba")
    assert not any(block.heads for block in model.stream.blocks)
    assert check(model).passed


def test_layers_with_attention_of_different_shapes_are_refused() -> None:
    model = built.understood(zoo.make("llama"), "llama")
    blocks = list(model.stream.blocks)
    blocks[1] = replace(blocks[1], heads=2 * blocks[1].heads)
    stream: Any = SimpleNamespace(blocks=blocks)
    with pytest.raises(UnsupportedModelError, match=r"different shapes: 4 heads .*; 8 heads"):
        _check_equal_shapes(stream)
    _check_equal_shapes(model.stream)
