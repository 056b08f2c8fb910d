"""Frozen attention: patterns that stay as they are in the run without edits.

Before each pass of an edited run, the same tokens run once without any hook. The patterns of that
pass replace those of the edited one: a head's output becomes the held pattern times the edited
run's values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from analysis.errors import NotEnoughMemoryError, SpecError
from analysis.model import memory
from analysis.model.attention_hooks import mixed_values, observing, scaled_pattern
from analysis.model.handle import Model
from analysis.model.probe import relative_error, tolerance
from analysis.model.stream import without_hooks

#: Patterns below this many bytes are never refused.
_SMALL = 64 << 20
#: A sum of attention weights this close to 1 leaves nothing to a learned sink.
_WHOLE = 1e-5


class HeldPatterns:
    """The patterns of the run without edits, for some sequences of a batch.

    Args:
        model: From ``load_model``.
        holding: Numbers of the sequences whose patterns are held.
    """

    def __init__(self, model: Model, holding: Sequence[int]) -> None:
        self.model, self.holding = model, tuple(holding)
        self._patterns: dict[int, Tensor] = {}

    @torch.no_grad()
    def take(self, _module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Run the tokens of a pass without hooks and keep the patterns; called before the pass.

        Raises:
            SpecError: If the output of an attention is not its pattern times its values.
            NotEnoughMemoryError: If the patterns do not fit.
        """
        if kwargs.get("past_key_values") is not None:
            raise SpecError(
                "Patterns can't be held in a pass with a key-value cache.",
                "Run it with use_cache=False.",
            )
        self._require_memory(kwargs.get("input_ids", args[0] if args else None))
        self._patterns.clear()
        stream = self.model.stream
        with (
            without_hooks(self.model.hf),
            observing(stream.attending, self, by_hooks=stream.by_hooks),
        ):
            self.model.hf(*args, **{**kwargs, "use_cache": False})
        for layer, block in enumerate(stream.blocks):
            if block.attention is not None and layer not in self._patterns:
                raise _refusal(layer)

    def _require_memory(self, ids: Any) -> None:
        if not isinstance(ids, Tensor):
            return
        size, length = ids.shape
        heads = sum(block.heads for block in self.model.stream.blocks)
        need = size * heads * length**2 * 4
        free = memory.free(str(self.model.device))
        if _SMALL < need > free:
            raise NotEnoughMemoryError(
                f"The attention patterns to hold need about {memory.gigabytes(need)}; "
                f"{memory.gigabytes(free)} are free.",
                "Shorten the prompt, or leave the patterns free.",
            )

    def cut(self, _module: nn.Module, _shape: tuple[int, int, int]) -> None:
        """Cut nothing: the baseline has no edits."""

    def observe(self, module: nn.Module, value: Tensor, pattern: Tensor, output: Tensor) -> None:
        """Keep a pattern of the baseline, if it gives the output exactly.

        Raises:
            SpecError: If it does not.
        """
        layer = self.model.stream.layer(module)
        if layer is None:
            return
        if self.model.stream.blocks[layer].scaled_heads:
            pattern = scaled_pattern(value, pattern, output)
        mixed = mixed_values(value, pattern)
        fits = mixed is not None and mixed.shape == output.shape
        if layer in self._patterns or mixed is None or not fits:
            raise _refusal(layer)
        if relative_error(mixed.float(), output.float()) > tolerance(self.model.dtype):
            raise _refusal(layer)
        self._patterns[layer] = pattern.detach()

    def apply(
        self, layer: int | None, cut: Tensor | None, value: Tensor, pattern: Tensor, output: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The held pattern and the heads' outputs that it gives, for the sequences that hold it.

        Args:
            layer: The layer; None for a module outside the stream.
            cut: [batch, head, query, key] edges that are knocked out, or None.
            value: [batch, kv_head, key, d] the edited run's.
            pattern: [batch, head, query, key] the edited run's.
            output: [batch, query, head, d] the edited run's.
        """
        if layer is None:
            return pattern, output
        held = self._patterns[layer]
        held = held if cut is None else without_edges(held, cut)
        mixed = mixed_values(value, held)
        if mixed is None:
            raise _refusal(layer)
        chosen = torch.zeros(len(pattern), 1, 1, 1, dtype=torch.bool, device=pattern.device)
        chosen[list(self.holding)] = True
        return torch.where(chosen, held, pattern), torch.where(chosen, mixed, output)


def without_edges(pattern: Tensor, cut: Tensor) -> Tensor:
    """A pattern [batch, head, query, key] whose cut edges give their weight to the query's others.

    This is the softmax of the same scores without the cut edges. A learned sink keeps its score,
    so it gets its part, too.
    """
    sink = 1.0 - pattern.double().sum(-1, keepdim=True)
    kept = pattern.double().masked_fill(cut, 0.0)
    total = kept.sum(-1, keepdim=True) + sink.where(sink > _WHOLE, 0.0)
    return torch.where(cut.any(-1, keepdim=True), kept / total.clamp_min(1e-30), kept).to(pattern)


def _refusal(layer: int) -> SpecError:
    return SpecError(
        f"The output of layer {layer}'s attention is not its pattern times its values, so the"
        " pattern can't be held.",
        "Leave the patterns free.",
    )
