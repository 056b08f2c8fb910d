"""Observe attention through transformers' attention interface, or with hooks if it has none."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from analysis.model.module_io import hidden_input

NAME = "stratascope"


class Tap(Protocol):
    """An observer of the attention calls in a forward pass."""

    def mask(self, module: nn.Module, scores: tuple[int, int, int], mask: Tensor | None) -> Any:
        """Return the additive mask to use for scores of shape (heads, queries, keys)."""

    def observe(self, module: nn.Module, value: Tensor, pattern: Tensor, output: Tensor) -> None:
        """Receive the values, the pattern and the heads' outputs of one call.

        Args:
            module: The attention module.
            value: [1, kv_head, key, d].
            pattern: [1, head, query, key].
            output: [1, query, head, d].
        """


_tap: ContextVar[Tap | None] = ContextVar("stratascope_attention_tap", default=None)


@contextmanager
def tapping(tap: Tap) -> Iterator[None]:
    """Send every attention call inside this block to ``tap``."""
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
    """The attention function registered as ``NAME``: the model's eager one, observed."""
    eager = eager_function(module)
    if eager is None:
        raise NotImplementedError(f"{type(module).__name__} has no eager attention function")
    tap = _tap.get()
    if tap is not None:
        shape = (query.shape[1], query.shape[2], key.shape[2])
        attention_mask = tap.mask(module, shape, attention_mask)
    output, pattern = eager(module, query, key, value, attention_mask, **options)
    if tap is not None:
        tap.observe(module, value, pattern, output)
    return output, pattern


def register() -> None:
    """Register ``observed_attention`` with transformers as ``NAME``; idempotent."""
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


_SOFTMAX: set[Callable[..., Any]] = {
    torch.softmax,
    torch.nn.functional.softmax,
    torch.Tensor.softmax,
}
_PRODUCT: set[Callable[..., Any]] = {
    torch.matmul,
    torch.bmm,
    torch.Tensor.matmul,
    torch.Tensor.bmm,
    torch.Tensor.__matmul__,
}


class _AttentionMode(TorchFunctionMode):
    """Intercepts softmax and matrix products inside the modules on its stack."""

    def __init__(self, tap: Tap) -> None:
        super().__init__()
        self.tap = tap
        self.stack: list[tuple[nn.Module, int]] = []
        self._pattern: Tensor | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        if not self.stack:
            return func(*args, **options)
        if func in _SOFTMAX and _square(args[0]):
            pattern: Tensor = func(self._masked(args[0]), *args[1:], **options)
            self._pattern = pattern
            return pattern
        result = func(*args, **options)
        if func in _PRODUCT and self._is_pattern(args[0]):
            self._observe(args[0], args[1], result)
        return result

    def _masked(self, scores: Tensor) -> Tensor:
        module, batch = self.stack[-1]
        shape = (
            scores.numel() // (batch * scores.shape[-1] * scores.shape[-2]),
            *scores.shape[-2:],
        )
        mask = self.tap.mask(module, shape, None)
        if mask is None:
            return scores
        added = mask.to(scores.dtype).expand(batch, -1, -1, -1).reshape(scores.shape)
        masked: Tensor = scores + added
        return masked

    def _is_pattern(self, left: Any) -> bool:
        # Dropout, casts and views keep the same numbers, mostly in the same memory.
        last = self._pattern
        if last is None or not isinstance(left, Tensor) or left.numel() != last.numel():
            return False
        return left.data_ptr() == last.data_ptr() or (
            left.shape[-2:] == last.shape[-2:]
            and torch.equal(left.reshape(last.shape), last.to(left.dtype))
        )

    def _observe(self, pattern: Tensor, value: Tensor, output: Tensor) -> None:
        module, batch = self.stack[-1]
        self._pattern = None

        def by_head(tensor: Tensor) -> Tensor:
            """[batch, head, i, j]; batch and head may share an axis."""
            return tensor.reshape(batch, -1, *tensor.shape[-2:])

        self.tap.observe(module, by_head(value), by_head(pattern), by_head(output).transpose(1, 2))


def _square(scores: Any) -> bool:
    return isinstance(scores, Tensor) and scores.dim() >= 3 and scores.shape[-1] == scores.shape[-2]


@contextmanager
def _intercepting(modules: Iterable[nn.Module], tap: Tap) -> Iterator[None]:
    """Send the softmax attention inside ``modules`` to ``tap`` while the block runs."""
    mode = _AttentionMode(tap)

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        """Push the module and its batch size."""
        state = hidden_input(args, kwargs)
        mode.stack.append((module, 1 if state is None or state.dim() < 3 else state.shape[0]))

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        """Pop the module."""
        mode.stack.pop()

    handles: list[Any] = []
    try:
        for module in modules:
            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            # Called even if forward raises, so that the stack stays consistent.
            handles.append(module.register_forward_hook(leave, always_call=True))
        with mode:
            yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def observing(attending: Iterable[nn.Module], tap: Tap, *, by_hooks: bool) -> Iterator[None]:
    """Send a model's attention to ``tap``, through the attention interface or with hooks."""
    with ExitStack() as stack:
        stack.enter_context(tapping(tap))
        if by_hooks:
            stack.enter_context(_intercepting(attending, tap))
        yield
