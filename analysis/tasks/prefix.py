"""What many prompts begin with, run once: a causal model's states do not depend on what follows.

Worked examples before a question are most of its tokens. Keys and values of the common beginning
are kept and handed to each batch, as in generation. Whether that gives the same states is not
taken on trust: it is tried on the first prompt, and where it does not, nothing is shared.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from analysis.models.handle import Model

#: Fewer tokens, or fewer prompts, are not worth the two passes that it takes to try.
LEAST = 8
FEWEST = 8
#: Largest relative difference of a logit vector that counts as the same, in float32.
SAME = 1e-4


@dataclass(frozen=True, eq=False)
class Prefix:
    """A common beginning and its keys and values.

    Attributes:
        length: Tokens; 0 for none.
        cache: What the model gave for them; None for none.
    """

    length: int = 0
    cache: Any = None

    @classmethod
    def shared(cls, model: Model, prompts: Sequence[Sequence[int]], most: int) -> Prefix:
        """The common beginning of prompts, at most ``most`` tokens, where it can be shared."""
        length = common(prompts, most)
        if length < LEAST or len(prompts) < FEWEST or model.info.dtype != "float32":
            return cls()
        try:
            return _tried(model, prompts[0], length) or cls()
        except (TypeError, ValueError, AttributeError, RuntimeError, NotImplementedError):
            return cls()  # a model without such a cache: every prompt is run whole

    def options(self, size: int) -> dict[str, Any]:
        """What ``model.hf`` takes beside the other tokens of ``size`` prompts."""
        if self.cache is None:
            return {"use_cache": False}
        cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(size)
        return {"use_cache": True, "past_key_values": cache}


def common(prompts: Sequence[Sequence[int]], most: int) -> int:
    """How many first tokens all prompts share, at most ``most`` and less than the shortest has."""
    if not prompts:
        return 0
    most = min(most, min(len(ids) for ids in prompts) - 1)
    first = prompts[0]
    for place in range(most):
        if any(ids[place] != first[place] for ids in prompts):
            return place
    return max(most, 0)


@torch.no_grad()
def _tried(model: Model, ids: Sequence[int], length: int) -> Prefix | None:
    """The first prompt's beginning with its cache, if the rest comes out the same with it."""
    with model.lock:
        whole = _last(model, ids, {"use_cache": False})
        begun = model.hf(input_ids=_row(model, ids[:length]), use_cache=True)
        found = Prefix(length, begun.past_key_values)
        joined = _last(model, ids[length:], found.options(1))
    apart = float((whole - joined).norm() / whole.norm())
    return found if apart <= SAME else None


def _last(model: Model, ids: Sequence[int], options: dict[str, Any]) -> Tensor:
    """[vocab] the logits after the last token."""
    logits: Tensor = model.hf(input_ids=_row(model, ids), **options).logits[0, -1].float()
    return logits


def _row(model: Model, ids: Sequence[int]) -> Tensor:
    return torch.tensor([list(ids)], device=model.device)
