"""Descriptions of tokens: text, piece and bytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from analysis.contract.results import Token


def describe_token(tokenizer: Any, token_id: int) -> Token:
    """Describe one id of the vocabulary.

    Ids beyond the tokenizer, which padded vocabularies have, are described as unused.
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
    """The pieces of one tokenizer, in whichever alphabet it writes them."""

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
        if added is not None:  # added tokens use no alphabet
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
    """The text of a SentencePiece piece; decoding a single piece would strip its space."""
    return raw.replace("▁", " ") if "▁" in raw else text


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable characters for bytes (Radford et al. 2019, encoder.py)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    table = {chr(byte): byte for byte in plain}
    table.update({chr(256 + place): byte for place, byte in enumerate(others)})
    return table


_ALPHABET = _byte_alphabet()


def piece_bytes(raw: str, text: str, *, byte_level: bool) -> bytes:
    """The bytes of a piece: of byte-level BPE, of ``<0x0A>``, or of its text in UTF-8.

    Args:
        raw: The tokenizer's own piece.
        text: Its decoded text.
        byte_level: Whether the tokenizer writes bytes in GPT-2's alphabet.
    """
    if byte_level and all(character in _ALPHABET for character in raw):
        return bytes(_ALPHABET[character] for character in raw)
    if text != raw and len(raw) == 6 and raw.startswith("<0x") and raw.endswith(">"):
        return bytes.fromhex(raw[3:5])
    return text.encode()


def vocabulary(tokenizer: Any, ids: Iterable[int]) -> tuple[Token, ...]:
    """Describe each distinct id once, ascending; negative padding is skipped."""
    return describe_tokens(tokenizer, sorted({int(i) for i in ids if int(i) >= 0}))
