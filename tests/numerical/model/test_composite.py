"""The text decoder is read out of checkpoints that also read pictures or sound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CONFIG_MAPPING

import analysis
from analysis.errors import ModelLoadError
from analysis.model.transformers_io import class_for
from tests.support import every_architecture, tiny

KINDS = (
    "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "mistral3", "llava", "paligemma", "smolvlm", "internvl",
    "gemma4",
)  # fmt: skip
_VISION = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "out_hidden_size": 32, "num_heads": 4}
_ROPE = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [1, 1, 2]}


def small(kind: str) -> Any:
    """A small random composite model."""
    config_class = CONFIG_MAPPING[kind]
    values = config_class().to_dict()
    options = every_architecture._small(values)
    for name, part in values.items():
        if not isinstance(part, dict) or not name.endswith("config"):
            continue
        options[name] = {"model_type": part["model_type"], **every_architecture._small(part)}
        if isinstance(part.get("layer_types"), list):
            options[name]["layer_types"] = every_architecture._every_kind(part["layer_types"])
        if name == "text_config" and kind.startswith("qwen2"):
            options[name]["rope_parameters"] = _ROPE
        if name == "vision_config" and kind.startswith("qwen"):
            options[name] |= {key: value for key, value in _VISION.items() if key in part}
    if kind == "gemma4":
        vision = CONFIG_MAPPING["gemma4_vision"]().to_dict()
        options["vision_config"] = every_architecture._small(vision)
    config = config_class(**options)
    torch.manual_seed(0)
    model = class_for(config).from_config(config, attn_implementation="eager").eval()
    return tiny.randomise(model, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_decoder_of_a_composite_checkpoint_is_read(kind: str, tmp_path: Path) -> None:
    own = small(kind)
    own.save_pretrained(tmp_path)
    tiny.tiny_tokenizer().save_pretrained(tmp_path)
    tokens = every_architecture.prompt(12)
    wanted = every_architecture.logits(own, tokens)
    model = analysis.load_model(tmp_path)
    assert model.info.layers == every_architecture.LAYERS
    assert model.check().passed
    trace = analysis.trace(model, tokens)
    np.testing.assert_allclose(trace.logits, wanted, atol=1e-4 * float(wanted.abs().max()))
    assert model.info.parameters < sum(part.numel() for part in own.parameters())
    names = [name for name, _ in model.hf.named_modules()]
    assert not [name for name in names if "vision" in name or "visual" in name]


def test_a_model_that_continues_no_text_is_refused_with_its_type() -> None:
    with pytest.raises(ModelLoadError, match="type vit does not continue a text"):
        class_for(CONFIG_MAPPING["vit"]())
