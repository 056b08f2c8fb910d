"""A prompt inside the model's own chat template, and which tokens are not of the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from analysis.errors import PromptError

#: Stands for the user's text to find where a template puts it; no template writes these.
_STAND_IN = "\u2402stratascope\u2403"


def render(tokenizer: Any, text: str) -> str:
    """The template's text around a user's message, up to where the answer begins.

    Raises:
        PromptError: If the model has no template, or the template refuses the message.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise PromptError("This model has no chat template.", "Switch the template off.")
    from jinja2 import TemplateError

    message = [{"role": "user", "content": text}]
    try:
        return str(
            tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
        )
    except TemplateError as error:
        raise PromptError(
            f"The model's chat template refuses this prompt: {str(error)[:200]}",
            "Switch the template off.",
        ) from error


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text inside the template, which writes its own special tokens."""
    ids: list[int] = tokenizer(render(tokenizer, text), add_special_tokens=False)["input_ids"]
    return ids


def added(tokenizer: Any, text: str, *, template: bool) -> tuple[int, ...]:
    """Positions of the prompt's tokens that hold nothing of the user's text.

    With a template those that it writes; without one those that the tokenizer adds, such as
    a begin-of-text token.

    Args:
        tokenizer: The model's tokenizer.
        text: The prompt.
        template: Whether the chat template wraps it.
    """
    if not template:
        inner = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        return _outside(list(tokenizer(text)["input_ids"]), inner)
    rendered = render(tokenizer, text)
    span = _place(tokenizer, rendered, text)
    if span is None or not getattr(tokenizer, "is_fast", False):
        return ()
    encoded = tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True)
    offsets: list[tuple[int, int]] = encoded["offset_mapping"]
    return tuple(
        place
        for place, (first, last) in enumerate(offsets)
        if last <= span[0] or first >= span[1] or first == last
    )


def _place(tokenizer: Any, rendered: str, text: str) -> tuple[int, int] | None:
    """Where the text lies in what the template made of it; templates may strip it."""
    start = render(tokenizer, _STAND_IN).find(_STAND_IN)
    versions = (text, text.strip())
    places = [
        start if start >= 0 and rendered.startswith(shown, start) else -1 for shown in versions
    ]
    places += [rendered.rfind(shown) for shown in versions]
    for at, shown in zip(places, versions * 2, strict=True):
        if at >= 0:
            return at, at + len(shown)
    return None


def _outside(whole: Sequence[int], inner: Sequence[int]) -> tuple[int, ...]:
    for start in range(len(whole) - len(inner) + 1):
        if list(whole[start : start + len(inner)]) == list(inner):
            kept = range(start, start + len(inner))
            return tuple(place for place in range(len(whole)) if place not in kept)
    return ()
