"""Run a prompt: generate tokens, trace the whole sequence in one pass, and summarise it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from analysis.contract import jobs
from analysis.errors import SpecError
from analysis.model.handle import Model
from analysis.tracing.capture import Trace, fitting_trace, prompt_ids
from analysis.tracing.intervention_hooks import applied, as_sequence
from analysis.tracing.interventions import Intervention
from analysis.tracing.specs import RunResult, RunSpec
from analysis.tracing.tokens import added, check_ids, check_length, encode_prompt, vocabulary
from analysis.tracing.vocabulary import row_stats


class _Steps(BaseStreamer):
    """Reports each new token, so that generation shows progress and can be cancelled."""

    def __init__(self, total: int) -> None:
        self.done, self.total = -1, total  # transformers puts the prompt first

    def put(self, value: Any) -> None:
        """Receive the prompt, then each token."""
        self.done += 1
        if self.done > 0:
            jobs.step(self.done, self.total, "Generating")

    def end(self) -> None:
        """Receive the end of generation."""


@torch.no_grad()
def generate(
    model: Model,
    prompt: Any,
    max_new_tokens: int,
    *,
    sample: bool = False,
    temperature: float = 1.0,
    seed: int = 0,
    interventions: Sequence[Intervention] | Intervention | None = (),
    use_model_config: bool = False,
) -> tuple[int, ...]:
    """Continue a prompt, greedily (the argmax of the logits) or sampled with a seed.

    Args:
        model: From ``load_model``.
        prompt: Text, token ids, or the output of the model's tokenizer.
        max_new_tokens: Largest number of new tokens; generation stops at an end-of-text token.
        sample: Draw from the distribution, divided by ``temperature`` and seeded by ``seed``.
        temperature: At least 1e-6.
        seed: Makes sampling repeatable.
        interventions: Applied at every step, without a key-value cache. Negative positions count
            from the end of the prompt; None means all, generated ones included.
        use_model_config: Also apply the model's own generation config (penalties, banned and
            forced tokens, beams, sampling options). Else only its end-of-text tokens are used.

    Returns:
        Token ids, prompt included.

    Raises:
        PromptError: If the prompt is empty, unknown, or too long with the new tokens.
        SpecError: If the number of tokens, the temperature or an intervention is invalid.
        CancelledError: If the caller's progress listener stops the work.
    """
    ids, interventions = prompt_ids(model, prompt), as_sequence(interventions)
    options = _options(model, ids, max_new_tokens, sample, temperature, use_model_config)
    if not max_new_tokens:
        return ids
    options["use_cache"] = not interventions
    with applied(model, interventions, len(ids), len(ids) + max_new_tokens):
        return _seeded(model, ids, options, seed, use_model_config)


def _options(
    model: Model, ids: tuple[int, ...], count: int, sample: bool, temperature: float, own: bool
) -> dict[str, Any]:
    """Checked options of ``GenerationConfig``. With ``own``, the model's own fills the rest."""
    if count < 0:
        raise SpecError("The number of new tokens can't be negative.", "Use 0 or more.")
    if not temperature >= 1e-6:
        raise SpecError(
            "The temperature must be at least 1e-6.", "Use sample=False for greedy tokens."
        )
    check_length(len(ids) + count, model.info.max_positions)
    options: dict[str, Any] = {"max_new_tokens": count}
    if sample:
        return options | {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    return options if own else options | {"do_sample": False}


def _seeded(
    model: Model, ids: tuple[int, ...], options: dict[str, Any], seed: int, own: bool
) -> tuple[int, ...]:
    inputs = torch.tensor([ids], device=model.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        output = continued(model, inputs, torch.ones_like(inputs), options, use_model_config=own)
    return tuple(int(token) for token in output[0])


def continued(
    model: Model,
    inputs: Tensor,
    mask: Tensor,
    options: dict[str, Any],
    *,
    use_model_config: bool = False,
) -> Tensor:
    """Token ids [prompt, pos] of prompts and what the model generates after them.

    transformers fills every option that is not given from the model's own generation config.
    That config is therefore replaced during the call, unless ``use_model_config``.

    Args:
        model: From ``load_model``.
        inputs: [prompt, pos] token ids, padded on the left.
        mask: [prompt, pos] 0 for padding.
        options: Of ``GenerationConfig``.
        use_model_config: Whether the model's own generation config fills the other options.
    """
    own = getattr(model.hf, "generation_config", None)
    ends = end_tokens(model)
    config: GenerationConfig = GenerationConfig(  # type: ignore[no-untyped-call]
        eos_token_id=ends or None, pad_token_id=ends[0] if ends else 0, **options
    )
    beams = use_model_config and (getattr(own, "num_beams", None) or 1) > 1
    with model.lock:
        if not use_model_config:
            model.hf.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
        try:
            output: Tensor = model.hf.generate(
                inputs,
                attention_mask=mask,
                generation_config=config,
                streamer=None if beams or len(inputs) > 1 else _Steps(options["max_new_tokens"]),
            )
        finally:
            model.hf.generation_config = own
    return output


def end_tokens(model: Model) -> list[int]:
    """The end-of-text tokens of the model's generation config, else of its tokenizer."""
    own = getattr(getattr(model.hf, "generation_config", None), "eos_token_id", None)
    own = model.tokenizer.eos_token_id if own is None else own
    if own is None:
        return []
    return [int(token) for token in own] if isinstance(own, (list, tuple)) else [int(own)]


#: Most probable next tokens in a summary.
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
    states = fitting_trace(model, ids)
    result = summarise(model, states, len(prompt), spec.new_tokens)
    if spec.token_ids:
        return result, states
    places = added(model.tokenizer, spec.text, template=spec.template)
    return replace(result, added=places), states


def summarise(model: Model, states: Trace, prompt_length: int, new_tokens: int) -> RunResult:
    """The model's next-token predictions at each position of a trace."""
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
        stopped="length" if size - prompt_length >= new_tokens else "end of text",
    )
