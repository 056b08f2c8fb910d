"""One forward pass with all its states: residual rows, increments, patterns, values, logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from analysis.contract import jobs
from analysis.contract.specs import Floats, ModelInfo, Token
from analysis.errors import NonFiniteError, SpecError
from analysis.model.attention_hooks import observing
from analysis.model.handle import Model
from analysis.model.module_io import batched, hidden_input, hidden_output
from analysis.tracing.intervention_hooks import Edits, as_sequence
from analysis.tracing.interventions import Inject, Intervention, Patch, Steer, index
from analysis.tracing.layer_arrays import (
    LayerArrays,
    PerLayer,
    allocate,
    in_memory,
    is_kept,
    of_layer,
    of_sequence,
)
from analysis.tracing.tokens import check_ids, describe_tokens, read_ids


@dataclass(frozen=True, eq=False)
class Trace:
    """The states of one forward pass. Arrays are float32 on the CPU.

    Attributes:
        tokens: [pos] the sequence.
        resid: [row, pos, d_model] residual stream; row 0 is the embedding output.
        attn_out, mlp_out: [layer, pos, d_model] what attention and MLP add (scales included).
        pattern: [layer, head, pos_query, pos_key]; NaN in a layer without attention, zero for a
            query in ``empty_queries``. Where the layers' shapes differ, ``pattern[layer]`` is
            [head, pos_query, pos_key].
        value: [layer, kv_head, pos, d_head] values, as attention reads them; likewise.
        logits: [pos, vocab] the model's own.
        interventions: The interventions in the pass, with all indices counted from the start.
        info: The model that ran, with its revision.
        head_inputs: For each layer with an ablated head, [pos, head * d_head] the input of the
            output projection.
        empty_queries: (layer, head, query) of the queries whose every visible key was knocked
            out. They get no attention output.
    """

    tokens: tuple[Token, ...]
    resid: Floats
    attn_out: Floats
    mlp_out: Floats
    pattern: PerLayer
    value: PerLayer
    logits: Floats
    interventions: tuple[Intervention, ...] = ()
    scratch: dict[Any, Any] = field(default_factory=dict, repr=False)
    info: ModelInfo | None = None
    head_inputs: dict[int, Floats] = field(default_factory=dict, repr=False)
    empty_queries: tuple[tuple[int, int, int], ...] = ()

    @property
    def token_ids(self) -> tuple[int, ...]:
        """[pos] ids."""
        return tuple(token.id for token in self.tokens)

    def pattern_of(self, layer: int) -> Floats:
        """[head, pos_query, pos_key] the pattern of one layer."""
        return np.asarray(self.pattern[layer], np.float32)

    def value_of(self, layer: int) -> Floats:
        """[kv_head, pos, d_head] the values of one layer."""
        return np.asarray(self.value[layer], np.float32)

    def sink_of(self, layer: int) -> Floats:
        """[head, pos_query] one layer's attention to no token; 0 if a query is empty."""
        missing: Floats = (1.0 - self.pattern_of(layer).sum(-1)).astype(np.float32)
        for place in self.empty_queries:
            if place[0] == layer:
                missing[place[1:]] = 0.0
        return missing

    @property
    def sink(self) -> PerLayer:
        """[layer, head, pos_query] attention to no token (learned sinks); see ``sink_of``."""
        layers = range(len(self.attn_out))
        if not isinstance(self.pattern, LayerArrays):
            return np.stack([self.sink_of(layer) for layer in layers])
        return LayerArrays(
            [self.sink_of(layer) if is_kept(self.pattern, layer) else None for layer in layers]
        )

    @property
    def resid_mid(self) -> Floats:
        """[layer, pos, d_model] ``resid[layer] + attn_out``; a parallel model has no such state."""
        middle: Floats = self.resid[:-1] + self.attn_out
        return middle

    @property
    def edited_states(self) -> NDArray[np.bool_]:
        """[row, pos] which states an intervention patched, injected or steered."""
        edited = np.zeros(self.resid.shape[:2], bool)
        for item in self.interventions:
            if isinstance(item, (Patch, Inject, Steer)):
                edited[item.row, index(item)] = True
        return edited

    def require_sums(self, rows: slice, positions: Any) -> None:
        """Refuse states that are not the sums of their parts, because an intervention edited them.

        Row 0 has no parts, so its edits do not count.

        Args:
            rows: Rows whose parts are needed.
            positions: A slice, index or list of the positions.

        Raises:
            SpecError: Naming the first edited state.
        """
        edited = self.edited_states
        edited[0] = False
        wanted = np.zeros_like(edited)
        wanted[rows, positions] = True
        if (edited & wanted).any():
            row, pos = np.argwhere(edited & wanted)[0].tolist()
            raise SpecError(
                f"An intervention changed the state at row {row}, position {pos}, so it is not the "
                "sum of its parts.",
                "Trace without patches, injections and steering, or choose other rows.",
            )

    def require_model(self, model: Model) -> None:
        """Refuse a model other than the one that made the trace.

        Raises:
            SpecError: Naming both.
        """
        if self.info is not None and self.info.fingerprint != model.info.fingerprint:
            raise SpecError(
                f"The trace was made with {self.info.name} in {self.info.dtype}, not with "
                f"{model.info.name} in {model.info.dtype}.",
                "Trace the prompt with this model.",
            )

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays in memory."""
        kept = (self.resid, self.attn_out, self.mlp_out, self.logits)
        return sum(array.nbytes for array in kept) + sum(map(in_memory, (self.pattern, self.value)))


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
    """

    def __init__(
        self, model: Model, size: int, length: int, *, edits: Edits | None = None,
        whole: bool = True, label: str = "",
    ) -> None:  # fmt: skip
        info, self.stream, self.edits = model.info, model.stream, edits
        self.size, self.whole, self.label, self.dtype = size, whole, label, info.dtype
        kept = size if whole else 0
        layers, width = info.layers, info.d_model
        self.resid = np.empty((size, layers + 1, length, width), np.float32)
        self.attn_out = np.empty((kept, layers, length, width), np.float32)
        self.mlp_out = np.empty((kept, layers, length, width), np.float32)
        self.pattern, self.value = _attention_arrays(model, kept, length)
        self.head_inputs: dict[int, Floats] = {}
        self.empty_queries: list[tuple[int, int, int]] = []

    def cut(self, module: nn.Module, shape: tuple[int, int, int]) -> Tensor | None:
        """The edges that interventions knock out."""
        return None if self.edits is None else self.edits.cut(self.stream.layer(module), shape)

    def observe(self, module: nn.Module, value: Tensor, pattern: Tensor, output: Tensor) -> None:
        """Record the values and the pattern."""
        layer = self.stream.layer(module)
        if layer is not None:
            pattern = self.stream.pattern(layer, value, pattern, output)
            store(of_layer(self.pattern, layer), pattern)
            store(of_layer(self.value, layer), value)
            self._find_empty(module, layer, pattern)

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
        first = self.stream.blocks[0].module
        yield first.register_forward_pre_hook(self._enter, with_kwargs=True)
        for layer, block in enumerate(self.stream.blocks):
            yield self._on_exit(block.module, self.resid[:, layer + 1], 1.0, layer)
            if not self.whole:
                continue
            attention, mlp = self.attn_out[:, layer], self.mlp_out[:, layer]
            yield self._on_exit(block.attention_writer, attention, block.attention_scale)
            yield self._on_exit(block.mlp_writer, mlp, block.mlp_scale)
            edited = self.edits is not None and layer in self.edits.head_layers
            if edited and block.projection is not None:
                yield self._on_projection(block.projection, layer)

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Record the input of block 0, the embedding."""
        state = hidden_input(args, kwargs)
        if state is not None:
            store(self.resid[:, 0], batched(state, self.size))

    def _on_projection(self, module: nn.Module, layer: int) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            """Record the heads' outputs as the projection reads them."""
            state = hidden_input(args, kwargs)
            if state is not None:
                flat = state.detach().to("cpu", torch.float32, copy=True)
                self.head_inputs[layer] = flat.reshape(-1, flat.shape[-1]).numpy()

        return module.register_forward_pre_hook(hook, with_kwargs=True)

    def _on_exit(
        self, module: nn.Module, target: Floats, scale: float, layer: int | None = None
    ) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            """Record a module's output, scaled as it is added to the stream, and the progress."""
            store(target, batched(hidden_output(output), self.size).reshape(target.shape))
            if scale != 1.0:
                np.multiply(target, np.float32(scale), out=target)
            if layer is not None and self.label:
                jobs.step(layer + 1, len(self.stream.blocks), self.label)

        return module.register_forward_hook(hook)


def _attention_arrays(model: Model, size: int, length: int) -> tuple[PerLayer, PerLayer]:
    """Arrays for patterns (NaN in a layer without attention) and values (zero in such a layer)."""
    info, blocks = model.info, model.stream.blocks
    without = [not block.heads for block in blocks]
    patterns = [(block.heads or info.heads, length, length) for block in blocks]
    values = [
        (block.kv_heads, length, block.d_head) if block.heads
        else (info.kv_heads, length, info.d_head)
        for block in blocks
    ]  # fmt: skip
    return (
        allocate(size, patterns, [np.nan if empty else None for empty in without]),
        allocate(size, values, [0.0 if empty else None for empty in without]),
    )


def store(target: Floats, state: Tensor) -> None:
    """Copy a tensor of any dtype and device into a float32 array."""
    target[...] = state.detach().to("cpu", torch.float32).numpy()


def prompt_ids(model: Model, prompt: Any) -> tuple[int, ...]:
    """Token ids of a prompt, checked against the vocabulary.

    Args:
        model: From ``load_model``.
        prompt: Text, token ids, or a tokenizer's output; see ``prompts.read_ids``.

    Raises:
        PromptError: If it is empty, has an unknown id or padding, or is longer than the model
            allows.
    """
    ids = read_ids(model.tokenizer, prompt)
    vocab = int(model.readout.input_rows.shape[0])
    return check_ids(ids, vocab, model.info.max_positions)


@torch.no_grad()
def trace(
    model: Model, prompt: Any, interventions: Sequence[Intervention] | Intervention | None = ()
) -> Trace:
    """Run a prompt once and record every state.

    Args:
        model: From ``load_model``.
        prompt: Text, token ids, or the output of the model's tokenizer.
        interventions: Changes of the pass, from ``analysis.interventions``.

    Raises:
        PromptError: If the prompt is empty, holds an unknown id, or is too long.
        SpecError: If an intervention names a layer, head or position that does not exist.
        NonFiniteError: If a state is NaN or infinite, as when float16 overflows.
        CancelledError: If the caller's progress listener stops the work.
    """
    ids = prompt_ids(model, prompt)
    edits = Edits(model, as_sequence(interventions), len(ids))
    recorder = Recorder(model, 1, len(ids), edits=edits, label="Forward pass")
    with model.lock, edits.applied(), recorder.hooked():
        tokens = torch.tensor([ids], device=model.device)
        output = model.hf(input_ids=tokens, use_cache=False).logits[0]
    logits: Floats = output.to("cpu", torch.float32).numpy()
    recorder.require_finite(logits)
    return Trace(
        describe_tokens(model.tokenizer, ids),
        recorder.resid[0],
        recorder.attn_out[0],
        recorder.mlp_out[0],
        of_sequence(recorder.pattern, 0),
        of_sequence(recorder.value, 0),
        logits,
        edits.sets[0],
        info=model.info,
        head_inputs=recorder.head_inputs,
        empty_queries=tuple(recorder.empty_queries),
    )
