"""Attention seen from inside: the model's own eager function, with a tap on it.

transformers lets an attention function be registered by name. Ours calls the
eager function of the model's own module, so the numbers are the model's, and
hands values, pattern and per-head result to whoever listens.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

NAME = "stratascope"


class Tap(Protocol):
    """Who listens to attention while a forward pass runs."""

    def mask(self, module: nn.Module, scores: tuple[int, int, int], mask: Tensor | None) -> Any:
        """May return another additive mask for scores of shape (heads, queries, keys)."""

    def seen(self, module: nn.Module, value: Tensor, pattern: Tensor, output: Tensor) -> None:
        """Gets value [1, kv_head, key, d], pattern [1, head, query, key] and the heads' results.

        Those, ``output``, are [1, query, head, d].
        """


_tap: ContextVar[Tap | None] = ContextVar("stratascope_attention_tap", default=None)


@contextmanager
def tapping(tap: Tap) -> Iterator[None]:
    """Let ``tap`` hear every attention call inside this block."""
    token = _tap.set(tap)
    try:
        yield
    finally:
        _tap.reset(token)


def eager_function(module: nn.Module) -> Callable[..., tuple[Tensor, Tensor]] | None:
    """The eager attention function of the file that defines ``module``'s class."""
    source = sys.modules.get(type(module).__module__)
    function: Callable[..., tuple[Tensor, Tensor]] | None = getattr(
        source, "eager_attention_forward", None
    )
    return function


def observed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """The registered attention function: eager, observed."""
    eager = eager_function(module)
    if eager is None:
        raise NotImplementedError(f"{type(module).__name__} has no eager attention function")
    tap = _tap.get()
    if tap is not None:
        shape = (query.shape[1], query.shape[2], key.shape[2])
        attention_mask = tap.mask(module, shape, attention_mask)
    output, pattern = eager(module, query, key, value, attention_mask, **options)
    if tap is not None:
        tap.seen(module, value, pattern, output)
    return output, pattern


def register() -> None:
    """Make ``observed_attention`` known to transformers under NAME; may be called again."""
    AttentionInterface.register(NAME, observed_attention)
    AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["eager"])


def cut_edges(
    mask: Tensor | None, scores: tuple[int, int, int], cut: Tensor, dtype: torch.dtype
) -> Tensor:
    """Add the most negative number to the scores of ``cut`` edges, [head, query, key] of bool."""
    heads, queries, keys = scores
    blocked = torch.zeros(1, heads, queries, keys, dtype=dtype, device=cut.device)
    blocked.masked_fill_(cut[None, :, -queries:, :keys], torch.finfo(dtype).min)
    if mask is None:
        return blocked
    if mask.dtype == torch.bool:
        return mask & (blocked == 0)
    return torch.maximum(mask + blocked, torch.full_like(blocked, torch.finfo(dtype).min))
