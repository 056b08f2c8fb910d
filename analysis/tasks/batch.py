"""Forward passes over many prompts with known answers, and which answers are right.

A common prefix is run once.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from analysis import codec
from analysis.contract import jobs
from analysis.contract.specs import SCHEMA, Floats, Ints
from analysis.errors import StoreError
from analysis.model.handle import Model
from analysis.store.memo import Memo
from analysis.tasks.suite_specs import Outcome
from analysis.tasks.suites import Encoded
from analysis.tracing.capture import Trace
from analysis.tracing.recorder import Recorder, carry_of
from analysis.tracing.storage import PerLayer, of_sequence
from analysis.tracing.tokens import check_ids, describe_tokens
from analysis.trajectory.steps import CHUNK, follow

#: For fewer tokens or fewer prompts, the two passes of the test cost more than they save.
MIN_TOKENS = 8
MIN_PROMPTS = 8
#: Largest relative difference of logit vectors that count as equal, in float32.
SAME = 1e-4
#: Bytes of captured states in one batch.
BATCH_BYTES = 96 << 20
#: Floating-point operations of one batch on a CPU: a click is answered between two batches.
BATCH_FLOPS = 2e10
MAX_BATCH = 128


@dataclass(frozen=True, eq=False)
class Prefix:
    """A common prefix with its keys and values.

    Attributes:
        length: Number of tokens; 0 for none.
        cache: The model's key-value cache; None for none.
    """

    length: int = 0
    cache: Any = None

    @classmethod
    def shared(cls, model: Model, prompts: Sequence[Sequence[int]], most: int) -> Prefix:
        """The common prefix of prompts, at most ``most`` tokens; empty if it can't be shared."""
        length = common_length(prompts, most)
        if length < MIN_TOKENS or len(prompts) < MIN_PROMPTS or model.info.dtype != "float32":
            return cls()
        try:
            return _tested(model, prompts[0], length) or cls()
        except (TypeError, ValueError, AttributeError, RuntimeError, NotImplementedError):
            return cls()  # the model has no such cache: prompts are run whole

    def options(self, size: int) -> dict[str, Any]:
        """Keyword arguments of ``model.hf`` for the remaining tokens of ``size`` prompts."""
        if self.cache is None:
            return {"use_cache": False}
        cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(size)
        return {"use_cache": True, "past_key_values": cache}


def common_length(prompts: Sequence[Sequence[int]], most: int) -> int:
    """Length of the common prefix, at most ``most`` and shorter than the shortest prompt."""
    if not prompts:
        return 0
    most = min(most, min(len(ids) for ids in prompts) - 1)
    first = prompts[0]
    for place in range(most):
        if any(ids[place] != first[place] for ids in prompts):
            return place
    return max(most, 0)


@torch.no_grad()
def _tested(model: Model, ids: Sequence[int], length: int) -> Prefix | None:
    """The prefix with its cache, if the last logits are the same with it and without it."""
    with model.lock:
        whole = _last_logits(model, ids, {"use_cache": False})
        begun = model.hf(input_ids=_row(model, ids[:length]), use_cache=True)
        found = Prefix(length, begun.past_key_values)
        joined = _last_logits(model, ids[length:], found.options(1))
    difference = float((whole - joined).norm() / whole.norm())
    return found if difference <= SAME else None


def _last_logits(model: Model, ids: Sequence[int], options: dict[str, Any]) -> Tensor:
    """[vocab] the logits after the last token."""
    logits: Tensor = model.hf(input_ids=_row(model, ids), **options).logits[0, -1].float()
    return logits


def _row(model: Model, ids: Sequence[int]) -> Tensor:
    return torch.tensor([list(ids)], device=model.device)


@dataclass(frozen=True, eq=False)
class States:
    """States of many prompts of one length; float32 on the CPU.

    Attributes:
        which: [n] the prompts' indices in the list that was passed.
        token_ids: [n] their tokens.
        resid: [n, row, pos, d_model]; ``pos`` counts from ``first``.
        attn_out, mlp_out: [n, layer, pos, d_model]; empty if only rows were captured.
        pattern: [n, layer, head, query, key]; likewise.
        value: [n, layer, kv_head, pos, d_head]; likewise.
        logits: [n, pos, vocab]; likewise.
        first: Position of the first state; 0 unless a common prefix was left out.
        other_out: Part -> [n, layer, pos, d_model]; see ``Trace``.
        gates: Layer -> [n, pos, head, d_head]; see ``Trace``.
    """

    which: tuple[int, ...]
    token_ids: tuple[tuple[int, ...], ...]
    resid: Floats
    attn_out: Floats
    mlp_out: Floats
    pattern: PerLayer
    value: PerLayer
    logits: Floats
    first: int = 0
    other_out: dict[str, Floats] = field(default_factory=dict)
    gates: dict[int, Floats] = field(default_factory=dict)

    def traces(self, model: Model) -> Iterator[tuple[int, Trace]]:
        """Each prompt's index and its ``Trace``, the same as from ``analysis.trace``."""
        for n, place in enumerate(self.which):
            tokens = describe_tokens(model.tokenizer, self.token_ids[n])
            yield (
                place,
                Trace(
                    tokens, self.resid[n], self.attn_out[n], self.mlp_out[n],
                    of_sequence(self.pattern, n), of_sequence(self.value, n),
                    self.logits[n],
                    other_out={part: array[n] for part, array in self.other_out.items()},
                    carry=carry_of(model),
                    gates={layer: gate[n] for layer, gate in self.gates.items()},
                ),
            )  # fmt: skip


def groups(lengths: Sequence[int], most: int | dict[int, int]) -> list[list[int]]:
    """Indices of prompts of equal length, at most ``most`` together, short ones first."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for place, length in enumerate(lengths):
        by_length[length].append(place)
    made = []
    for length, places in sorted(by_length.items()):
        size = most if isinstance(most, int) else most[length]
        made += [places[start : start + size] for start in range(0, len(places), size)]
    return made


def states(
    model: Model,
    prompts: Sequence[Sequence[int]],
    *,
    whole: bool = True,
    most: int | None = None,
    label: str = "Running prompts",
    since: int = 0,
) -> Iterator[States]:
    """Run prompts in batches of equal length and yield each batch's states.

    Args:
        model: From ``analysis.load_model``.
        prompts: Token ids of each.
        whole: Capture everything that a ``Trace`` holds; else residual rows only, which is faster.
        most: Prompts in a batch; by default as many as fit into ``BATCH_BYTES``.
        label: What the progress listener reads.
        since: The first position that is needed. A common prefix before it is run once and left
            out. Only without ``whole``.

    Raises:
        PromptError: If a prompt is empty, too long or holds an unknown id.
        CancelledError: If the caller's progress listener stops the work.
    """
    vocab = int(model.readout.input_rows.shape[0])
    checked = [check_ids(tuple(ids), vocab, model.info.max_positions) for ids in prompts]
    prefix = Prefix.shared(model, checked, 0 if whole or most == 1 else since)
    sizes = {
        length: most or batch_size(model, length - prefix.length, whole)
        for length in {len(ids) for ids in checked}
    }
    done = 0
    for places in groups([len(ids) for ids in checked], sizes):
        ids = [checked[place] for place in places]
        yield jobs.repeatable(partial(_run, model, places, ids, whole, prefix))
        done += len(places)
        jobs.step(done, len(checked), label)


def batch_size(model: Model, length: int, whole: bool = False) -> int:
    """How many prompts of a length to run at once, within limits of memory and of CPU time."""
    info = model.info
    numbers = (info.layers + 1) * length * info.d_model
    logits = length if whole else 1
    numbers += logits * info.vocab
    if whole:
        numbers += 2 * info.layers * length * info.d_model
        numbers += info.layers * info.heads * length * (length + info.d_head)
    fits = BATCH_BYTES // (4 * numbers)
    if model.device.type == "cpu":
        fits = min(fits, int(BATCH_FLOPS / (2 * info.parameters * length)))
    return int(min(max(fits, 1), MAX_BATCH))


@torch.no_grad()
def _run(
    model: Model, places: list[int], ids: list[tuple[int, ...]], whole: bool, prefix: Prefix
) -> States:
    rest = [own[prefix.length :] for own in ids]
    recorder = Recorder(model, len(ids), len(rest[0]), whole=whole)
    options = prefix.options(len(ids))
    if not whole and "logits_to_keep" in inspect.signature(model.hf.forward).parameters:
        options["logits_to_keep"] = 1  # logits are not used
    with model.lock, recorder.hooked():
        logits = model.hf(input_ids=torch.tensor(rest, device=model.device), **options).logits
    kept = logits.to("cpu", torch.float32).numpy() if whole else np.empty(0, np.float32)
    recorder.require_finite(kept)
    return States(
        tuple(places), tuple(ids), recorder.resid, recorder.attn_out, recorder.mlp_out,
        recorder.pattern, recorder.value, kept, prefix.length, recorder.others, recorder.gates,
    )  # fmt: skip


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
