"""Generate after a prompt, then read the finished sequence in one pass.

With the key-value cache and one pass at the end: the same tokens as
recomputing at every step, at a quarter of its cost (design: generation).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from analysis import progress
from analysis.capture import prompt_ids
from analysis.errors import SpecError
from analysis.interventions import Intervention, applied
from analysis.models.handle import Model
from analysis.tokens import check_ids


class _Steps(BaseStreamer):
    """Reports each new token, so that generation shows progress and can be cancelled."""

    def __init__(self, total: int) -> None:
        self.done, self.total = -1, total  # the prompt itself is put first

    def put(self, value: Any) -> None:
        """Hear of the prompt, then of each token."""
        self.done += 1
        if self.done > 0:
            progress.step(self.done, self.total, "Generating")

    def end(self) -> None:
        """Hear that generation ended: nothing is left to do."""


@torch.no_grad()
def generate(
    model: Model,
    prompt: str | Sequence[int],
    max_new_tokens: int,
    *,
    sample: bool = False,
    temperature: float = 1.0,
    seed: int = 0,
    interventions: Sequence[Intervention] = (),
) -> tuple[int, ...]:
    """Continue a prompt, greedily or sampled with a seed.

    Args:
        model: From ``load_model``.
        prompt: Text or token ids.
        max_new_tokens: At most so many; generation stops earlier at an end-of-text token.
        sample: Draw from the distribution, divided by ``temperature`` and seeded by ``seed``.
        temperature: Above 0.
        seed: Makes sampling repeatable.
        interventions: Replayed at the same positions at every step (without a key-value cache).

    Returns:
        Token ids, prompt included.

    Raises:
        PromptError: If the prompt is empty, unknown, or too long with the new tokens.
        SpecError: If the number of tokens or the temperature makes no sense.
        CancelledError: If the caller's progress listener stops the work.
    """
    if max_new_tokens < 0 or temperature <= 0.0:
        raise SpecError("New tokens can't be negative, nor temperature 0.", "Use sample=False.")
    ids = prompt_ids(model, prompt)
    if max_new_tokens == 0:
        return ids
    check_ids((*ids, *ids[:1] * max_new_tokens), model.info.vocab, model.info.max_positions)
    config = _config(model, max_new_tokens, sample, temperature)
    config.use_cache = not interventions
    with applied(model, interventions), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _continued(model, ids, config)


def _continued(model: Model, ids: tuple[int, ...], config: GenerationConfig) -> tuple[int, ...]:
    inputs = torch.tensor([ids], device=model.device)
    output = model.hf.generate(
        inputs,
        attention_mask=torch.ones_like(inputs),
        generation_config=config,
        streamer=_Steps(config.max_new_tokens),
    )
    return tuple(int(token) for token in output[0])


def _config(model: Model, count: int, sample: bool, temperature: float) -> GenerationConfig:
    """Plain greedy or plain sampling: a model's own penalties would bend what is studied."""
    own = getattr(model.hf, "generation_config", None)
    end = getattr(own, "eos_token_id", None)
    end = model.tokenizer.eos_token_id if end is None else end
    options: dict[str, Any] = {"max_new_tokens": count, "do_sample": sample, "eos_token_id": end}
    if sample:
        options |= {"temperature": temperature, "top_k": 0, "top_p": 1.0}
    pad = end[0] if isinstance(end, (list, tuple)) and end else end
    config: GenerationConfig = GenerationConfig(  # type: ignore[no-untyped-call]
        pad_token_id=pad if pad is not None else 0, **options
    )
    return config
