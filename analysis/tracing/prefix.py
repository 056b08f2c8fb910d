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
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from analysis.contract.specs import Floats
from analysis.model.handle import Model
from analysis.model.probe import tolerance
from analysis.tracing.storage import PatternStore, PerLayer, is_kept, of_layer, of_sequence

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
    again = known - repeated_from(known)

    def longer(kept: Floats, new: Floats, axis: int = 1) -> Floats:
        """The kept positions, then the new ones."""
        first = (slice(None),) * axis
        return np.concatenate(
            [kept[(*first, slice(known))], new[(*first, slice(again, None))]], axis
        )

    pattern, value = _attention(before, part, known, store, model)
    length = part.value[0].shape[1]
    return {
        **{name: longer(getattr(before, name), getattr(part, name)) for name in _STREAM},
        "logits": np.concatenate([before.logits[:known], part.logits[known - length :]]),
        "pattern": pattern,
        "value": value,
        "other_out": {
            name: longer(before.other_out[name], more) for name, more in part.other_out.items()
        },
        "gates": {
            layer: longer(before.gates[layer], more, 0) for layer, more in part.gates.items()
        },
        "keys": {
            layer: torch.cat([before.keys[layer][:, :known], more[:, known:]], 1)
            for layer, more in part.keys.items()
        },
    }


_STREAM = ("resid", "attn_out", "mlp_out")


def _attention(
    before: Any, part: Any, known: int, store: PatternStore, model: Model
) -> tuple[PerLayer, PerLayer]:
    """Patterns [layer, head, query, key] and values [layer, kv_head, pos, d_head]."""
    length = part.value[0].shape[1]
    patterns, values = store.arrays(model, 1, length)
    for layer in range(len(model.stream.blocks)):
        value = of_layer(values, layer)[0]
        value[:, :known] = before.value[layer][:, :known]
        value[:, known:] = part.value[layer][:, known:]
        if not is_kept(patterns, layer):
            continue
        pattern = of_layer(patterns, layer)[0]
        pattern[:, :known, :known] = before.pattern[layer][:, :known, :known]
        pattern[:, :known, known:] = 0.0
        pattern[:, known:] = part.pattern[layer][:, known - length :]
    return of_sequence(patterns, 0), of_sequence(values, 0)


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
