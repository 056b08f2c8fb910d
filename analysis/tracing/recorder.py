"""Fill the arrays of a trace from hooks during one forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from analysis.contract import jobs
from analysis.contract.specs import Floats
from analysis.errors import NonFiniteError
from analysis.model.attention_hooks import observing, scaled_pattern
from analysis.model.handle import Model
from analysis.model.stream import Writer, batched, hidden_input, hidden_output
from analysis.tracing.intervention_hooks import Edits
from analysis.tracing.storage import ALL_PATTERNS, PatternStore, is_kept, of_layer
from analysis.tracing.storage import require as require_memory

#: Layer -> keys and values [1, kv_head, pos, d].
Pairs = dict[int, tuple[Tensor, Tensor]]


class Recorder:
    """Fills preallocated arrays from hooks, for a batch of sequences of one length.

    Its hooks run after those of the interventions.

    Args:
        model: The model that runs.
        size: Sequences in the batch.
        length: Positions of each.
        edits: Interventions on the pass.
        whole: Record everything that a ``Trace`` holds; else residual rows only.
        label: What the progress listener reads after each block; empty: nothing is reported.
        patterns: How patterns are kept.
        keep_keys: Keep the keys, so that a later pass can go on from this one.
        before: Earlier positions, which are known.
        pairs: Their keys and values in each layer; None if there are none.

    Attributes:
        error: Largest relative difference of states that were run twice.

    Raises:
        NotEnoughMemoryError: If the pass and its arrays do not fit.
    """

    def __init__(
        self, model: Model, size: int, length: int, *, edits: Edits | None = None,
        whole: bool = True, label: str = "", patterns: PatternStore = ALL_PATTERNS,
        keep_keys: bool = False, before: int = 0, pairs: Pairs | None = None,
    ) -> None:  # fmt: skip
        require_memory(model, size, length, patterns, whole=whole)
        info, self.stream, self.edits = model.info, model.stream, edits
        self.size, self.whole, self.label, self.dtype = size, whole, label, info.dtype
        kept = size if whole else 0
        layers, width = info.layers, info.d_model
        self.resid = np.empty((size, layers + 1, length, width), np.float32)
        self.written = {
            part: np.zeros((kept, layers, length, width), np.float32)
            for part in dict.fromkeys(("attention", "mlp", *model.stream.parts))
        }
        self.pattern, self.value = patterns.arrays(model, kept, length, before)
        self.head_inputs: dict[int, Floats] = {}
        self.empty_queries: list[tuple[int, int, int]] = []
        self.gates: dict[int, Floats] = {}
        self._mixed: dict[int, Tensor] = {}
        self.keys: dict[int, Tensor] = {}
        self._keeps_keys, self._pairs = keep_keys, pairs or {}
        self.error = 0.0
        self._window, self._seen, self._steps = slice(None), slice(None), (0, layers)

    def at(self, start: int, stop: int, pairs: Pairs, steps: tuple[int, int]) -> None:
        """Record some positions in the next pass.

        Args:
            start: The first; all arrays are those of the whole sequence.
            stop: The one after the last.
            pairs: Keys and values of the positions before.
            steps: The steps that are done, and all of them, for the progress listener.
        """
        self._window, self._seen = slice(start, stop), slice(stop)
        self._pairs, self._steps = pairs, steps

    @property
    def attn_out(self) -> Floats:
        """[n, layer, pos, d_model] what attention adds."""
        return self.written["attention"]

    @property
    def mlp_out(self) -> Floats:
        """[n, layer, pos, d_model] what the MLP adds."""
        return self.written["mlp"]

    @property
    def others(self) -> dict[str, Floats]:
        """Part -> [n, layer, pos, d_model] what else the blocks add."""
        two = ("attention", "mlp")
        return {part: array for part, array in self.written.items() if part not in two}

    def cut(self, module: nn.Module, shape: tuple[int, int, int]) -> Tensor | None:
        """The edges that interventions knock out."""
        return None if self.edits is None else self.edits.cut(self.stream.layer(module), shape)

    def receive(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Add the known keys and values before the new ones, and keep all keys on the CPU."""
        layer = self.stream.layer(module)
        known = self._pairs.get(layer) if layer is not None else None
        if known is not None:
            key, value = torch.cat([known[0], key], 2), torch.cat([known[1], value], 2)
        if self._keeps_keys and layer is not None:
            self.keys[layer] = key[0].detach().to("cpu", copy=known is None)
        return query, key, value

    def observe(
        self, module: nn.Module, value: Tensor, pattern: Tensor, output: Tensor
    ) -> Tensor | None:
        """Record the values and the pattern; the heads' outputs if their pattern is held."""
        given, layer = output, self.stream.layer(module)
        if self.edits is not None:
            pattern, output = self.edits.held(module, value, pattern, output)
        if layer is not None:
            if self.stream.blocks[layer].scaled_heads:
                pattern = scaled_pattern(value, pattern, output)
            if is_kept(self.pattern, layer):
                kept = of_layer(self.pattern, layer)[:, :, self._window, self._seen]
                store_by_head(kept, pattern)
            store(of_layer(self.value, layer)[:, :, self._seen], value)
            if self.stream.blocks[layer].gated:
                self._mixed[layer] = output.detach()
            self._find_empty(module, layer, pattern)
        return None if output is given else output

    def _find_empty(self, module: nn.Module, layer: int, pattern: Tensor) -> None:
        _, heads, queries, keys = pattern.shape
        cut = self.cut(module, (heads, queries, keys))
        if cut is not None:
            empty = (cut[0].any(-1) & ~pattern[0].any(-1)).cpu().numpy()
            places = np.argwhere(empty).tolist()
            self.empty_queries += [(layer, head, query) for head, query in places]

    def require_finite(self, logits: Floats) -> None:
        """Refuse a pass whose states or logits are NaN or infinite.

        Raises:
            NonFiniteError: Naming the first row and position, and the cause.
        """
        finite = np.isfinite(self.resid).all((0, 3))
        if finite.all() and not np.isnan(logits).any():
            return
        rows, size = finite.shape
        row, pos = (rows - 1, size - 1) if finite.all() else np.argwhere(~finite)[0].tolist()
        place = "in the logits" if finite.all() else f"at row {row}, position {pos}"
        hint = "Check the model's weights and the interventions."
        if self.dtype == "float16":
            hint = "Load the model as bfloat16 or float32: float16 overflows above 65,504."
        raise NonFiniteError(f"The forward pass gives NaN or infinite numbers {place}.", hint)

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Hook every block; if everything is recorded, its writers, attention and edited heads."""
        stream = self.stream
        with ExitStack() as stack:
            for handle in self._hooks():
                stack.callback(handle.remove)
            if self.whole:
                stack.enter_context(observing(stream.attending, self, by_hooks=stream.by_hooks))
            yield

    def _hooks(self) -> Iterator[Any]:
        first, entry = self.stream.blocks[0].module, self.stream.entry
        resid = self.resid[:, :, self._window]
        if entry is None:
            yield first.register_forward_pre_hook(self._enter, with_kwargs=True)
        else:
            yield self._on_exit(entry, resid[:, 0])
        for layer, block in enumerate(self.stream.blocks):
            yield self._on_exit(block.module, resid[:, layer + 1], layer)
            if not self.whole:
                continue
            seen: set[str] = set()
            for writer in block.writers:
                target = self.written[writer.part][:, layer, self._window]
                if writer.part == "whole_block":
                    yield self._on_whole(block.module, layer, target)
                    continue
                yield self._on_write(writer, target, add=writer.part in seen)
                seen.add(writer.part)
            edited = self.edits is not None and layer in self.edits.head_layers
            if block.projection is not None and (edited or block.gated):
                yield self._on_projection(block.projection, layer)

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Record the input of block 0, the embedding."""
        state = hidden_input(args, kwargs)
        if state is not None:
            store(self.resid[:, 0, self._window], batched(state, self.size))

    def _on_projection(self, module: nn.Module, layer: int) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            """Record the heads' outputs as the projection reads them, and the gate."""
            state = hidden_input(args, kwargs)
            if state is None:
                return
            flat = state.detach().to("cpu", torch.float32, copy=True)
            if self.edits is not None and layer in self.edits.head_layers:
                self.head_inputs[layer] = flat.reshape(-1, flat.shape[-1]).numpy()
            mixed = self._mixed.pop(layer, None)
            if mixed is not None:
                gate = flat.reshape(mixed.shape) / mixed.to("cpu", torch.float32)
                self.gates[layer] = gate.nan_to_num(0.0, 0.0, 0.0).numpy()

        return module.register_forward_pre_hook(hook, with_kwargs=True)

    def _on_write(self, writer: Writer, target: Floats, *, add: bool) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            """Record what a writer adds to the stream, beside what others of its part add."""
            state = batched(hidden_output(output), self.size).reshape(target.shape)
            state = writer.written(state.detach().to("cpu", torch.float32))
            store(target, torch.from_numpy(target) + state if add else state)

        return writer.module.register_forward_hook(hook)

    def _on_whole(self, module: nn.Module, layer: int, target: Floats) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            """Record what a block adds as a whole, before interventions change its output."""
            state = batched(hidden_output(output), self.size).reshape(target.shape)
            store(target, state.detach().to("cpu", torch.float32))
            target[...] -= self.resid[:, layer, self._window]

        return module.register_forward_hook(hook, prepend=True)

    def _on_exit(self, module: nn.Module, target: Floats, layer: int | None = None) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            """Record a state that a module returns, and the progress after a block."""
            store(target, batched(hidden_output(output), self.size).reshape(target.shape))
            if layer is not None and self.label:
                done, total = self._steps
                jobs.step(done + layer + 1, total, self.label)

        return module.register_forward_hook(hook)


def store(target: Floats, state: Tensor) -> None:
    """Copy a tensor of any dtype and device into a float32 array."""
    target[...] = state.detach().to("cpu", torch.float32).numpy()


def store_by_head(target: Floats, state: Tensor) -> None:
    """Copy [batch, head, query, key], one head at a time: no second copy of the whole is made."""
    for place in np.ndindex(target.shape[:2]):
        store(target[place], state[place])


def carry_of(model: Model) -> Floats | None:
    """[layer, d_model] the factors of the residual; None if all are 1."""
    carry = model.stream.carry
    return None if carry is None else carry.numpy()
