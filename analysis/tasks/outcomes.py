"""Run prompts with known answers: which are right, and how each answer token emerges."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
import torch

from analysis import codec
from analysis.contract.specs import SCHEMA, Floats, Ints
from analysis.errors import StoreError
from analysis.model.handle import Model
from analysis.store.memo import Memo
from analysis.tasks.batch import States, states
from analysis.tasks.prompts import Encoded
from analysis.tasks.suite_specs import Outcome
from analysis.trajectory.steps import CHUNK, follow


def run_suite(
    model: Model,
    prompts: Sequence[Encoded],
    memo: Memo | None = None,
    *,
    most: int | None = None,
    label: str = "Running prompts",
) -> list[Outcome]:
    """Run prompts in batches; prompts that the memo holds are not run again.

    Args:
        model: From ``analysis.load_model``.
        prompts: From ``prompts.encode``; their ``foil_ids`` are followed too.
        memo: Keeps finished prompts; None: nothing is kept.
        most: Prompts in a batch; by default as many as fit.
        label: What the progress listener reads.

    Raises:
        PromptError: If a prompt is too long for the model.
        CancelledError: If the caller's progress listener stops the work; finished prompts stay
            in the memo.
    """
    keys = [_key(model, prompt) for prompt in prompts]
    found = [None if memo is None else _cached(memo, key) for key in keys]
    missing = [place for place, outcome in enumerate(found) if outcome is None]
    missing_prompts = [prompts[place] for place in missing]
    ids = [prompt.token_ids for prompt in missing_prompts]
    since = min((prompt.start - 1 for prompt in missing_prompts), default=0)
    for batch in states(model, ids, whole=False, most=most, label=label, since=since):
        for n, outcome in _outcomes(model, batch, missing_prompts):
            found[missing[n]] = outcome
            if memo is not None:
                memo.put(keys[missing[n]], codec.encode(outcome))
    return cast("list[Outcome]", found)


def _key(model: Model, prompt: Encoded) -> str:
    what = [SCHEMA, model.info.fingerprint, prompt.token_ids, prompt.start, prompt.foil_ids]
    return "outcome-" + hashlib.sha256(json.dumps(what).encode()).hexdigest()


def _cached(memo: Memo, key: str) -> Outcome | None:
    data = memo.get(key)
    if data is None:
        return None
    try:
        outcome = codec.decode(data)
    except StoreError:
        return None
    return outcome if isinstance(outcome, Outcome) else None


def _outcomes(
    model: Model, batch: States, encoded: Sequence[Encoded]
) -> Iterator[tuple[int, Outcome]]:
    """Each prompt's index and outcome."""
    prompts = [encoded[place] for place in batch.which]
    choices = _choices(model, batch, prompts)
    rows = batch.resid.shape[1]
    states, targets = [], []
    for n, (prompt, chosen) in enumerate(zip(prompts, choices, strict=True)):
        count, first = len(prompt.foil_ids), prompt.start - 1 - batch.first
        states.append(batch.resid[n, :, first : first + count].reshape(rows * count, -1))
        right = prompt.token_ids[prompt.start :]
        followed = np.stack([right, chosen[:-1], np.maximum(prompt.foil_ids, 0)], -1)
        targets.append(np.tile(followed, (rows, 1)))
    log_probs, ranks = follow(model, np.concatenate(states), np.concatenate(targets), label="")
    ends = np.cumsum([len(own) for own in targets])[:-1]
    pairs = zip(np.split(np.exp(log_probs), ends), np.split(ranks, ends), strict=True)
    for n, (own_probs, own_ranks) in enumerate(pairs):
        shape = (rows, len(prompts[n].foil_ids), 3)
        yield (
            batch.which[n],
            _outcome(prompts[n], choices[n], own_probs.reshape(shape), own_ranks.reshape(shape)),
        )


def _outcome(prompt: Encoded, choices: Ints, probs: Floats, ranks: Ints) -> Outcome:
    """From [row, answer, 3] tables of the right token, the choice and the foil."""
    foils = np.array(prompt.foil_ids, np.int64)
    probs[:, foils < 0, 2], ranks[:, foils < 0, 2] = np.nan, -1
    p, r = (np.ascontiguousarray(np.moveaxis(table, -1, 0)) for table in (probs, ranks))
    return Outcome(
        prompt.token_ids, prompt.start, choices, p[0], r[0], p[1], r[1], foils, p[2], r[2]
    )


@torch.no_grad()
def _choices(model: Model, batch: States, prompts: Sequence[Encoded]) -> list[Ints]:
    """[answer + 1] the model's top token before each answer token, and after the last."""
    own = [batch.resid[n, -1, p.start - 1 - batch.first :] for n, p in enumerate(prompts)]
    ends = np.cumsum([len(states) for states in own])[:-1]
    chosen = []
    for part in torch.split(torch.from_numpy(np.concatenate(own)), CHUNK):
        states = part.to(model.readout.device, model.readout.output_rows.dtype)
        chosen.append(model.readout.logits(states).argmax(-1).cpu().numpy().astype(np.int64))
    return np.split(np.concatenate(chosen), ends)
