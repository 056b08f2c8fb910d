"""One watched forward pass: which module gave what, in which order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from analysis.model.attention_hooks import listening_to
from analysis.model.module_io import entered, first_tensor, keep

#: Largest relative error at which two float32 sums count as the same; 16-bit models get more.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-5}
LOOSE_TOLERANCE = 2e-2


def tolerance(dtype: torch.dtype) -> float:
    """The largest relative error at which a sum holds in ``dtype``."""
    return TOLERANCE.get(dtype, LOOSE_TOLERANCE)


def relative_error(found: Tensor, wanted: Tensor, *parts: Tensor) -> float:
    """Norm of the difference over the largest norm among the parts."""
    largest = max(float(part.norm()) for part in (wanted, found, *parts))
    return float((found - wanted).norm()) / max(largest, 1e-30)


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

    def calls(self, module: nn.Module) -> int:
        """How often ``module`` was called."""
        return sum(event.module is module for event in self.events)

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


@contextmanager
def _watch(model: nn.Module, record: Record) -> Iterator[None]:
    def hook(name: str) -> Any:
        """A hook that records the module of this name."""

        def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            """Record what came in and what left, where they are floats."""
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
def watched_pass(model: nn.Module, token_ids: Tensor, *, by_hooks: bool = False) -> Record:
    """Run ``token_ids`` [1, pos] through ``model`` and record every module's call.

    Args:
        model: A decoder.
        token_ids: The probe.
        by_hooks: Whether attention is heard by hooks instead of the attention interface.
    """
    record = Record()
    modules = [part for name, part in model.named_modules() if name]
    with _watch(model, record), listening_to(modules, record, by_hooks=by_hooks):
        output = model(input_ids=token_ids, use_cache=False)
    record.logits = keep(output.logits)
    return record
