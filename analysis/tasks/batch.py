"""Forward passes over many prompts at once; a common prefix is run once."""

from __future__ import annotations

import copy
import inspect
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analysis.contract import jobs
from analysis.contract.specs import Floats
from analysis.model.handle import Model
from analysis.tracing.capture import Trace
from analysis.tracing.recorder import Recorder, carry_of
from analysis.tracing.storage import PerLayer, of_sequence
from analysis.tracing.tokens import check_ids, describe_tokens

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
        yield _run(model, places, [checked[place] for place in places], whole, prefix)
        done += len(places)
        jobs.step(done, len(checked), label)
        jobs.pause()


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
