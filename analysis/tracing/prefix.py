"""Go on from the states of a known prefix: a causal model computes only what follows it.

In a causal model the states at a position depend only on the tokens up to it. A longer sequence
takes the states of its prefix as they are; its other positions attend to the prefix's keys and
values. The last positions of the prefix are computed again: their states must be the kept ones, up
to rounding. Otherwise the pass is not used. So a model that sees later positions, or keeps more
than keys and values, is never read wrongly.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from analysis.contract.specs import Floats
from analysis.model.handle import Model
from analysis.model.probe import tolerance
from analysis.tracing.storage import PatternStore, PerLayer, is_kept, of_layer, of_sequence

#: Cache layers of attention that needs nothing but keys and values. With a sliding window, the mask
#: hides those outside the window.
_PLAIN = {DynamicLayer, DynamicSlidingWindowLayer}
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
    return (
        exact and kept and not before.interventions and sorted(before.keys) == list(layers)
        and _takes_cache(model)
    )  # fmt: skip


def _takes_cache(model: Model) -> bool:
    """Whether the model takes a cache, and keeps nothing but keys and values in it."""
    supported = getattr(model.hf, "_supports_default_dynamic_cache", None)
    takes = signature(model.hf.forward).parameters
    if supported is None or not supported() or "past_key_values" not in takes:
        return False
    usual = DynamicCache(config=model.hf.config.get_text_config(decoder=True))
    return {type(layer) for layer in usual.layers} <= _PLAIN


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


def known_pairs(model: Model, before: Any, count: int) -> dict[int, tuple[Tensor, Tensor]]:
    """For each layer, [1, kv_head, pos, d] the keys and values of a trace's first positions.

    Args:
        model: The model that made the trace.
        before: The trace.
        count: Positions.
    """
    pairs = {}
    for layer, block in enumerate(model.stream.blocks):
        key = before.keys[layer][:, :count]
        device = next(block.module.parameters()).device
        value = torch.from_numpy(before.value_of(layer)[:, :count]).to(device, key.dtype)
        pairs[layer] = (key[None].to(device), value[None])
    return pairs


def options(model: Model, known: int, length: int) -> dict[str, Any]:
    """Keyword arguments of ``model.hf`` for a pass that goes on.

    Args:
        model: The model.
        known: Positions that are taken from the known trace.
        length: Of the whole sequence.
    """
    begun: dict[str, Any] = {"past_key_values": Begun(repeated_from(known)), "use_cache": True}
    if "logits_to_keep" in signature(model.hf.forward).parameters:
        begun["logits_to_keep"] = length - known  # those of the other positions are known
    return begun


def repeated_from(known: int) -> int:
    """The first position that is computed."""
    return max(known - CHECKED, 0)


def difference(before: Any, part: Any, known: int) -> float:
    """Largest relative error of the states that a later pass computed again.

    Args:
        before: The trace of the prefix.
        part: The states from ``repeated_from(known)`` on.
        known: Positions that are taken from ``before``.

    Returns:
        The largest, over rows and positions, of the norm of the difference over the kept norm.
    """
    kept = before.resid[:, repeated_from(known) : known]
    error = np.linalg.norm(part.resid[:, : kept.shape[1]] - kept, axis=-1)
    return float((error / np.maximum(np.linalg.norm(kept, axis=-1), 1e-30)).max())


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
