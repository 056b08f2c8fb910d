"""Run a suite: which answers are right, and how each answer token emerges row by row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch

from analysis import codec
from analysis.contract import progress
from analysis.contract.specs import SCHEMA
from analysis.errors import StoreError
from analysis.lens.decoders import Reader
from analysis.model.handle import Model
from analysis.store.memo import Memo
from analysis.tasks.batch import States, states
from analysis.tasks.prompts import Encoded
from analysis.tasks.results import Outcome
from analysis.tracing.vocabulary import row_stats

_CELLS = 128


def run_suite(
    model: Model,
    prompts: Sequence[Encoded],
    memo: Memo | None = None,
    *,
    most: int | None = None,
    label: str = "Running prompts",
) -> list[Outcome]:
    """Run prompts in batches; those that the memo knows are not run again.

    Args:
        model: From ``analysis.load_model``.
        prompts: From ``prompts.encode``; their ``foil_ids`` are the other tokens followed.
        memo: Where finished prompts are kept; None: nowhere.
        most: Prompts in a batch; by default as many as fit.
        label: What the progress listener reads.

    Raises:
        PromptError: If a prompt is too long for the model.
        CancelledError: If the caller's progress listener stops the work; what is finished stays
            in the memo.
    """
    keys = [_key(model, prompt) for prompt in prompts]
    found = [None if memo is None else _kept(memo, key) for key in keys]
    missing = [place for place, outcome in enumerate(found) if outcome is None]
    asked = [prompts[place] for place in missing]
    ids = [prompt.token_ids for prompt in asked]
    since = min((prompt.start - 1 for prompt in asked), default=0)
    for batch in states(model, ids, whole=False, most=most, label=label, since=since):
        for n, outcome in _read(model, batch, asked):
            found[missing[n]] = outcome
            if memo is not None:
                memo.put(keys[missing[n]], codec.encode(outcome))
    return cast("list[Outcome]", found)


def _key(model: Model, prompt: Encoded) -> str:
    what = [SCHEMA, model.info.fingerprint, prompt.token_ids, prompt.start, prompt.foil_ids]
    return "outcome-" + hashlib.sha256(json.dumps(what).encode()).hexdigest()


def _kept(memo: Memo, key: str) -> Outcome | None:
    data = memo.get(key)
    if data is None:
        return None
    try:
        outcome = codec.decode(data)
    except StoreError:
        return None
    return outcome if isinstance(outcome, Outcome) else None


def _read(model: Model, batch: States, asked: Sequence[Encoded]) -> Iterator[tuple[int, Outcome]]:
    """Each prompt's place and outcome."""
    prompts = [asked[place] for place in batch.which]
    choices = _choices(model, batch, prompts)
    rows = batch.resid.shape[1]
    cells = [
        (n, row, token)
        for n, prompt in enumerate(prompts)
        for row in range(rows)
        for token in range(len(prompt.foil_ids))
    ]
    probs, ranks = _follow(model, batch, prompts, choices, np.array(cells))
    start = 0
    for n, prompt in enumerate(prompts):
        size = rows * len(prompt.foil_ids)
        shape = (rows, len(prompt.foil_ids), 3)
        own = slice(start, start + size)
        yield (
            batch.which[n],
            _outcome(prompt, choices[n], probs[own].reshape(shape), ranks[own].reshape(shape)),
        )
        start += size


def _outcome(prompt: Encoded, choices: Any, probs: Any, ranks: Any) -> Outcome:
    other = np.array(prompt.foil_ids, np.int64)
    none = other < 0
    probs[:, none, 2], ranks[:, none, 2] = np.nan, -1
    tables = [np.ascontiguousarray(table[..., i]) for i in range(3) for table in (probs, ranks)]
    return Outcome(
        prompt.token_ids, prompt.start, choices, tables[0], tables[1], tables[2], tables[3],
        other, tables[4], tables[5],
    )  # fmt: skip


@torch.no_grad()
def _choices(model: Model, batch: States, prompts: Sequence[Encoded]) -> list[Any]:
    """[answer + 1] of each prompt: the model's first choice from the state before each token."""
    own = [batch.resid[n, -1, p.start - 1 - batch.first :] for n, p in enumerate(prompts)]
    ends = np.cumsum([len(states) for states in own])
    chosen: list[Any] = []
    together = np.concatenate(own)
    for start in range(0, len(together), _CELLS):
        state = torch.from_numpy(together[start : start + _CELLS])
        state = state.to(model.readout.device, model.readout.output_rows.dtype)
        chosen.append(model.readout.logits(state).argmax(-1).cpu().numpy().astype(np.int64))
    return np.split(np.concatenate(chosen), ends[:-1])


@torch.no_grad()
def _follow(
    model: Model, batch: States, prompts: Sequence[Encoded], choices: list[Any], cells: Any
) -> tuple[Any, Any]:
    """Probability and rank of right token, choice and other token in every cell, [cell, 3]."""
    readout = model.readout
    starts = np.array([prompt.start for prompt in prompts])
    before = starts - 1 - batch.first  # the state that predicts the first answer token
    targets = np.array(
        [
            [prompts[n].token_ids[starts[n] + k], choices[n][k], max(prompts[n].foil_ids[k], 0)]
            for n, _, k in cells.tolist()
        ]
    )
    probs = np.zeros((len(cells), 3), np.float32)
    ranks = np.zeros((len(cells), 3), np.int64)
    for start in range(0, len(cells), _CELLS):
        part = slice(start, start + _CELLS)
        n, row, k = cells[part].T
        chosen = torch.from_numpy(batch.resid[n, row, before[n] + k])
        chosen = chosen.to(readout.device, readout.output_rows.dtype)
        wanted = torch.from_numpy(targets[part]).to(readout.device)
        stats = row_stats(Reader(readout, 1.0).logits(readout.normed(chosen)), 1, wanted)
        probs[part] = stats.target_probs.cpu().numpy()
        ranks[part] = stats.target_ranks.cpu().numpy()
        progress.pause()
    return probs, ranks
