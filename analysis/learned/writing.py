"""Text that a model writes itself, sampled and seeded: no file and no network is needed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import GenerationConfig

from analysis import progress
from analysis.errors import PromptError
from analysis.learned import texts
from analysis.learned.openings import Part, opening
from analysis.learned.texts import CONTEXT, Text
from analysis.models.handle import Model, set_attention
from analysis.tasks.columns import operand_digits
from analysis.tokens import encode_prompt

#: Texts generated together.
_BATCH = 32


def drawn(model: Model, tokens: int, seed: int, part: Part) -> Text:
    """The model's own words, or, of a model that only adds, sums."""
    digits = operand_digits(model)
    if digits:
        return texts.sums(digits, tokens, seed, part)
    return generated(model, tokens, seed, part)


def generated(model: Model, tokens: int, seed: int, part: Part) -> Text:
    """Texts that the model writes itself at temperature 1, until they hold so many tokens.

    A batch depends on the seed, the part and its number alone. Openings of training and held-out
    texts share no topic; the opening's own positions are not judged.

    Raises:
        PromptError: If the model's tokenizer can read none of the openings.
        CancelledError: If the caller's progress listener stops the work.
    """
    parts: list[tuple[int, ...]] = []
    starts: list[int] = []
    held = batch = 0
    while held < tokens:
        prompts = _prompts(model, batch, seed, part)
        for prompt, text in zip(
            prompts, _continued(model, prompts, seed, batch, part), strict=True
        ):
            parts.append(text)
            starts.append(len(prompt))
            held += len(text) - (len(prompt) if part == "held_out" else 0)
        batch += 1
        progress.step(min(held, tokens), tokens, f"Generating {part.replace('_', '-')} text")
    title = "the model's own words" + (", other topics" if part == "held_out" else "")
    return Text(title, tuple(parts), tuple(starts))


def _prompts(model: Model, batch: int, seed: int, part: Part) -> list[tuple[int, ...]]:
    rng = np.random.default_rng([seed, part == "held_out", batch])
    chat = model.info.chat_template
    made = [opening(number, rng, part, chat) for number in range(_BATCH)]
    start = _start(model)
    return [
        (start,)
        if kind == "nothing"
        else encode_prompt(model.tokenizer, words, template=kind == "chat")
        for kind, words in made
    ]


def _start(model: Model) -> int:
    for name in ("bos_token_id", "eos_token_id"):
        found = getattr(model.tokenizer, name, None)
        if found is not None:
            return int(found)
    raise PromptError(
        "This model's tokenizer has no token that a text starts with.", "Give a file with --text."
    )


@torch.no_grad()
def _continued(
    model: Model, prompts: Sequence[tuple[int, ...]], seed: int, batch: int, part: Part
) -> list[tuple[int, ...]]:
    """Each prompt and what the model writes after it, its end-of-text token included."""
    longest = max(map(len, prompts))
    end = _ends(model)
    new = min(CONTEXT, (model.info.max_positions or CONTEXT + longest) - longest)
    padded = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(padded)
    for row, prompt in enumerate(prompts):  # the left is padded: all go on at the same place
        padded[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=new, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
        eos_token_id=end or None, pad_token_id=end[0] if end else 0,
    )  # fmt: skip
    with model.lock, torch.random.fork_rng(devices=[]):
        torch.manual_seed(hash_seed(seed, batch, part))
        model.hf.set_attn_implementation("eager")
        try:
            output = model.hf.generate(
                padded.to(model.device), attention_mask=mask.to(model.device),
                generation_config=config,
            )  # fmt: skip
        finally:
            set_attention(model.hf)
    written = output[:, longest:].cpu().tolist()
    return [(*prompt, *_ended(row, end)) for prompt, row in zip(prompts, written, strict=True)]


def hash_seed(seed: int, batch: int, part: Part) -> int:
    """One seed for torch out of several numbers."""
    return int(np.random.SeedSequence([seed, batch, part == "held_out"]).generate_state(1)[0])


def _ends(model: Model) -> list[int]:
    own = getattr(getattr(model.hf, "generation_config", None), "eos_token_id", None)
    own = model.tokenizer.eos_token_id if own is None else own
    if own is None:
        return []
    return list(own) if isinstance(own, (list, tuple)) else [int(own)]


def _ended(row: list[int], end: list[int]) -> list[int]:
    places = [place for place, token in enumerate(row) if token in end]
    return row[: places[0] + 1] if places else row
