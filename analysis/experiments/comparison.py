"""Two prompts, or two models, under the logit lens: where their runs differ, on aligned tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analysis.contract import jobs
from analysis.contract.specs import resolve_index
from analysis.errors import ModelMismatchError, PromptError, SpecError
from analysis.experiments.alignment import aligned
from analysis.experiments.cells import run
from analysis.experiments.specs import (
    ALIGNMENTS,
    FIELDS,
    PromptComparison,
    PromptSpec,
    about_second,
    mismatch,
)
from analysis.loading import load_model
from analysis.model.handle import Model
from analysis.store.memo import Memo
from analysis.tracing.capture import prompt_ids
from analysis.tracing.tokens import describe_tokens, token_ids

#: Logits that are decoded at once.
_MOST = 4_000_000


def compare(
    model: Model,
    a: Any,
    b: Any = None,
    *,
    other: Model | None = None,
    tokens: Any = None,
    alignment: str = "token",
    pairs: Sequence[str] = (),
) -> PromptComparison:
    """Decode the states of two runs on aligned tokens, and measure how they differ.

    The runs read two prompts, or two models read one prompt: a base model and its instruct version,
    two revisions, or two dtypes.

    Each state is read by the logit lens (nostalgebraist, 2020). The last positions, which predict
    the answer, are always compared with each other.

    Args:
        model: From ``load_model``.
        a: A prompt: text or token ids.
        b: Another one; the same one unless given.
        other: The model that reads ``b`` and decodes its states; the same one unless given. It
            needs the same number of layers, and tokenizers that agree on both prompts.
        tokens: Tokens whose probabilities are followed, as ids or texts, one or several; the top
            tokens of the two runs unless given.
        alignment: "token": equal tokens, by a longest common subsequence (``align``); "position":
            prompts of equal length.
        pairs: Changes of the alignment: "3-5" makes position 3 of ``a`` and 5 of ``b`` partners;
            "3-" leaves 3 without a partner.

    Returns:
        A PromptComparison: KL divergence and probabilities for each row and pair of positions.

    Raises:
        PromptError: If a prompt is invalid, or a text is not one token.
        SpecError: If the prompts have no token in common, or lengths that differ, or a token does
            not exist.
        ModelMismatchError: If layers, vocabularies or tokenizers of the models differ.
        CancelledError: If the caller's progress listener stops the work.
    """
    prompts = {"a": a, "b": a if b is None else b}
    models = (model, other or model)
    _require_agreement(models, prompts)
    ids = [read(model, name, one) for name, one in prompts.items()]
    ALIGNMENTS.check(alignment)
    return _compare(models, ids, _tokens(model, tokens), alignment, tuple(pairs))


def _require_agreement(models: tuple[Model, Model], prompts: dict[str, Any]) -> None:
    """Refuse two models whose states can't be compared one by one.

    Raises:
        ModelMismatchError: Saying how they differ.
        PromptError: If one of them can't read a prompt.
    """
    one, two = models
    if one is two:
        return
    own = {name: read(one, name, prompt) for name, prompt in prompts.items()}
    try:
        both = {name: (ids, read(two, name, prompts[name])) for name, ids in own.items()}
    except PromptError as error:
        raise about_second(error) from error
    found = mismatch(
        [model.info.name for model in models],
        [model.info.layers for model in models],
        [int(model.readout.output_rows.shape[0]) for model in models],
        both,
    )
    if found:
        hint = "Compare models of one family, or decode each of them on its own."
        raise ModelMismatchError(found, hint)


def compute(
    model: Model,
    spec: PromptSpec,
    _memo: Memo | None = None,
    longest: int | None = None,
    other: Model | None = None,
) -> PromptComparison:
    """The comparison of a spec, a technique of ``analysis.registry``; see ``compare``.

    The second model of the spec is loaded by its name unless it is given as ``other``.
    """
    prompts = {"a": spec.a, "b": spec.b or spec.a}
    models = (model, (other or load_model(spec.other)) if spec.other else model)
    _require_agreement(models, prompts)
    ids = [read(model, name, one, longest) for name, one in prompts.items()]
    return _compare(models, ids, _tokens(model, spec.tokens), spec.alignment, spec.pairs)


def _tokens(model: Model, tokens: Any) -> tuple[int, ...]:
    try:
        return token_ids(model.tokenizer, tokens)
    except PromptError as error:
        raise PromptError(f"{FIELDS['tokens']} {error.message}", error.hint) from error


@torch.no_grad()
def _compare(
    models: tuple[Model, Model],
    ids: list[tuple[int, ...]],
    tokens: tuple[int, ...],
    alignment: str,
    changes: tuple[str, ...],
) -> PromptComparison:
    pairs = _pairs(aligned(alignment, changes, *ids), *ids)
    rows, states_of = range(models[0].info.layers + 1), zip(models, ids, strict=True)
    runs = [run(model, own, [("row", row) for row in rows]) for model, own in states_of]
    tops = [int(one.logits.argmax()) for one in runs]
    vocab = int(runs[0].logits.shape[-1])
    followed = tuple(resolve_index("Token", one, vocab) for one in tokens or dict.fromkeys(tops))
    shape, at_once = (len(rows), len(pairs)), max(_MOST // vocab, 1)
    divergence = np.empty((2, *shape), np.float32)
    probs = np.empty((2, *shape, len(followed)), np.float32)
    best = np.empty((2, *shape), np.int64)
    for row in rows:
        states = [
            one.states["row", row][0][[pair[side] for pair in pairs]]
            for side, one in enumerate(runs)
        ]
        for first in range(0, len(pairs), at_once):
            where = slice(first, first + at_once)
            logs = [_decoded(*one) for one in zip(models, (a[where] for a in states), strict=True)]
            for side, (own, other) in enumerate((logs, logs[::-1])):
                divergence[side, row, where] = (own.exp() * (own - other)).sum(-1).numpy()
                probs[side, row, where] = own[:, list(followed)].exp().numpy()
                best[side, row, where] = own.argmax(-1).numpy()
        jobs.step(row + 1, len(rows), "Comparing rows")
        jobs.pause()
    shown = tuple(dict.fromkeys([*followed, *best.reshape(-1).tolist()]))
    a, b, vocabulary = (describe_tokens(models[0].tokenizer, one) for one in (*ids, shown))
    return PromptComparison(
        np.array(pairs, np.int64), divergence[0], divergence[1], followed, probs[0], probs[1],
        best[0], best[1], a, b, vocabulary,
    )  # fmt: skip


def _pairs(
    pairs: tuple[tuple[int, int], ...], a: tuple[int, ...], b: tuple[int, ...]
) -> list[tuple[int, int]]:
    """Aligned positions; the last positions of both prompts are a pair.

    Raises:
        SpecError: If the prompts have no token in common.
    """
    if not pairs:
        raise SpecError("The prompts have no token in common.", "Choose prompts that differ less.")
    last = (len(a) - 1, len(b) - 1)
    return [*(pair for pair in pairs if pair[0] < last[0] and pair[1] < last[1]), last]


def _decoded(model: Model, states: Tensor) -> Tensor:
    """[n, vocab] log-probabilities of states by the logit lens, float64 on the CPU."""
    readout = model.readout
    states = states.to(readout.device, readout.output_rows.dtype)
    return readout.logits(states).cpu().double().log_softmax(-1)


def read(model: Model, name: str, prompt: Any, longest: int | None = None) -> tuple[int, ...]:
    """Token ids of a prompt.

    Args:
        model: From ``load_model``.
        name: The field of the spec, one of ``FIELDS``.
        prompt: Text or token ids.
        longest: The most tokens that the server reads.

    Raises:
        PromptError: If the prompt is invalid or too long, or if the model has no token for a part
            of a text. Such texts would all be the same prompt to the model.
    """
    try:
        ids = prompt_ids(model, prompt)
    except PromptError as error:
        raise PromptError(f"{FIELDS[name]} can't be read. {error.message}", error.hint) from error
    if longest is not None and len(ids) > longest:
        raise PromptError(
            f"{FIELDS[name]} has {len(ids)} tokens; this server reads at most {longest}.",
            "Shorten it, or raise STRATASCOPE_MAX_PROMPT_TOKENS.",
        )
    lost = ids.count(_unknown(model.tokenizer)) if isinstance(prompt, str) else 0
    if lost:
        raise PromptError(
            f"{FIELDS[name]} has {lost} unknown token{'s' * (lost > 1)} of {len(ids)}: the model"
            " has no token for that text, and reads the same placeholder for all of it.",
            "Write text that the model knows, or choose another model.",
        )
    return ids


def _unknown(tokenizer: Any) -> int | None:
    """The id of the placeholder; None if there is none, or if the token has another use too."""
    found = getattr(tokenizer, "unk_token_id", None)
    others = {getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos")}
    return None if found in others else found
