"""Tokens as they are: text, the tokenizer's own piece, bytes; and prompts into ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from analysis.errors import PromptError
from analysis.results import Token


def describe_token(tokenizer: Any, token_id: int) -> Token:
    """What one id of the vocabulary looks like to a person.

    Ids beyond the tokenizer (padded vocabularies have them) say so.
    """
    raw = tokenizer.convert_ids_to_tokens(int(token_id))
    if raw is None:
        return Token(int(token_id), f"<unused {token_id}>", "", special=True)
    text = tokenizer.decode(
        [int(token_id)], skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    special = int(token_id) in set(tokenizer.all_special_ids)
    return Token(int(token_id), _spaced(text, raw), raw, piece_bytes(raw, text).hex(), special)


def _spaced(text: str, raw: str) -> str:
    # SentencePiece strips the space of a lone piece; the piece itself shows it.
    return " " + text if raw.startswith("▁") and not text.startswith(" ") else text


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes (Radford et al. 2019, encoder.py)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    table = {chr(byte): byte for byte in plain}
    table.update({chr(256 + place): byte for place, byte in enumerate(others)})
    return table


_ALPHABET = _byte_alphabet()


def piece_bytes(raw: str, text: str) -> bytes:
    """The bytes a piece stands for: byte-level BPE, ``<0x0A>``, or its text in UTF-8."""
    if len(raw) == 6 and raw.startswith("<0x") and raw.endswith(">"):
        return bytes.fromhex(raw[3:5])
    if "\ufffd" in text and all(character in _ALPHABET for character in raw):
        return bytes(_ALPHABET[character] for character in raw)
    return _spaced(text, raw).encode()


def describe_tokens(tokenizer: Any, ids: Iterable[int]) -> tuple[Token, ...]:
    """Describe every id in order."""
    known: dict[int, Token] = {}
    result = []
    for token_id in ids:
        if token_id not in known:
            known[token_id] = describe_token(tokenizer, token_id)
        result.append(known[token_id])
    return tuple(result)


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
    ids = _templated(tokenizer, text) if template else tokenizer(text)["input_ids"]
    if not ids:
        raise PromptError("The prompt gives no tokens.", "Type some more text.")
    return tuple(int(i) for i in ids)


def _templated(tokenizer: Any, text: str) -> list[int]:
    if not getattr(tokenizer, "chat_template", None):
        raise PromptError("This model has no chat template.", "Switch the template off.")
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False
    )
    ids: list[int] = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    return ids


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
