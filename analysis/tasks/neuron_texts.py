"""On which of many texts each neuron of an MLP fires most."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analysis.contract import jobs
from analysis.contract.specs import resolve_index
from analysis.errors import PromptError
from analysis.model.down_projection import down_projection
from analysis.model.handle import Model
from analysis.model.stream import batched, hidden_input
from analysis.store.memo import Memo
from analysis.tasks import suites
from analysis.tasks.batch import batch_size, groups
from analysis.tasks.neuron_text_specs import NeuronTexts, NeuronTextSpec
from analysis.tasks.sum_table import operand_digits
from analysis.tracing.tokens import check_ids, vocabulary


class _Stop(Exception):  # noqa: N818 - not an error: the rest of the pass is not needed
    """Ends a pass at the neurons."""


def compute(
    model: Model, spec: NeuronTextSpec, _memo: Memo | None = None, longest: int | None = None
) -> NeuronTexts:
    """On which texts the neurons of a layer fire most; see ``neuron_texts``.

    Raises:
        SpecError: If there is no such layer, or its neurons can't be separated.
        PromptError: If a text is too long.
        CancelledError: If the caller's progress listener stops the work.
    """
    layer = resolve_index("Layer", spec.layer, model.info.layers)
    texts = spec.own or _of_suite(model, spec)
    ids = [_tokens(model, text, number, longest) for number, text in enumerate(texts, 1)]
    module, _ = down_projection(model, layer)
    values, places = _largest(model, module, ids)
    count = min(spec.k, len(texts))
    best = values.abs().topk(count, dim=0).indices
    where = places.gather(0, best)
    names = vocabulary(model.tokenizer, (one for row in ids for one in row))
    return NeuronTexts(
        layer, texts, tuple(tuple(row) for row in ids), best.T.numpy().astype(np.int64),
        where.T.numpy().astype(np.int64), values.gather(0, best).T.numpy().astype(np.float32),
        names,
    )  # fmt: skip


def _of_suite(model: Model, spec: NeuronTextSpec) -> tuple[str, ...]:
    """The prompts of a suite with their answers; sums are written as the model reads them."""
    digits = operand_digits(model)
    suite = suites.build(
        spec.suite, spec.size, spec.seed, digits or spec.digits, padded=digits is not None
    )
    return tuple(prompt.text + prompt.answer for prompt in suite.prompts)


def _tokens(model: Model, text: str, number: int, longest: int | None) -> tuple[int, ...]:
    """A text's tokens.

    Raises:
        PromptError: If there are none or too many; the message has the text's number.
    """
    ids = tuple(model.tokenizer(text)["input_ids"])
    try:
        checked = check_ids(ids, model.readout.input_rows.shape[0], model.info.max_positions)
    except PromptError as error:
        raise PromptError(f"Text {number}: {error.message}", error.hint) from error
    if longest is not None and len(ids) > longest:
        raise PromptError(
            f"Text {number} has {len(ids)} tokens; this server allows {longest}.",
            "Shorten it, or raise STRATASCOPE_MAX_PROMPT_TOKENS.",
        )
    return checked


def _largest(
    model: Model, module: torch.nn.Module, ids: Sequence[tuple[int, ...]]
) -> tuple[Tensor, Tensor]:
    """[text, neuron] each text's largest activation in size, with its sign, and its position."""
    lengths = [len(row) for row in ids]
    sizes = {length: batch_size(model, length) for length in set(lengths)}
    order: list[int] = []
    values, places = [], []
    for which in groups(lengths, sizes):
        found = _activations(model, module, torch.tensor([ids[at] for at in which]))
        at = found.abs().argmax(1, keepdim=True)
        values.append(found.gather(1, at)[:, 0])
        places.append(at[:, 0])
        order += which
        jobs.step(len(order), len(ids), "Running texts")
        jobs.pause()
    back = torch.tensor(order).argsort()
    return torch.cat(values)[back], torch.cat(places)[back]


@torch.no_grad()
def _activations(model: Model, module: torch.nn.Module, ids: Tensor) -> Tensor:
    """[n, pos, neuron] what a down projection reads in prompts of one length [n, pos]."""
    kept: list[Tensor] = []

    def read(_module: Any, args: Any, kwargs: Any) -> None:
        """Keep the input, and end the pass."""
        state = hidden_input(args, kwargs)
        assert state is not None  # noqa: S101 - it is a linear module
        kept.append(batched(state.detach().to("cpu", torch.float32, copy=True), len(ids)))
        raise _Stop

    handle = module.register_forward_pre_hook(read, with_kwargs=True)
    try:
        with model.lock, suppress(_Stop):
            model.hf(input_ids=ids.to(model.device), use_cache=False)
    finally:
        handle.remove()
    return kept[0]


def neuron_texts(
    model: Model,
    layer: int,
    texts: Sequence[str] = (),
    *,
    suite: str = "facts",
    size: int = 60,
    digits: int = 3,
    seed: int = 0,
    k: int = 5,
) -> NeuronTexts:
    """On which texts, and at which token, each neuron of a layer fires most.

    A neuron's activation is the input of the down projection. Each text counts once, with its
    largest activation in size. All neurons of the layer are measured in one go.

    Args:
        model: From ``load_model``.
        layer: The block.
        texts: The texts, whose line breaks become spaces; a suite's prompts with their answers
            unless given.
        suite: The name of a built-in suite.
        size: Number of prompts of the suite.
        digits: Of each operand, in suites of sums.
        seed: The seed of the suite.
        k: Texts that are kept for each neuron.

    Raises:
        SpecError: If there is no such layer or suite, or the neurons can't be separated (experts).
        PromptError: If a text is empty or too long.
        CancelledError: If the caller's progress listener stops the work.
    """
    own = "\n".join(text.replace("\n", " ") for text in texts)
    return compute(model, NeuronTextSpec("", layer, suite, size, digits, seed, own, k))
