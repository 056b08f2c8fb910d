"""Run a prompt: generate after it, read the finished sequence in one pass, summarise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from analysis.contract import progress
from analysis.errors import SpecError
from analysis.model.handle import Model
from analysis.tracing import tokens
from analysis.tracing.capture import Trace, prompt_ids, trace
from analysis.tracing.intervention_hooks import applied
from analysis.tracing.interventions import Intervention
from analysis.tracing.specs import RunResult, RunSpec
from analysis.tracing.tokens import check_ids, encode_prompt, vocabulary
from analysis.tracing.vocabulary import row_stats


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


ALTERNATIVES = 5


def tokenize(model: Model, spec: RunSpec) -> tuple[int, ...]:
    """Token ids of a run's prompt, before anything is computed.

    Raises:
        PromptError: If it is empty or holds an unknown id.
    """
    ids = spec.token_ids or encode_prompt(model.tokenizer, spec.text, template=spec.template)
    return check_ids(ids, int(model.readout.input_rows.shape[0]))


def run(model: Model, spec: RunSpec) -> tuple[RunResult, Trace]:
    """Generate ``spec.new_tokens`` after the prompt, then trace the whole sequence.

    Raises:
        PromptError: If the prompt is empty, unknown or too long for the model.
        CancelledError: If the caller's progress listener stops the work.
    """
    prompt = tokenize(model, spec)
    ids = generate(model, prompt, spec.new_tokens)
    states = trace(model, ids)
    result = summarise(model, states, len(prompt), spec.new_tokens)
    if spec.token_ids:
        return result, states
    added = tokens.added(model.tokenizer, spec.text, template=spec.template)
    return replace(result, added=added), states


def summarise(model: Model, states: Trace, prompt_length: int, asked: int) -> RunResult:
    """What the model said at each position of a trace."""
    size = len(states.tokens)
    following = np.array([*states.token_ids[1:], 0], np.int64)[:, None]
    logits = torch.from_numpy(states.logits)
    stats = row_stats(logits, ALTERNATIVES, torch.from_numpy(following))
    next_prob = stats.target_probs[:, 0].numpy().astype(np.float32)
    next_rank = stats.target_ranks[:, 0].numpy().copy()
    next_prob[-1], next_rank[-1] = np.nan, -1
    ids = stats.ids.numpy()
    return RunResult(
        info=model.info,
        tokens=states.tokens,
        prompt_length=prompt_length,
        top_ids=ids,
        top_probs=stats.probs.numpy(),
        next_prob=next_prob,
        next_rank=next_rank,
        entropy=stats.entropy.numpy(),
        vocabulary=vocabulary(model.tokenizer, np.unique(ids).tolist()),
        stopped="length" if size - prompt_length >= asked else "end of text",
    )
