"""Attention of models that have no attention interface (bloom, falcon, gptj, mpt and others).

Inside an attention module the softmax gives the pattern, and the next matrix
product whose left side is that pattern gives the heads' results from the
values. Both are seen as they are called, and scores can be masked on the way
in, so such models offer the same tap as those with an attention interface.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from analysis.models.attention import Tap, tapping
from analysis.models.probe_states import entered

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


class _Watch(TorchFunctionMode):
    """Sees softmax and matrix products called inside the modules on its stack."""

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
            self._seen(args[0], args[1], result)
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
        # Dropout, casts and views hand on the same numbers, mostly the same memory.
        kept = self._pattern
        if kept is None or not isinstance(left, Tensor) or left.numel() != kept.numel():
            return False
        return left.data_ptr() == kept.data_ptr() or (
            left.shape[-2:] == kept.shape[-2:]
            and torch.equal(left.reshape(kept.shape), kept.to(left.dtype))
        )

    def _seen(self, pattern: Tensor, value: Tensor, output: Tensor) -> None:
        module, batch = self.stack[-1]
        self._pattern = None

        def by_head(tensor: Tensor) -> Tensor:
            """[batch, head, i, j], whether the two came in one axis or not."""
            return tensor.reshape(batch, -1, *tensor.shape[-2:])

        self.tap.seen(module, by_head(value), by_head(pattern), by_head(output).transpose(1, 2))


def _square(scores: Any) -> bool:
    return isinstance(scores, Tensor) and scores.dim() >= 3 and scores.shape[-1] == scores.shape[-2]


@contextmanager
def watching(modules: Iterable[nn.Module], tap: Tap) -> Iterator[None]:
    """Let ``tap`` hear the softmax attention inside ``modules`` while the block runs."""
    watch = _Watch(tap)

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        """Note whose attention comes next, and for how many prompts."""
        state = entered(args, kwargs)
        watch.stack.append((module, 1 if state is None or state.dim() < 3 else state.shape[0]))

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        """Forget the module that ended."""
        watch.stack.pop()

    handles: list[Any] = []
    try:
        for module in modules:
            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            # Called even where forward raises: the stack must not keep what was left.
            handles.append(module.register_forward_hook(leave, always_call=True))
        with watch:
            yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def listening_to(attending: Iterable[nn.Module], tap: Tap, *, by_hooks: bool) -> Iterator[None]:
    """Let ``tap`` hear a model's attention, through its interface or by hooks."""
    with ExitStack() as stack:
        stack.enter_context(tapping(tap))
        if by_hooks:
            stack.enter_context(watching(attending, tap))
        yield
