"""Go on from the states of a known prefix: a causal model computes only what follows it.

In a causal model the states at a position depend only on the tokens up to it. A longer sequence
takes the states of its prefix as they are; its other positions attend to the prefix's keys and
values. The last positions of the prefix are computed again: their states must be the kept ones, up
to rounding. Otherwise the pass is not used. So a model that sees later positions, or keeps more
than keys and values, is never read wrongly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from threading import Lock
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from analysis.contract.specs import Floats
from analysis.model.handle import Model
from analysis.model.probe import tolerance
from analysis.tracing.storage import LayerArrays, PatternStore, PerLayer, fits, is_kept, of_layer

#: Known positions that are computed again. With a new one they are four rows, which matrix products
#: on the CPU read faster than two.
CHECKED = 3
#: What a model raises that can't use such a cache.
UNUSABLE = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError)


def can_go_on(model: Model, before: Any, store: PatternStore) -> bool:
    """Whether a pass can go on from a trace, as far as can be known before it.

    Args:
        model: The model that made the trace.
        before: The trace of the prefix.
        store: How the longer trace keeps patterns: the shorter one must have them as exactly.
    """
    layers = range(len(model.stream.blocks))
    exact = before.pattern_error == 0.0 or store.dtype == "float16"
    kept = all(is_kept(before.pattern, layer) for layer in layers if store.keeps(layer))
    known = sorted(before.keys) == list(layers)
    return exact and kept and known and not before.interventions and model.goes_on


class Begun(DynamicCache):
    """A cache that says how many positions are known, and holds nothing.

    The recorder adds their keys and values in front of the new ones where attention reads them.
    There every model has them in one form; in its cache a model may have others (DeepSeek's
    latents).

    Args:
        count: The known positions.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """The new keys and values alone."""
        return key_states, value_states

    def get_seq_length(self, *_: Any, **__: Any) -> int:
        """The known positions."""
        return self._count

    def get_mask_sizes(self, query_length: int, *_: Any, **__: Any) -> tuple[int, int]:
        """Keys of the mask, and its offset."""
        return self._count + query_length, 0


def known_pairs(
    model: Model, keys: dict[int, Tensor], values: Callable[[int], Floats], count: int
) -> dict[int, tuple[Tensor, Tensor]]:
    """For each layer, [1, kv_head, pos, d] the keys and values of the first positions.

    Args:
        model: The model that made them.
        keys: Layer -> [kv_head, pos, d].
        values: Gives those of a layer, [kv_head, pos, d].
        count: Positions.
    """
    pairs = {}
    for layer, block in enumerate(model.stream.blocks):
        key = keys[layer][:, :count]
        device = next(block.module.parameters()).device
        value = torch.from_numpy(values(layer)[:, :count]).to(device, key.dtype)
        pairs[layer] = (key[None].to(device), value[None])
    return pairs


def options(model: Model, known: int, length: int) -> dict[str, Any]:
    """Keyword arguments of ``model.hf`` for a pass that goes on.

    Args:
        model: The model.
        known: Positions that are known.
        length: Positions, with those that the pass adds.
    """
    begun: dict[str, Any] = {"past_key_values": Begun(repeated_from(known)), "use_cache": True}
    if "logits_to_keep" in signature(model.hf.forward).parameters:
        begun["logits_to_keep"] = length - known  # those of the other positions are known
    return begun


def repeated_from(known: int) -> int:
    """The first position that is computed."""
    return max(known - CHECKED, 0)


def difference(kept: Floats, again: Floats) -> float:
    """Largest relative error of states that were computed again.

    Args:
        kept: [row, pos, d_model].
        again: [row, pos, d_model].

    Returns:
        The largest, over rows and positions, of the norm of the difference over the kept norm.
    """
    error = np.linalg.norm(again - kept, axis=-1)
    return float((error / np.maximum(np.linalg.norm(kept, axis=-1), 1e-30)).max())


@torch.no_grad()
def in_blocks(model: Model, ids: Sequence[int], recorder: Any, block: int) -> Tensor | None:
    """Run a sequence some positions at a time, each block after the positions that are known.

    Attention then holds [head, block, key] instead of [head, query, key]. The last positions of a
    block are run again in the next one; see ``difference``.

    Args:
        model: From ``load_model``.
        ids: [pos].
        recorder: For the whole sequence; it keeps the keys.
        block: Positions.

    Returns:
        [pos, vocab] float32 logits on the CPU; None if a block gives other states.
    """
    logits = torch.empty(len(ids), model.info.vocab)
    layers, known = len(model.stream.blocks), 0
    for number, stop in enumerate(ends := [*range(block, len(ids), block), len(ids)]):
        start, pairs = repeated_from(known), {}
        if known:
            pairs = known_pairs(model, recorder.keys, _values_of(recorder), start)
        kept = recorder.resid[0, :, start:known].copy()
        recorder.at(start, stop, pairs, (number * layers, len(ends) * layers))
        tokens = torch.tensor([list(ids[start:stop])], device=model.device)
        with recorder.hooked():
            found = model.hf(input_ids=tokens, **options(model, known, stop)).logits[0]
        logits[known:stop] = found[known - stop :].to("cpu", torch.float32)
        error = difference(kept, recorder.resid[0, :, start:known]) if known else 0.0
        recorder.error = max(recorder.error, error)
        if error > most_difference(model):
            return None
        known = stop
    return logits


def _values_of(recorder: Any) -> Callable[[int], Floats]:
    return lambda layer: of_layer(recorder.value, layer)[0]


def most_difference(model: Model) -> float:
    """The largest error of ``difference`` that is rounding: 1e-4 in float32, 2e-2 in 16 bits."""
    limit = tolerance(model.dtype)
    return 10.0 * limit if model.exact else limit


class Shared:
    """Arrays with free positions, which a trace and those that go on from it share.

    A trace reads the positions up to its own length. The first trace that goes on from it fills the
    next ones; another one copies, so no trace ever changes.

    Args:
        columns: Name -> array and its axis of positions; see ``_columns``.
        pattern: [layer, head, query, key].
        value: [layer, kv_head, pos, d_head].
        store: How patterns are kept.
        sizes: The positions that are filled, and those for which there is room.
    """

    def __init__(
        self, columns: Columns, pattern: PerLayer, value: PerLayer, store: PatternStore,
        sizes: tuple[int, int],
    ) -> None:  # fmt: skip
        self._columns, self._pattern, self._value = columns, pattern, value
        self._store, (self._filled, self._size) = store, sizes
        self._lock = Lock()

    def take(self, known: int, length: int, store: PatternStore) -> bool:
        """Whether the positions from ``known`` to ``length`` were free; they no longer are."""
        with self._lock:
            free = self._filled == known and length <= self._size and store == self._store
            self._filled = length if free else self._filled
            return free

    def fill(self, part: Any, known: int, length: int) -> None:
        """Copy the positions from ``known`` on, the last ones of ``part``."""
        new, here = slice(known - length, None), slice(known, length)
        for name, (array, axis) in _columns(part).items():
            self._columns[name][0][_at(axis, here)] = array[_at(axis, new)]
        for layer in range(len(part.attn_out)):
            of_layer(self._value, layer)[0][:, here] = part.value[layer][:, new]
            if is_kept(self._pattern, layer):
                pattern = of_layer(self._pattern, layer)[0]
                pattern[:, here, :length] = part.pattern[layer][:, new]

    def arrays(self, length: int) -> dict[str, Any]:
        """Values of fields of ``Trace``: the first positions."""
        found: dict[str, Any] = {"other_out": {}, "gates": {}, "keys": {}}
        for (field, name), (array, axis) in self._columns.items():
            some = array[_at(axis, slice(length))]
            if name is None:
                found[field] = some
            else:
                found[field][name] = some
        first = slice(length)
        found["pattern"] = _each(self._pattern, (0, ..., first, first))
        found["value"] = _each(self._value, (0, ..., first, slice(None)))
        return found


def joined(before: Any, part: Any, known: int, store: PatternStore, model: Model) -> dict[str, Any]:
    """The arrays of a longer trace: the first positions are those of the shorter one, bit for bit.

    Args:
        before: The trace of the prefix.
        part: The states from ``repeated_from(known)`` on, and the logits from there or later.
        known: Positions that are taken from ``before``.
        store: How patterns are kept.
        model: The model.

    Returns:
        Values of fields of ``Trace``.
    """
    length = part.value[0].shape[1]
    shared: Shared | None = before.scratch.get(_SHARED)
    if shared is None or not shared.take(known, length, store):
        shared = _copied(before, known, length, store, model)
    shared.fill(part, known, length)
    return {**shared.arrays(length), "scratch": {**inherited(before, known), _SHARED: shared}}


_SHARED = ("shared",)
_STREAM = ("resid", "attn_out", "mlp_out")
#: Free positions of a copy.
_SPARE = 32
#: Field of ``Trace`` and name in it -> array, and its axis of positions.
Columns: TypeAlias = dict[tuple[str, Any], tuple[Any, int]]


def _columns(trace: Any) -> Columns:
    """All arrays of a trace in which a position has a column: all but patterns and values."""
    found: Columns = {(name, None): (getattr(trace, name), 1) for name in _STREAM}
    found["logits", None] = trace.logits, 0
    for field, axis in (("other_out", 1), ("gates", 0), ("keys", 1)):
        for name, array in getattr(trace, field).items():
            found[field, name] = array, axis
    return found


def _at(axis: int, where: slice) -> tuple[slice, ...]:
    return (*(slice(None),) * axis, where)


def _each(arrays: PerLayer, where: tuple[Any, ...]) -> PerLayer:
    """A part of one sequence's array in every layer that was kept."""
    if not isinstance(arrays, LayerArrays):
        whole: Floats = arrays[where]
        return whole
    return LayerArrays([None if one is None else one[where] for one in arrays.arrays])


def _copied(before: Any, known: int, length: int, store: PatternStore, model: Model) -> Shared:
    """The first positions of a trace in arrays for ``length`` positions, and more if they fit."""
    size = length + _SPARE if fits(model, length + _SPARE, store) else length
    columns: Columns = {}
    for name, (array, axis) in _columns(before).items():
        shape = (*array.shape[:axis], size, *array.shape[axis + 1 :])
        wide = array.new_empty(shape) if isinstance(array, Tensor) else np.empty(shape, array.dtype)
        wide[_at(axis, slice(known))] = array[_at(axis, slice(known))]
        columns[name] = wide, axis
    patterns, values = store.arrays(model, 1, size)
    for layer, block in enumerate(model.stream.blocks):
        of_layer(values, layer)[0][:, :known] = before.value[layer][:, :known]
        if block.heads and is_kept(patterns, layer):
            pattern = of_layer(patterns, layer)[0]
            pattern[:, :known, :known] = before.pattern[layer][:, :known, :known]
            pattern[:, :, known:] = 0.0  # no query sees a later key
    return Shared(columns, patterns, values, store, (length, size))


def inherited(before: Any, known: int) -> dict[Any, Any]:
    """What readings of a trace know of its first positions, for a trace that goes on from it.

    Args:
        before: The trace; its readings keep ``analysis.lens.grid.Columns`` in its ``scratch``.
        known: Positions.
    """
    found: dict[Any, Any] = {}
    for kind in ("taken", "columns"):
        for name, columns in list(before.scratch.items()):
            if name[0] == kind:
                found["taken", name[1]] = columns.first(known)
    return found
