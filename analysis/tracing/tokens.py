"""Tokens as they are: text, pieces, bytes; prompts and chat templates into ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from analysis.contract.results import Token
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


def describe_token(tokenizer: Any, token_id: int) -> Token:
    """What one id of the vocabulary looks like to a person.

    Ids beyond the tokenizer (padded vocabularies have them) say so.
    """
    return describe_tokens(tokenizer, (token_id,))[0]


def describe_tokens(tokenizer: Any, ids: Iterable[int]) -> tuple[Token, ...]:
    """Describe every id in order."""
    pieces = _Pieces(tokenizer)
    known: dict[int, Token] = {}
    result = []
    for token_id in ids:
        if token_id not in known:
            known[token_id] = pieces.token(int(token_id))
        result.append(known[token_id])
    return tuple(result)


class _Pieces:
    """How one tokenizer writes its pieces, found by asking it."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._added: dict[int, Any] = dict(getattr(tokenizer, "added_tokens_decoder", {}) or {})
        self._special = set(tokenizer.all_special_ids)
        self._byte_level = tokenizer.convert_tokens_to_string(["Ġ"]) == " "

    def token(self, token_id: int) -> Token:
        """Text, piece and bytes of one id."""
        raw = self._raw(token_id)
        if raw is None:
            return Token(token_id, f"<unused {token_id}>", "", special=True)
        added = self._added.get(token_id)
        if added is not None:  # written as it is, in no alphabet, whatever decoding makes of it
            special = token_id in self._special or bool(added.special)
            return Token(token_id, raw, raw, raw.encode().hex(), special)
        text = self._tokenizer.decode(
            [token_id], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        if not self._byte_level:
            text = _spaced(text, raw)
        data = piece_bytes(raw, text, byte_level=self._byte_level)
        return Token(token_id, text, raw, data.hex(), token_id in self._special)

    def _raw(self, token_id: int) -> str | None:
        try:
            raw: str | None = self._tokenizer.convert_ids_to_tokens(token_id)
        except (IndexError, KeyError, OverflowError):  # tokenizers without a fast one
            return None
        return raw


def _spaced(text: str, raw: str) -> str:
    """The text of a SentencePiece piece: decoding a lone piece strips a space that it holds."""
    return raw.replace("▁", " ") if "▁" in raw else text


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes (Radford et al. 2019, encoder.py)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    table = {chr(byte): byte for byte in plain}
    table.update({chr(256 + place): byte for place, byte in enumerate(others)})
    return table


_ALPHABET = _byte_alphabet()


def piece_bytes(raw: str, text: str, *, byte_level: bool) -> bytes:
    """The bytes a piece stands for: of byte-level BPE, ``<0x0A>``, or its text in UTF-8.

    Args:
        raw: The tokenizer's own piece.
        text: What it decodes to on its own.
        byte_level: Whether pieces are written in GPT-2's stand-ins for bytes.
    """
    if byte_level and all(character in _ALPHABET for character in raw):
        return bytes(_ALPHABET[character] for character in raw)
    if text != raw and len(raw) == 6 and raw.startswith("<0x") and raw.endswith(">"):
        return bytes.fromhex(raw[3:5])
    return text.encode()


def vocabulary(tokenizer: Any, ids: Iterable[int]) -> tuple[Token, ...]:
    """Describe each distinct id once, ascending; negative padding is left out."""
    return describe_tokens(tokenizer, sorted({int(i) for i in ids if int(i) >= 0}))


def encode_prompt(tokenizer: Any, text: str, *, template: bool = False) -> tuple[int, ...]:
    """Token ids of a text, with the special tokens that the tokenizer adds.

    Args:
        tokenizer: The model's tokenizer.
        text: The prompt.
        template: Whether the model's own chat template wraps it as a user's message.

    Raises:
        PromptError: If the text is empty, gives no tokens, or the model has no template.
    """
    if not text:
        raise PromptError("The prompt is empty.", "Type some text, or click an example.")
    ids = encode(tokenizer, text) if template else tokenizer(text)["input_ids"]
    if not ids:
        raise PromptError("The prompt gives no tokens.", "Type some more text.")
    return tuple(int(i) for i in ids)


def check_ids(ids: Sequence[int], vocab: int, max_positions: int = 0) -> tuple[int, ...]:
    """Refuse ids that the model lacks, and more of them than it has positions.

    Raises:
        PromptError: Naming the id, or the count and the limit.
    """
    if not ids:
        raise PromptError("The prompt is empty.", "Give at least one token.")
    for token_id in ids:
        if not 0 <= int(token_id) < vocab:
            raise PromptError(
                f"Token id {token_id} is not in the vocabulary.", f"Ids run from 0 to {vocab - 1}."
            )
    if max_positions and len(ids) > max_positions:
        raise PromptError(
            f"The sequence has {len(ids)} tokens; the model has {max_positions} positions.",
            "Shorten the prompt or generate fewer tokens.",
        )
    return tuple(int(i) for i in ids)
