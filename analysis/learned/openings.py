"""How a generated text begins: broad, and held-out texts about other things than training ones."""

from __future__ import annotations

from typing import Literal

import numpy as np

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
    """The ``number``-th opening: what kind it is, and its words.

    Args:
        number: Kinds take turns: nothing at all, bare words, and (with ``chat``) two requests.
        rng: Draws form and topic.
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
