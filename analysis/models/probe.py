"""One watched forward pass: which module gave what, in which order.

Everything that is later claimed about a model is solved from such a record,
so it holds copies: some blocks add in place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from analysis.models.attention import tapping


@dataclass
class Event:
    """One call of one module: its first tensor in, its first tensor out (float32 copies)."""

    module: nn.Module
    name: str
    entered: Tensor | None
    left: Tensor


@dataclass
class AttentionEvent:
    """One attention call: the module that called, and the heads' results side by side."""

    module: nn.Module
    heads: int
    kv_heads: int
    d_head: int
    concatenated: Tensor


@dataclass
class Record:
    """A whole watched pass, calls in the order in which they ended."""

    events: list[Event] = field(default_factory=list)
    attention: list[AttentionEvent] = field(default_factory=list)
    logits: Tensor | None = None

    def of(self, module: nn.Module) -> Event | None:
        """The last call of ``module``, if it was called."""
        return next((event for event in reversed(self.events) if event.module is module), None)

    def under(self, prefix: str) -> Iterator[tuple[int, Event]]:
        """Numbered calls of the modules below the one named ``prefix``."""
        for number, event in enumerate(self.events):
            if event.name.startswith(prefix + "."):
                yield number, event

    # The attention tap of a probe only looks.
    def mask(self, module: nn.Module, scores: tuple[int, int, int], mask: Any) -> Any:
        """Leave the mask as it is."""
        return mask

    def seen(self, module: nn.Module, value: Tensor, pattern: Tensor, output: Tensor) -> None:
        """Keep what the heads gave."""
        self.attention.append(
            AttentionEvent(
                module,
                pattern.shape[1],
                value.shape[1],
                output.shape[-1],
                keep(output.flatten(-2)),
            )
        )


def keep(tensor: Tensor) -> Tensor:
    """A float32 copy on the CPU."""
    return tensor.detach().to("cpu", torch.float32, copy=True)


def first_tensor(value: Any) -> Tensor | None:
    """The hidden states among what a module takes or gives."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (tuple, list)) and value:
        return first_tensor(value[0])
    if hasattr(value, "last_hidden_state"):
        return first_tensor(value.last_hidden_state)
    return None


def entered(args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor | None:
    """The hidden states among the arguments of a call."""
    return first_tensor(args[0] if args else kwargs.get("hidden_states"))


@contextmanager
def _watch(model: nn.Module, record: Record) -> Iterator[None]:
    def hook(name: str) -> Any:
        def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            left = first_tensor(output)
            if left is not None and left.is_floating_point():
                came = entered(args, kwargs)
                floats = came is not None and came.is_floating_point()
                came = keep(came) if floats and came is not None else None
                record.events.append(Event(module, name, came, keep(left)))

        return after

    handles = [
        module.register_forward_hook(hook(name), with_kwargs=True)
        for name, module in model.named_modules()
        if name
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def watched_pass(model: nn.Module, token_ids: Tensor) -> Record:
    """Run ``token_ids`` [1, pos] through ``model`` and record every module's call."""
    record = Record()
    with _watch(model, record), tapping(record):
        output = model(input_ids=token_ids, use_cache=False)
    record.logits = keep(output.logits)
    return record
