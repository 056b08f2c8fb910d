"""The models that the growth curves are measured on."""

from __future__ import annotations

from pathlib import Path

import torch

import analysis
from benchmarks import growth
from benchmarks._random_models import Shape, write


def test_a_written_model_loads_and_has_its_weights(tmp_path: Path) -> None:
    shape = Shape(2, 64, 300, kv_heads=1, heads=2)
    model = analysis.load_model(write(shape, torch.float32, tmp_path / "model"))
    assert sum(weight.numel() for weight in model.hf.parameters()) == shape.parameters
    assert (model.info.layers, model.info.kv_heads) == (2, 1)
    found = growth.measure(model, 4, ("trace", "grid"))
    assert all(one.seconds > 0 for one in found.values())
