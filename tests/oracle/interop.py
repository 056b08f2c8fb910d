"""Give real models of TransformerLens and nnsight to ``load_model``, and compare its cache.

    make oracle        # makes .venv-oracle, then runs this on small random models

The models are a GPT-2 and a Llama (grouped-query) with random weights, norm scales and biases. The
names and values of our cache are those of TransformerLens's ``run_with_cache``, whichever library
the model comes from.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from nnsight import TransformersModel
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoTokenizer

import analysis
from tests.support import tiny

IDS = (4, 9, 30, 7, 12)
MODELS: dict[str, Callable[[], Any]] = {"GPT-2": tiny.tiny_gpt2, "Llama": tiny.tiny_llama}
#: Largest relative difference, norm over norm, of two arrays.
TOLERANCE = 1e-5


def compared(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> float:
    """The largest relative difference of the arrays of our names.

    Raises:
        SystemExit: If a name is missing there, or a shape differs.
    """
    worst = 0.0
    for name, value in ours.items():
        if name not in theirs or theirs[name].shape != value.shape:
            sys.exit(f"{name} is missing, or has another shape than {tuple(value.shape)}")
        apart = (value - theirs[name].detach().float()).norm() / value.norm()
        worst = max(worst, float(apart))
    return worst


def look_at(name: str, make: Callable[[], Any], folder: Path) -> float:
    """Print the differences of one model and return the largest."""
    hf, place = make().eval(), str(tiny.save(make(), folder / name))
    tokenizer = AutoTokenizer.from_pretrained(place)
    wrapped = TransformersModel(hf, tokenizer=tokenizer)
    assert analysis.load_model(wrapped).hf is hf
    bridge = TransformerBridge.boot_transformers(
        place, hf_model=make().eval(), tokenizer=tokenizer, device="cpu"
    )
    caches = {}
    for what, given in {"nnsight": wrapped, "TransformerLens": bridge}.items():
        model = analysis.load_model(given)
        trace = analysis.trace(model, IDS)
        caches[what] = analysis.transformer_lens_cache(model, trace, heads=True)
    bridge.set_use_attn_result(True)  # it then calculates each head, in place of the model's module
    _, cache = bridge.run_with_cache(torch.tensor([IDS]))
    worst = 0.0
    for what, ours in caches.items():
        apart = compared(ours, cache)
        print(f"{name:6} from {what:16} {len(ours)} names; largest relative difference {apart:.1e}")
        worst = max(worst, apart)
    return worst


def main() -> int:
    """Compare all models.

    Returns:
        0 if all differences are below the tolerance, else 1.
    """
    with tempfile.TemporaryDirectory() as made:
        worst = max(look_at(name, make, Path(made)) for name, make in MODELS.items())
    print(f"largest difference {worst:.1e}; allowed {TOLERANCE:.0e}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
