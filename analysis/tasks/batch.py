"""Forward passes over many prompts at once, with their common beginning run once."""

from __future__ import annotations

import copy
import inspect
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from analysis.contract import progress
from analysis.contract.results import Floats
from analysis.model.attention_hooks import observing
from analysis.model.handle import Model
from analysis.model.module_io import batched, hidden_input, hidden_output
from analysis.tracing.capture import Trace, store
from analysis.tracing.tokens import check_ids, describe_tokens

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


#: Bytes of captured states that one batch may take.
BATCH_BYTES = 96 << 20
#: Floating-point operations of one batch on a CPU: between two of them a click is answered.
BATCH_FLOPS = 2e10
MOST = 128


@dataclass(frozen=True, eq=False)
class States:
    """What many prompts of one length did; float32 on the CPU.

    Attributes:
        which: [n] the prompts' places in what was asked for.
        token_ids: [n] their tokens.
        resid: [n, row, pos, d_model]; ``pos`` counts from ``first``.
        attn_out, mlp_out: [n, layer, pos, d_model]; empty where only the rows were wanted.
        pattern: [n, layer, head, query, key]; likewise.
        value: [n, layer, kv_head, pos, d_head]; likewise.
        logits: [n, pos, vocab]; likewise.
        first: Position of the first state held; 0 unless a common beginning was left out.
    """

    which: tuple[int, ...]
    token_ids: tuple[tuple[int, ...], ...]
    resid: Floats
    attn_out: Floats
    mlp_out: Floats
    pattern: Floats
    value: Floats
    logits: Floats
    first: int = 0

    def traces(self, model: Model) -> Iterator[tuple[int, Trace]]:
        """Each prompt's place and its ``Trace``, as ``analysis.trace`` would give it."""
        for n, place in enumerate(self.which):
            tokens = describe_tokens(model.tokenizer, self.token_ids[n])
            yield (
                place,
                Trace(
                    tokens, self.resid[n], self.attn_out[n], self.mlp_out[n],
                    self.pattern[n], self.value[n], self.logits[n],
                ),
            )  # fmt: skip


def groups(lengths: Sequence[int], most: int | dict[int, int]) -> list[list[int]]:
    """Places of prompts of equal length, at most ``most`` together, short ones first."""
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
    """Run prompts in batches of equal length and hand over each batch's states.

    Args:
        model: From ``analysis.load_model``.
        prompts: Token ids of each.
        whole: Everything that a ``Trace`` holds; else residual rows only, which is faster.
        most: Prompts in a batch; by default as many as ``BATCH_BYTES`` hold.
        label: What the progress listener reads.
        since: Positions before this one aren't wanted: what of them all prompts have in common is
            run once. Only without ``whole``.

    Raises:
        PromptError: If a prompt is empty, too long or holds an unknown id.
        CancelledError: If the caller's progress listener stops the work.
    """
    vocab = int(model.readout.input_rows.shape[0])
    asked = [check_ids(tuple(ids), vocab, model.info.max_positions) for ids in prompts]
    prefix = Prefix.shared(model, asked, 0 if whole or most == 1 else since)
    sizes = {
        length: most or fitting(model, length - prefix.length, whole)
        for length in {len(ids) for ids in asked}
    }
    done = 0
    for places in groups([len(ids) for ids in asked], sizes):
        yield _run(model, places, [asked[place] for place in places], whole, prefix)
        done += len(places)
        progress.step(done, len(asked), label)
        progress.pause()


def fitting(model: Model, length: int, whole: bool = False) -> int:
    """How many prompts of a length to run at once: bounded in memory, and in time on a CPU."""
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
    return int(min(max(fits, 1), MOST))


@torch.no_grad()
def _run(
    model: Model, places: list[int], ids: list[tuple[int, ...]], whole: bool, prefix: Prefix
) -> States:
    rest = [own[prefix.length :] for own in ids]
    recorder = _Recorder(model, len(ids), len(rest[0]), whole)
    options = prefix.options(len(ids))
    if not whole and "logits_to_keep" in inspect.signature(model.hf.forward).parameters:
        options["logits_to_keep"] = 1  # they are not looked at
    with model.lock, ExitStack() as stack:
        stack.enter_context(recorder.hooked())
        if whole:
            stream = model.stream
            stack.enter_context(observing(stream.attending, recorder, by_hooks=stream.by_hooks))
        logits = model.hf(input_ids=torch.tensor(rest, device=model.device), **options).logits
    kept = logits.to("cpu", torch.float32).numpy() if whole else np.empty(0, np.float32)
    return States(
        tuple(places), tuple(ids), recorder.resid, recorder.attn_out, recorder.mlp_out,
        recorder.pattern, recorder.value, kept, prefix.length,
    )  # fmt: skip


class _Recorder:
    """Fills preallocated arrays from hooks, for a batch."""

    def __init__(self, model: Model, size: int, length: int, whole: bool) -> None:
        info, self.stream, self.size, self.whole = model.info, model.stream, size, whole
        kept = size if whole else 0
        layers, width = info.layers, info.d_model
        self.resid = np.empty((size, layers + 1, length, width), np.float32)
        self.attn_out = np.empty((kept, layers, length, width), np.float32)
        self.mlp_out = np.empty((kept, layers, length, width), np.float32)
        self.pattern = np.full((kept, layers, info.heads, length, length), np.nan, np.float32)
        self.value = np.zeros((kept, layers, info.kv_heads, length, info.d_head), np.float32)

    def cut(self, module: nn.Module, shape: tuple[int, int, int]) -> None:
        """Cut nothing."""

    def observe(self, module: nn.Module, value: Tensor, pattern: Tensor, output: Tensor) -> None:
        """Keep values and patterns."""
        layer = self.stream.layer(module)
        if layer is not None:
            store(self.pattern[:, layer], pattern)
            store(self.value[:, layer], value)

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Listen to every block, and to its two writers where all is wanted."""
        handles: list[Any] = []
        for layer, block in enumerate(self.stream.blocks):
            if layer == 0:
                handles.append(
                    block.module.register_forward_pre_hook(self._enter, with_kwargs=True)
                )
            handles.append(self._on_exit(block.module, self.resid[:, layer + 1], 1.0))
            if self.whole:
                attention, mlp = self.attn_out[:, layer], self.mlp_out[:, layer]
                handles.append(
                    self._on_exit(block.attention_writer, attention, block.attention_scale)
                )
                handles.append(self._on_exit(block.mlp_writer, mlp, block.mlp_scale))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        state = hidden_input(args, kwargs)
        if state is not None:
            store(self.resid[:, 0], batched(state, self.size))

    def _on_exit(self, module: nn.Module, target: Floats, scale: float) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            """Keep what a module gave for every prompt, scaled as it enters the stream."""
            store(target, batched(hidden_output(output), self.size).reshape(target.shape))
            if scale != 1.0:
                np.multiply(target, np.float32(scale), out=target)

        return module.register_forward_hook(hook)
