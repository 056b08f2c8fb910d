"""Run a prompt: generate tokens, trace the whole sequence in one pass, and summarise it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from inspect import signature
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.cache_utils import DynamicCache, DynamicLayer
from transformers.generation.streamers import BaseStreamer

from analysis.contract import jobs
from analysis.errors import SpecError
from analysis.model.handle import Model
from analysis.tracing.capture import Trace, common_length, fitting_trace, prompt_ids
from analysis.tracing.intervention_hooks import applied, as_sequence
from analysis.tracing.interventions import Intervention
from analysis.tracing.specs import Answer, AnswerSpec, RunResult, RunSpec, check_sampling
from analysis.tracing.tokens import (
    added,
    check_ids,
    check_length,
    describe_tokens,
    encode_prompt,
    vocabulary,
)
from analysis.tracing.vocabulary import row_stats

#: The most bytes of keys and values that are kept for a model.
MAX_BYTES = 256 << 20
_KEPT: WeakKeyDictionary[Model, tuple[tuple[int, ...], DynamicCache]] = WeakKeyDictionary()


def begin_cache(model: Model, ids: Sequence[int]) -> DynamicCache | None:
    """A cache for a sequence, with the keys and values of the prefix that is known.

    A causal model's keys and values at a position depend only on the tokens up to it. They may
    come from another batch, so the next logits differ from those of a whole pass by rounding (up
    to 1e-5 of the largest one in float32): only a tie of that order can change a greedy token. The
    last sequence of the model is given away: call ``keep_cache`` after generation.

    Args:
        model: From ``load_model``.
        ids: [pos] token ids; the last one is always computed.

    Returns:
        The cache, perhaps empty; None if the model has another kind of cache.
    """
    supported = getattr(model.hf, "_supports_default_dynamic_cache", None)
    takes = signature(model.hf.forward).parameters
    if supported is None or not supported() or "past_key_values" not in takes:
        return None
    known, cache = _KEPT.pop(model, ((), None))
    same = min(common_length(known, ids), len(ids) - 1)
    if cache is None or not same:
        return DynamicCache(config=model.hf.config.get_text_config(decoder=True))
    cache.crop(same - cache.get_seq_length())
    return cache


def keep_cache(model: Model, ids: Sequence[int], cache: DynamicCache | None) -> None:
    """Keep a cache for the model's next sequence, unless it is too large or can't be shortened.

    Args:
        model: From ``load_model``.
        ids: The tokens whose keys and values it has, and perhaps more.
        cache: From ``begin_cache``, after generation.
    """
    plain = [layer for layer in cache.layers if type(layer) is DynamicLayer] if cache else []
    if cache is None or len(plain) < len(cache.layers):
        return
    parts = [part for layer in plain for part in (layer.keys, layer.values)]
    if sum(part.numel() * part.element_size() for part in parts if part is not None) <= MAX_BYTES:
        _KEPT[model] = tuple(ids[: cache.get_seq_length()]), cache


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
    top_p: float = 1.0,
    seed: int = 0,
    interventions: Sequence[Intervention] | Intervention | None = (),
    use_model_config: bool = False,
) -> tuple[int, ...]:
    """Continue a prompt, greedily (the argmax of the logits) or sampled with a seed.

    The keys and values of the model's last sequence are kept, so that a prompt that begins like it
    costs only its other tokens (``begin_cache``).

    Args:
        model: From ``load_model``.
        prompt: Text, token ids, or the output of the model's tokenizer.
        max_new_tokens: Largest number of new tokens; generation stops at an end-of-text token.
        sample: Draw from the distribution, divided by ``temperature`` and seeded by ``seed``.
        temperature: At least 1e-6.
        top_p: Draw from the fewest tokens whose probabilities sum to this, 0 (exclusive) to 1
            (nucleus sampling; Holtzman et al., 2019, arXiv 1904.09751).
        seed: Makes sampling repeatable.
        interventions: Applied at every step, without a key-value cache. Negative positions count
            from the end of the prompt; None means all, generated ones included.
        use_model_config: Also apply the model's own generation config (penalties, banned and
            forced tokens, beams, sampling options). Else only its end-of-text tokens are used.

    Returns:
        Token ids, prompt included.

    Raises:
        PromptError: If the prompt is empty, unknown, or too long with the new tokens.
        SpecError: If the number of tokens, the temperature, top_p or an intervention is invalid.
        CancelledError: If the caller's progress listener stops the work.
    """
    ids, interventions = prompt_ids(model, prompt), as_sequence(interventions)
    check_sampling(temperature, top_p)
    if max_new_tokens < 0:
        raise SpecError("The number of new tokens can't be negative.", "Use 0 or more.")
    check_length(len(ids) + max_new_tokens, model.info.max_positions)
    if not max_new_tokens:
        return ids
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "use_cache": not interventions}
    if sample:
        options |= {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": top_p}
    elif not use_model_config:
        options["do_sample"] = False
    with applied(model, interventions, len(ids), len(ids) + max_new_tokens):
        return _seeded(model, ids, options, seed, use_model_config)


def _seeded(
    model: Model, ids: tuple[int, ...], options: dict[str, Any], seed: int, own: bool
) -> tuple[int, ...]:
    inputs = torch.tensor([ids], device=model.device)
    cache = begin_cache(model, ids) if options["use_cache"] and not own else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        output = continued(
            model, inputs, torch.ones_like(inputs), options, use_model_config=own, cache=cache
        )
    found = tuple(int(token) for token in output[0])
    keep_cache(model, found, cache)
    return found


def continued(
    model: Model,
    inputs: Tensor,
    mask: Tensor,
    options: dict[str, Any],
    *,
    use_model_config: bool = False,
    cache: Any = None,
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
        cache: Keys and values of the first positions (``begin_cache``); None: a new one.
    """
    own = getattr(model.hf, "generation_config", None)
    ends = end_tokens(model)
    config: GenerationConfig = GenerationConfig(  # type: ignore[no-untyped-call]
        eos_token_id=ends or None, pad_token_id=ends[0] if ends else 0, **options
    )
    known = {} if cache is None else {"past_key_values": cache}
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
                **known,
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
#: Tokens of a prompt that a run reads once. A pass over fewer costs little; the states of more
#: would be in memory twice.
READ_ONCE = range(16, 513)


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
        PromptError: If the prompt is empty, unknown or too long for the model, or the beginning of
            the answer is unknown.
        CancelledError: If the caller's progress listener stops the work.
    """
    prompt = tokenize(model, spec)
    given = _given(model, spec)
    states = _answered(model, prompt_ids(model, (*prompt, *given)), spec)
    result = summarise(model, states, len(prompt), len(given) + spec.new_tokens)
    result = replace(result, given=len(given))
    if spec.token_ids:
        return result, states
    places = added(model.tokenizer, spec.text, template=spec.template)
    return replace(result, added=places), states


def _answered(model: Model, ids: tuple[int, ...], spec: RunSpec) -> Trace:
    """The trace of a prompt and its answer.

    The states of the prompt give the first token, and the longer trace goes on from them, so the
    prompt is read once.
    """
    if len(ids) not in READ_ONCE or not spec.new_tokens or not model.goes_on:
        return fitting_trace(model, generate(model, ids, spec.new_tokens, **sampling(spec)))
    check_length(len(ids) + spec.new_tokens, model.info.max_positions)
    seen, new, drawn = _read(model, ids), spec.new_tokens, sampling(spec)
    model.recent.add(seen)
    if not spec.sample:
        ids = (*ids, int(torch.from_numpy(seen.logits[-1]).argmax()))
        new = 0 if ids[-1] in end_tokens(model) else new - 1
    return fitting_trace(model, generate(model, ids, new, **drawn))


def _read(model: Model, ids: tuple[int, ...]) -> Trace:
    """The trace of a prompt, whose keys and values are kept for what is generated after it."""
    caches: list[DynamicCache] = []

    def fill(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Give each pass over the whole prompt a new cache: the one before it may have failed."""
        if not kwargs.get("use_cache"):
            caches.append(DynamicCache(config=model.hf.config.get_text_config(decoder=True)))
            kwargs |= {"past_key_values": caches[-1], "use_cache": True}
        return args, kwargs

    with model.lock:
        handle = model.hf.register_forward_pre_hook(fill, with_kwargs=True)
        try:
            seen = fitting_trace(model, ids)
        finally:
            handle.remove()
    if caches and caches[-1].get_seq_length() == len(ids):
        keep_cache(model, ids, caches[-1])
    return seen


def _given(model: Model, spec: RunSpec) -> tuple[int, ...]:
    """The tokens with which the answer begins.

    Raises:
        PromptError: If an id is unknown, or the text is not valid.
    """
    given = spec.begun
    if spec.own:
        given += tuple(model.tokenizer(spec.own, add_special_tokens=False)["input_ids"])
    return check_ids(given, int(model.readout.input_rows.shape[0])) if given else ()


def branched(model: Model, spec: RunSpec, taken: Sequence[tuple[int, str]]) -> RunSpec:
    """The run whose answer goes on from tokens or texts of one's own, as a branch of the page does.

    Args:
        model: From ``load_model``.
        spec: The run.
        taken: (step, text) of each branch. Step 0 is the answer's first token. The answer keeps
            its tokens before the step; the text follows them, and ``spec.new_tokens`` new tokens
            follow the text. "#5" is the token with id 5. A later branch counts its step in the
            answer of the earlier ones.

    Raises:
        SpecError: If the answer has no such step, or a text is empty.
        PromptError: If an id is unknown, or a text is not valid.
    """
    prompt, drawn = tokenize(model, spec), sampling(spec)
    for step, text in taken:
        if not text:
            raise SpecError(f"There is no text for step {step}.", "Type a token or a text.")
        given = _given(model, spec)
        wanted = min(max(step - len(given), 0), spec.new_tokens)
        made = generate(model, (*prompt, *given), wanted, **drawn)[len(prompt) :]
        if not 0 <= step <= len(made):
            raise SpecError(
                f"The answer has {len(made)} tokens, so it has no step {step}.",
                f"Choose a step from 0 to {len(made)}.",
            )
        if text.startswith("#") and text[1:].isdecimal() and len(text) < 10:
            spec = replace(spec, begun=(*made[:step], int(text[1:])), own="")
        else:
            spec = replace(spec, begun=made[:step], own=text)
            spec = replace(spec, begun=_given(model, spec), own="")
    return spec


def sampling(spec: RunSpec) -> dict[str, Any]:
    """How ``generate`` chooses the tokens of a run: its keyword arguments."""
    return {name: getattr(spec, name) for name in ("sample", "temperature", "top_p", "seed")}


def answer(model: Model, trace: Trace, spec: AnswerSpec) -> Answer:
    """Continue the prompt of a run greedily, with the run's interventions in every step.

    A mean over positions is then a mean over the prompt's.

    Raises:
        SpecError: If the run has fewer tokens than the prompt.
        PromptError: If prompt and answer are too long for the model.
        CancelledError: If the caller's progress listener stops the work.
    """
    trace.require_model(model)
    length = spec.prompt_length or len(trace.tokens)
    if length > len(trace.tokens):
        raise SpecError(
            f"The run has {len(trace.tokens)} tokens, so its prompt can't have {length}.",
            "Choose a shorter prompt_length.",
        )
    prompt = trace.token_ids[:length]
    ids = generate(model, prompt, spec.new_tokens, interventions=trace.interventions)
    stopped = "length" if len(ids) - length >= spec.new_tokens else "end of text"
    return Answer(describe_tokens(model.tokenizer, ids)[length:], stopped)


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
