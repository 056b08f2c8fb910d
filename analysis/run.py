"""Run a prompt as a person gives it: tokens, answer, and the model's choice at each position."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from analysis import chat
from analysis.capture import Trace, trace
from analysis.generation import generate
from analysis.lens_math import row_stats
from analysis.models.handle import Model
from analysis.results import RunResult
from analysis.specs import RunSpec
from analysis.tokens import check_ids, encode_prompt, vocabulary

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
    added = chat.added(model.tokenizer, spec.text, template=spec.template)
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
