"""Models built by ``build_model`` from memory, for numerical tests."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from analysis.loading import build_model
from analysis.model import handle
from analysis.model.handle import Model
from tests.support import tiny


def understood(hf: Any, name: str = "tiny") -> Model:
    """A Model around a transformers model with the tiny tokenizer."""
    loaded = SimpleNamespace(
        model=hf,
        tokenizer=tiny.tiny_tokenizer(),
        entry=SimpleNamespace(name=name, quantise="", adapter=""),
        source=name,
        revision="none",
        fingerprint=name,
    )
    return build_model(loaded)


def ids(model: Model, size: int, seed: int = 5) -> tuple[int, ...]:
    """Seeded random token ids."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(0, min(model.info.vocab, 280), (size,), generator=generator)
    return tuple(drawn.tolist())


def plain_logits(model: Model, tokens: tuple[int, ...]) -> torch.Tensor:
    """The model's logits with its own eager attention and no hooks, [pos, vocab]."""
    return torch.from_numpy(handle.plain_logits(model, tokens))
