"""Observe and edit attention through transformers' attention interface, or with hooks.

The model keeps the attention implementation named "eager": several models apply a mask of their
own (a sparse index, a chunk) only under names that they know. While an observer is active, the
interface calls ``observed_attention`` under that name; at any other time nothing is changed.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import lru_cache, partial
from threading import Lock
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface

from analysis.model.stream import hidden_input

#: The attention implementation of every loaded model.
EAGER = "eager"
#: Additive masks and masked scores are at or below this; real scores never are.
_MASKED = -9e3


class Tap(Protocol):
    """An observer of the attention calls in a forward pass.

    If it also has a method ``receive(module, query, key, value, mask, options)``, the attention
    interface passes it the arguments of each call first. If the method returns a query, a key and a
    value, attention goes on with these. If it has an attribute ``recompute`` that is true, a pass
    saves no scores for the way back: they are computed again there, bit for bit.
    """

    def cut(self, module: nn.Module, shape: tuple[int, int, int]) -> Tensor | None:
        """The edges to cut before the softmax, bool [batch or 1, head, query, key], or None.

        A query without a visible key left gets no attention output.
        """

    def observe(
        self, module: nn.Module, value: Tensor, pattern: Tensor, output: Tensor
    ) -> Tensor | None:
        """Receive the values, the pattern and the heads' outputs of one call.

        Returns:
            The outputs to go on with; None: the same.

        Args:
            module: The attention module.
            value: [batch, kv_head, key, d].
            pattern: [batch, head, query, key].
            output: [batch, query, head, d].
        """
        ...


_tap: ContextVar[Tap | None] = ContextVar("stratascope_attention_tap", default=None)
_lock = Lock()
_active = 0


@contextmanager
def _tapping(tap: Tap) -> Iterator[None]:
    """Send every attention call of this thread inside this block to ``tap``."""
    global _active  # noqa: PLW0603 - transformers' interface is global, too
    token = _tap.set(tap)
    with _lock:
        _active += 1
        AttentionInterface.register(EAGER, observed_attention)
    try:
        yield
    finally:
        _tap.reset(token)
        with _lock:
            _active -= 1
            if not _active:
                AttentionInterface._global_mapping.pop(EAGER, None)


def eager_function(module: nn.Module) -> Callable[..., tuple[Tensor, Tensor]] | None:
    """The eager attention function that ``module`` would call by itself.

    It is a global of the file that defines the module's ``forward``.
    """
    kind: Any = type(module)
    found = (place.get("eager_attention_forward") for place in _globals_of(kind))
    return next((function for function in found if function is not None), None)


@lru_cache(maxsize=64)
def _globals_of(kind: Any) -> list[dict[str, Any]]:
    """The globals of the files that define a module's ``forward`` and its classes."""
    forward = inspect.unwrap(kind.forward)
    places = [getattr(forward, "__globals__", {})]
    return places + [vars(sys.modules[base.__module__]) for base in kind.__mro__]


def observed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """The module's own eager attention; the tap, if any, may cut edges and observes the result."""
    eager = eager_function(module)
    if eager is None:
        raise NotImplementedError(f"{type(module).__name__} has no eager attention function")
    tap = _tap.get()
    if tap is None:
        return eager(module, query, key, value, attention_mask, **options)
    receive = getattr(tap, "receive", None)
    if receive is not None:
        given = receive(module, query, key, value, attention_mask, options)
        query, key, value = given or (query, key, value)
    cut = tap.cut(module, (query.shape[1], query.shape[2], key.shape[2]))
    empty = None
    if cut is not None:
        attention_mask, empty = _cut_mask(attention_mask, cut, query.dtype)
    attend = partial(eager, module, **options)
    if getattr(tap, "recompute", False):
        attend = partial(checkpoint, attend, use_reentrant=False, preserve_rng_state=False)
    output, pattern = attend(query, key, value, attention_mask)
    if empty is not None:
        pattern = pattern.masked_fill(empty[..., None], 0.0)
        output = output.masked_fill(empty.transpose(1, 2)[..., None], 0.0)
    changed = tap.observe(module, value, pattern, output)
    return output if changed is None else changed, pattern


def mixed_values(value: Tensor, pattern: Tensor) -> Tensor | None:
    """[batch, query, head, d] pattern times values, each value head shared by its group of heads.

    Args:
        value: [batch, kv_head, key, d].
        pattern: [batch, head, query, key].

    Returns:
        None if the numbers of heads or keys do not fit.
    """
    heads, groups = pattern.shape[1], value.shape[1]
    if heads % groups or pattern.shape[-1] != value.shape[-2]:
        return None
    shared = value.repeat_interleave(heads // groups, dim=1)
    return (pattern.to(value.dtype) @ shared).transpose(1, 2)


def scaled_pattern(value: Tensor, pattern: Tensor, output: Tensor) -> Tensor:
    """The pattern times the factor of each head and query from pattern times values to output.

    A learned sink may be applied as such a factor, after the softmax (Granite).

    Args:
        value: [batch, kv_head, key, d].
        pattern: [batch, head, query, key].
        output: [batch, query, head, d].
    """
    mixed = mixed_values(value, pattern)
    if mixed is None:
        return pattern
    mixed, output = mixed.float(), output.float()
    factor = (mixed * output).sum(-1) / mixed.square().sum(-1).clamp_min(1e-30)
    return pattern.float() * factor.transpose(1, 2)[..., None]


def _cut_mask(mask: Tensor | None, cut: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The mask with the ``cut`` edges, and [batch, head, query] which queries have no key left."""
    if mask is None:
        mask = torch.zeros(cut.shape, dtype=dtype, device=cut.device)
    mask, cut = mask[..., : cut.shape[-1]], cut.to(mask.device)
    if mask.dtype == torch.bool:
        changed = mask & ~cut
        return changed, cut.any(-1) & ~changed.any(-1)
    batch = max(mask.shape[0], cut.shape[0])
    changed = mask.expand(batch, *cut.shape[1:]).masked_fill(cut, torch.finfo(mask.dtype).min)
    return changed, _without_keys(changed, cut)


def _without_keys(scores: Tensor, cut: Tensor) -> Tensor:
    return cut.any(-1) & (scores.amax(-1) <= _MASKED)


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
            scores, empty = self._cut(args[0])
            pattern: Tensor = func(scores, *args[1:], **options)
            self._pattern = pattern if empty is None else pattern.masked_fill(empty, 0.0)
            return self._pattern
        result = func(*args, **options)
        if func in _PRODUCT and self._is_pattern(args[0]):
            return self._observe(args[0], args[1], result)
        return result

    def _cut(self, scores: Tensor) -> tuple[Tensor, Tensor | None]:
        """The scores without the cut edges, and which rows have no key left."""
        module, batch = self.stack[-1]
        heads = scores.numel() // (batch * scores.shape[-1] * scores.shape[-2])
        cut = self.tap.cut(module, (heads, *scores.shape[-2:]))
        if cut is None:
            return scores, None
        cut = cut.to(scores.device).expand(batch, -1, -1, -1).reshape(scores.shape)
        changed = scores.masked_fill(cut, torch.finfo(scores.dtype).min)
        return changed, _without_keys(changed, cut)[..., None]

    def _is_pattern(self, left: Any) -> bool:
        # Dropout, casts and views keep the same numbers, mostly in the same memory.
        last = self._pattern
        if last is None or not isinstance(left, Tensor) or left.numel() != last.numel():
            return False
        return left.data_ptr() == last.data_ptr() or (
            left.shape[-2:] == last.shape[-2:]
            and torch.equal(left.reshape(last.shape), last.to(left.dtype))
        )

    def _observe(self, pattern: Tensor, value: Tensor, output: Tensor) -> Tensor:
        module, batch = self.stack[-1]
        self._pattern = None

        def by_head(tensor: Tensor) -> Tensor:
            """[batch, head, i, j]; batch and head may share an axis."""
            return tensor.reshape(batch, -1, *tensor.shape[-2:])

        heads = by_head(output).transpose(1, 2)
        changed = self.tap.observe(module, by_head(value), by_head(pattern), heads)
        return output if changed is None else changed.transpose(1, 2).reshape(output.shape)


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
    """Send a model's attention to ``tap`` inside this block.

    Args:
        attending: The attention modules.
        tap: The observer.
        by_hooks: Whether the model does not use transformers' attention interface.
    """
    with ExitStack() as stack:
        if by_hooks:
            stack.enter_context(_intercepting(attending, tap))
        else:
            stack.enter_context(_tapping(tap))
        yield
