"""One forward pass with all its states: residual rows, increments, patterns, values, logits."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis.contract.specs import Floats, ModelInfo, Token
from analysis.errors import NotEnoughMemoryError, SpecError
from analysis.model.handle import Model
from analysis.tracing.intervention_hooks import Edits, as_sequence
from analysis.tracing.interventions import Inject, Intervention, Patch, Steer
from analysis.tracing.recorder import Recorder, carry_of
from analysis.tracing.storage import (
    LayerArrays,
    PatternStore,
    PerLayer,
    in_memory,
    is_kept,
    of_sequence,
    require,
)
from analysis.tracing.tokens import check_ids, describe_tokens, read_ids
from analysis.tracing.vectors import index


@dataclass(frozen=True, eq=False)
class Trace:
    """The states of one forward pass. Arrays are float32 on the CPU.

    Attributes:
        tokens: [pos] the sequence.
        resid: [row, pos, d_model] residual stream; row 0 is the embedding output.
        attn_out, mlp_out: [layer, pos, d_model] what attention (or the mixer in its place) and MLP
            add, as it is in the next row: scales included.
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
        other_out: Part -> [layer, pos, d_model] what else a block adds: "ssm" (a state space model
            beside attention), "per_layer_embedding", "whole_block"
            (a block that can't be split).
        carry: [layer, d_model] the factor from a residual row to the next one; None: all are 1.
        gates: For each layer with gated attention, [pos, head, d_head] the factors of the heads'
            outputs before the output projection.
        keys: For each layer, [kv_head, pos, d_key] the keys, as attention reads them, in the
            model's precision: a longer sequence goes on from them. Empty after interventions.
        reused: Positions whose states were taken from another trace, bit for bit.
        reuse_error: What that may cost: the last of these states were computed again, and differ
            by this part of their norm at most. Likewise for a prompt that was run in blocks.
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
    other_out: dict[str, Floats] = field(default_factory=dict, repr=False)
    carry: Floats | None = None
    gates: dict[int, Floats] = field(default_factory=dict, repr=False)
    keys: dict[int, Tensor] = field(default_factory=dict, repr=False)
    reused: int = 0
    reuse_error: float = 0.0

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
    def pattern_error(self) -> float:
        """Largest relative error of a kept attention weight: 0, or 2^-11 for 16 bits."""
        kept = self.pattern.arrays if isinstance(self.pattern, LayerArrays) else (self.pattern,)
        half = any(one is not None and one.dtype == np.float16 for one in kept)
        return 2.0**-11 if half else 0.0

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
        """[layer, pos, d_model] the states after attention; a parallel model has none.

        ``resid[layer] + attn_out``, as they are in the next row: with the factor of the residual,
        and with a state space model beside attention.
        """
        return np.stack([self.middle(layer) for layer in range(len(self.attn_out))])

    def kept(self, layer: int) -> Floats:
        """[pos, d_model] the part of ``resid[layer]`` in the next row: times the carry."""
        state: Floats = self.resid[layer]
        return state if self.carry is None else state * self.carry[layer]

    def middle(self, layer: int) -> Floats:
        """[pos, d_model] one layer of ``resid_mid``."""
        state: Floats = self.kept(layer) + self.attn_out[layer]
        return state + self.other_out["ssm"][layer] if "ssm" in self.other_out else state

    def others(self, layer: int) -> dict[str, Floats]:
        """Part -> [pos, d_model] what a block adds besides attention and MLP."""
        return {part: array[layer] for part, array in self.other_out.items()}

    def gain(self, row: int) -> Floats:
        """[d_model] the factor from a part of a row to the last row, by the residual alone."""
        factors: Floats = np.ones(self.resid.shape[-1], np.float32)
        for layer in () if self.carry is None else self.carry[row:]:
            factors = factors * layer
        return factors

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
        more = (*self.other_out.values(), *self.gates.values())
        size = sum(array.nbytes for array in (*kept, *more))
        size += sum(key.nbytes for key in self.keys.values())
        return size + sum(map(in_memory, (self.pattern, self.value)))

    def _repr_html_(self) -> str:
        """A summary for notebooks: its tokens, its sizes, and what it predicts next."""
        return str(import_module("analysis.export.results").trace_summary(self))


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
    model: Model,
    prompt: Any,
    interventions: Sequence[Intervention] | Intervention | None = (),
    *,
    pattern_dtype: str = "float32",
    pattern_layers: Sequence[int] | None = None,
    patterns_on_disk: bool = False,
    after: Trace | None = None,
) -> Trace:
    """Run a prompt once and record every state.

    Args:
        model: From ``load_model``.
        prompt: Text, token ids, or the output of the model's tokenizer.
        interventions: Changes of the pass, from ``analysis.interventions``.
        pattern_dtype: "float32", or "float16" for half the memory: it rounds each attention weight
            by at most 0.05 %.
        pattern_layers: The layers whose patterns are kept; None for all. Readings of another
            layer's heads are refused.
        patterns_on_disk: Keep the patterns in a temporary file, mapped to memory. A prompt of more
            than 512 tokens is then run in blocks of positions, each after those that are known:
            its states differ from those of one pass by rounding (``Trace.reuse_error``).
        after: A trace of a prompt that begins like this one. Only the positions after the common
            prefix are computed; the states before are taken from it, bit for bit. Where that is
            not possible (interventions, a model that is not causal or keeps more than keys and
            values), the whole prompt is computed; ``Trace.reused`` says how many were taken.

    Raises:
        PromptError: If the prompt is empty, holds an unknown id, or is too long.
        NotEnoughMemoryError: If the pass and its arrays do not fit; the hint lists what fits.
        SpecError: If an intervention names a layer, head or position that does not exist.
        NonFiniteError: If a state is NaN or infinite, as when float16 overflows.
        CancelledError: If the caller's progress listener stops the work.
    """
    ids, changes = prompt_ids(model, prompt), as_sequence(interventions)
    layers = None if pattern_layers is None else tuple(pattern_layers)
    store = PatternStore(pattern_dtype, layers, patterns_on_disk).of(model)
    if after is not None:
        after.require_model(model)
        found = None if changes else _after(model, after, ids, store)
        if found is not None:
            return found
    if patterns_on_disk and not changes:
        found = _in_blocks(model, ids, replace(store, block=model.block_of(len(ids))))
        if found is not None:
            return found
    edits = Edits(model, changes, len(ids))
    recorder = Recorder(
        model, 1, len(ids), edits=edits, label="Forward pass", patterns=store,
        keep_keys=not changes,
    )  # fmt: skip
    with model.lock, edits.applied(), recorder.hooked():
        tokens = torch.tensor([ids], device=model.device)
        output = model.hf(input_ids=tokens, use_cache=False).logits[0]
    return _recorded(model, ids, recorder, output, edits.sets[0])


def _in_blocks(model: Model, ids: tuple[int, ...], store: PatternStore) -> Trace | None:
    """The trace of a long prompt whose pass does not fit; None if it must be run at once."""
    from analysis.tracing import prefix

    if not store.block:
        return None
    recorder = Recorder(model, 1, len(ids), label="Forward pass", patterns=store, keep_keys=True)
    with model.lock:
        try:
            logits = prefix.in_blocks(model, ids, recorder, store.block)
        except prefix.UNUSABLE:
            logits = None
    if logits is None:
        model.went_wrong = True
        return None
    return replace(_recorded(model, ids, recorder, logits), reuse_error=recorder.error)


def _recorded(
    model: Model, ids: Sequence[int], recorder: Recorder, output: Tensor,
    interventions: tuple[Intervention, ...] = (),
) -> Trace:  # fmt: skip
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
        interventions,
        info=model.info,
        head_inputs=recorder.head_inputs,
        empty_queries=tuple(recorder.empty_queries),
        other_out={part: array[0] for part, array in recorder.others.items()},
        carry=carry_of(model),
        gates={layer: gate[0] for layer, gate in recorder.gates.items()},
        keys=recorder.keys,
    )


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """The length of the common prefix of two sequences."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def _after(model: Model, before: Trace, ids: tuple[int, ...], store: PatternStore) -> Trace | None:
    """The trace of a sequence that begins like another one; None if it can't go on from there."""
    from analysis.tracing import prefix

    known = min(common_length(before.token_ids, ids), len(ids) - 1)
    if known < 1 or not prefix.can_go_on(model, before, store):
        return None
    require(model, 1, len(ids), store, whole=True)
    start = prefix.repeated_from(known)
    rest = torch.tensor([ids[start:]], device=model.device)
    recorder = Recorder(
        model, 1, rest.shape[1], label="Forward pass", patterns=store, keep_keys=True,
        before=start, pairs=prefix.known_pairs(model, before.keys, before.value_of, start),
    )  # fmt: skip
    try:
        with model.lock, recorder.hooked():
            output = model.hf(input_ids=rest, **prefix.options(model, known, len(ids))).logits[0]
        part = _recorded(model, ids, recorder, output)
        kept = before.resid[:, start:known]
        error = prefix.difference(kept, part.resid[:, : known - start])
        if error > prefix.most_difference(model):
            model.went_wrong = True
            return None
        arrays = prefix.joined(before, part, known, store, model)
    except prefix.UNUSABLE:
        model.went_wrong = True
        return None
    return replace(part, **arrays, reused=known, reuse_error=error)


#: A prefix is taken from a known trace if it has this many tokens, and half of the prompt: a
#: shorter one saves little.
_LEAST_PREFIX = 16


def _known_prefix(model: Model, ids: tuple[int, ...]) -> Trace | None:
    """The known trace with the longest common prefix; None if all are too short."""
    lengths = {common_length(one.token_ids, ids): one for one in list(model.recent)}
    longest = max(lengths, default=0)
    return lengths[longest] if longest >= max(_LEAST_PREFIX, len(ids) / 2) else None


def fitting_trace(model: Model, prompt: Any, interventions: Sequence[Intervention] = ()) -> Trace:
    """``trace``; its patterns are on disk if they do not fit in memory.

    It goes on from the known prefix of a trace among ``model.recent``.

    Raises:
        PromptError: If the prompt is empty, holds an unknown id, or is too long.
        SpecError: If an intervention names a layer, head or position that does not exist.
        NotEnoughMemoryError: If it does not fit even so.
    """
    ids = prompt_ids(model, prompt)
    before = None if interventions else _known_prefix(model, ids)
    with suppress(NotEnoughMemoryError):
        return trace(model, ids, interventions, after=before)
    try:
        return trace(model, ids, interventions, patterns_on_disk=True, after=before)
    except NotEnoughMemoryError as error:
        raise NotEnoughMemoryError(error.message, "Shorten the prompt.") from error
