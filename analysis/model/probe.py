"""A recorded forward pass: the input and output of every module call, in order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from analysis.model.attention_hooks import mixed_values, observing
from analysis.model.stream import first_tensor, float32_copy, hidden_input

#: Largest relative error at which two sums count as equal, by dtype.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-5}
#: The same for all other dtypes (16-bit and quantised weights).
LOOSE_TOLERANCE = 2e-2


def tolerance(dtype: torch.dtype) -> float:
    """The largest relative error at which two sums count as equal in ``dtype``."""
    return TOLERANCE.get(dtype, LOOSE_TOLERANCE)


def rounding(dtype: torch.dtype) -> float:
    """The relative rounding error of one addition in a model with weights of ``dtype``.

    Quantised weights have an integer dtype; their outputs have 16 bits or more.
    """
    return torch.finfo(dtype if dtype.is_floating_point else torch.bfloat16).eps


def relative_error(found: Tensor, wanted: Tensor, *parts: Tensor) -> float:
    """Norm of the difference over the largest norm among the parts."""
    largest = max(float(part.norm()) for part in (wanted, found, *parts))
    return float((found - wanted).norm()) / max(largest, 1e-30)


@dataclass
class Event:
    """One call of one module: the hidden states it read and returned (float32 copies)."""

    module: nn.Module
    name: str
    input: Tensor | None
    output: Tensor


@dataclass
class AttentionEvent:
    """One attention call.

    Attributes:
        module: The module that called.
        heads, kv_heads, d_head: Its shape.
        concatenated: [1, pos, head * d_head] the heads' outputs.
        mixed: [1, pos, head * d_head] pattern times values; None if the shapes do not fit.
        future: The largest weight on a later position.
    """

    module: nn.Module
    heads: int
    kv_heads: int
    d_head: int
    concatenated: Tensor
    mixed: Tensor | None
    future: float = 0.0


@dataclass
class Record:
    """A recorded pass: module calls in the order in which they returned."""

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

    def cut(self, module: nn.Module, shape: tuple[int, int, int]) -> None:
        """Cut nothing."""

    def observe(self, module: nn.Module, value: Tensor, pattern: Tensor, output: Tensor) -> None:
        """Record the heads' outputs."""
        self.attention.append(
            AttentionEvent(
                module,
                pattern.shape[1],
                value.shape[1],
                output.shape[-1],
                float32_copy(output.flatten(-2)),
                _mixed(value, pattern, output),
                float(pattern.triu(1).abs().max()),
            )
        )


def _mixed(value: Tensor, pattern: Tensor, output: Tensor) -> Tensor | None:
    heads = mixed_values(value, pattern)
    if heads is None or heads.shape != output.shape:
        return None
    return float32_copy(heads.flatten(-2))


@contextmanager
def _recording(model: nn.Module, record: Record) -> Iterator[None]:
    def hook(name: str) -> Any:
        """A hook that records the module of this name."""

        def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            """Record input and output if they are floating point."""
            returned = first_tensor(output)
            if returned is not None and returned.is_floating_point():
                state = hidden_input(args, kwargs)
                floats = state is not None and state.is_floating_point()
                state = float32_copy(state) if floats and state is not None else None
                record.events.append(Event(module, name, state, float32_copy(returned)))

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
def recorded_pass(model: nn.Module, token_ids: Tensor, *, by_hooks: bool = False) -> Record:
    """Run ``token_ids`` [1, pos] through ``model`` and record every module call.

    Args:
        model: A decoder.
        token_ids: The probe.
        by_hooks: Whether to observe attention with hooks instead of the attention interface.
    """
    record = Record()
    modules = [part for name, part in model.named_modules() if name]
    with _recording(model, record), observing(modules, record, by_hooks=by_hooks):
        output = model(input_ids=token_ids, use_cache=False)
    record.logits = float32_copy(output.logits)
    return record
