"""Texts to train and evaluate a lens on: files, text that the model writes, sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from analysis.contract import jobs
from analysis.errors import PromptError, SpecError
from analysis.model.handle import Model
from analysis.tasks import adder, addition
from analysis.tasks.sum_table import operand_digits
from analysis.tracing.generation import continued, end_tokens
from analysis.tracing.tokens import encode_prompt

Part = Literal["train", "held_out"]

_TOPICS = {
    "train": (
        "the sea", "a bicycle", "photosynthesis", "the Roman Empire", "bread", "a lost dog",
        "interest rates", "the moon", "volcanoes", "chess", "a broken radio", "friendship",
        "Brazil", "the human heart", "prime numbers", "a train journey", "bees", "jazz",
        "the French Revolution", "electricity", "a small garden", "climate", "the brain",
        "football", "a letter from home", "gravity", "Japan", "vaccines", "a wooden house",
        "the stock market", "dreams", "sorting a list",
    ),
    "held_out": (
        "a lighthouse", "the Nile", "magnets", "coffee", "a piano lesson", "democracy", "whales",
        "a Fibonacci sequence",
    ),
}  # fmt: skip
_REQUESTS = (
    "Explain {} to a child.", "Write a short story about {}.", "What should I know about {}?",
    "Give me five facts about {}.", "Write a poem about {}.", "Why does {} matter?",
    "Summarise the history of {} in two sentences.", "Write an email that mentions {}.",
    "Write a Python function to do with {}.", "Translate a sentence about {} into Spanish.",
    "Make a list of questions about {}.", "Is it true that {} is misunderstood? Argue.",
)  # fmt: skip
_STARTS = (
    "{}", "The story of {}", "Chapter 1\n\n{}", "In 1987, {}", "Q: What is {}?\nA:",
    "# {}\n\n", "import math\n\n# {}\ndef ", "According to the report, {}", "1. {}\n2.",
    "\"{},\" she said,", "Abstract. We study {}", "Dear John,\n\nAbout {}:",
)  # fmt: skip


def opening(number: int, rng: np.random.Generator, part: Part, chat: bool) -> tuple[str, str]:
    """The kind and the words of an opening of a generated text.

    Args:
        number: Its number. Kinds alternate: nothing, bare words, and (with ``chat``) two requests.
        rng: Chooses form and topic.
        part: Training and held-out openings share no topic.
        chat: Whether the model has a chat template.

    Returns:
        ("nothing", ""), ("bare", words) or ("chat", request).
    """
    kind = (
        ("nothing", "bare", "chat", "chat")[number % 4] if chat else ("nothing", "bare")[number % 2]
    )
    topics = _TOPICS[part]
    topic = topics[int(rng.integers(len(topics)))]
    if kind == "nothing":
        return kind, ""
    forms = _STARTS if kind == "bare" else _REQUESTS
    words = forms[int(rng.integers(len(forms)))].format(topic)
    return kind, words[0].upper() + words[1:]


#: Tokens of a window of a file, and new tokens of a generated text.
CONTEXT = 128
#: One of this many windows of a file is held out.
_TENTH = 10
#: Texts generated at once.
_BATCH = 32


@dataclass(frozen=True, slots=True)
class Text:
    """Token sequences, each of which is a prompt of its own.

    Attributes:
        title: A description.
        parts: Sequences of token ids.
        starts: The first position of each that is evaluated, after its opening.
    """

    title: str
    parts: tuple[tuple[int, ...], ...]
    starts: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of tokens."""
        return sum(len(part) for part in self.parts)

    def first(self, tokens: int) -> Text:
        """The first parts, with at least ``tokens`` positions to evaluate."""
        kept, held = 0, 0
        while kept < len(self.parts) and held < tokens:
            held += len(self.parts[kept]) - self.starts[kept]
            kept += 1
        return Text(self.title, self.parts[:kept], self.starts[:kept])


def from_file(model: Model, path: Path, part: Part) -> Text:
    """A part of a text file: every tenth window of 128 tokens is held out, the others train.

    Raises:
        SpecError: If the file can't be read as UTF-8, or is too short.
    """
    try:
        words = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(
            f"{path} can't be read as UTF-8 text.", "Choose a plain text file."
        ) from error
    windows = _windows(model, words)
    if len(windows) < 2 * _TENTH:
        raise SpecError(
            f"{path} has {sum(map(len, windows))} tokens; a lens needs {2 * _TENTH * CONTEXT}.",
            "Choose a longer text, or leave out --text: then the model writes one.",
        )
    held = [(number % _TENTH == 0) == (part == "held_out") for number in range(len(windows))]
    parts = tuple(window for window, wanted in zip(windows, held, strict=True) if wanted)
    title = {"train": f"{path.name}", "held_out": f"{path.name}, each tenth window"}[part]
    return Text(title, parts, (0,) * len(parts))


def manual(model: Model, tokens: int, seed: int) -> Text:
    """Text by humans that comes with Python: its reference manual, topics in random order."""
    from pydoc_data.topics import topics

    names = sorted(topics)
    parts: list[tuple[int, ...]] = []
    for place in np.random.default_rng([seed, 3]).permutation(len(names)):
        parts += _windows(model, topics[names[place]])
        if sum(map(len, parts)) >= tokens:
            break
    return Text("Python's reference manual", tuple(parts), (0,) * len(parts))


def _windows(model: Model, words: str) -> list[tuple[int, ...]]:
    ids = model.tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"]
    limit = min(CONTEXT, model.info.max_positions or CONTEXT)
    found = [tuple(ids[start : start + limit]) for start in range(0, len(ids), limit)]
    return [window for window in found if len(window) == limit]


def sums(operand_digits: int, tokens: int, seed: int, part: Part) -> Text:
    """Sums with their answers, for a model that adds; those held out are of its test part."""
    length = adder.length_of(operand_digits)
    rng = np.random.default_rng([seed, part == "held_out"])
    split: addition.Part = "test" if part == "held_out" else "train"
    a, b = addition.sample_part(rng, -(-tokens // length), split, operand_digits)
    parts = tuple(tuple(row) for row in adder.sequences(a, b, operand_digits).tolist())
    title = f"sums of {operand_digits} digits" + (" it never saw" if part == "held_out" else "")
    return Text(title, parts, (0,) * len(parts))


def human_text(model: Model, tokens: int, seed: int) -> list[Text]:
    """Python's manual; nothing for a model that only adds."""
    return [] if operand_digits(model) else [manual(model, tokens, seed)]


def own_text(model: Model, tokens: int, seed: int, part: Part) -> Text:
    """Text that the model writes; for a model that only adds, sums."""
    digits = operand_digits(model)
    if digits:
        return sums(digits, tokens, seed, part)
    return generated(model, tokens, seed, part)


def generated(model: Model, tokens: int, seed: int, part: Part) -> Text:
    """Texts that the model writes at temperature 1, with at least ``tokens`` tokens.

    A batch depends only on the seed, the part and its number. Openings of training and held-out
    texts share no topic; positions of the opening are not evaluated.

    Raises:
        PromptError: If the model's tokenizer has no token to start a text with.
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
        jobs.step(min(held, tokens), tokens, f"Generating {part.replace('_', '-')} text")
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
    """Each prompt with the model's continuation, up to and including its end-of-text token."""
    longest = max(map(len, prompts))
    end = end_tokens(model)
    new = min(CONTEXT, (model.info.max_positions or CONTEXT + longest) - longest)
    padded = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(padded)
    for row, prompt in enumerate(prompts):  # padded on the left, so that all end together
        padded[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    options = {
        "max_new_tokens": new, "do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(hash_seed(seed, batch, part))
        output = continued(model, padded.to(model.device), mask.to(model.device), options)
    written = output[:, longest:].cpu().tolist()
    return [(*prompt, *_ended(row, end)) for prompt, row in zip(prompts, written, strict=True)]


def hash_seed(seed: int, batch: int, part: Part) -> int:
    """One seed for torch, from several numbers."""
    return int(np.random.SeedSequence([seed, batch, part == "held_out"]).generate_state(1)[0])


def _ended(row: list[int], end: list[int]) -> list[int]:
    places = [place for place, token in enumerate(row) if token in end]
    return row[: places[0] + 1] if places else row
