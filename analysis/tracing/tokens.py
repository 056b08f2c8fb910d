"""Token ids from prompts (text, chat templates, ids of any type), and descriptions of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any, overload

from analysis.contract.specs import Token
from analysis.errors import PromptError
from analysis.model.untrusted import SOURCE, limited, try_template, try_text

#: Replaces the user's text to find its place in a template's output; no template writes these.
_STAND_IN = "\u2402stratascope\u2403"
#: A text without special tokens, to find those that a tokenizer adds.
_PLAIN = "a"


def render(tokenizer: Any, text: str) -> str:
    """The chat template's output for a user's message, up to where the answer begins.

    Raises:
        PromptError: If the model has no template, or the template refuses the message.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise PromptError("This model has no chat template.", "Switch the template off.")
    from jinja2 import TemplateError

    message = [{"role": "user", "content": text}]
    try_template(tokenizer, message)
    try:
        with limited("The model's chat template"):
            return str(
                tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
            )
    except TemplateError as error:
        raise PromptError(
            f"The model's chat template refuses this prompt: {str(error)[:200]}",
            "Switch the template off.",
        ) from error


def encode_prompt(tokenizer: Any, text: str, *, template: bool = False) -> tuple[int, ...]:
    """Token ids of a text, with the special tokens that the tokenizer adds.

    A special token that the text already begins or ends with is not added again: the output of a
    chat template, given as text, starts with one start token.

    Args:
        tokenizer: The model's tokenizer.
        text: The prompt.
        template: Whether the model's own chat template wraps it as a user's message.

    Raises:
        PromptError: If the text is empty, not valid Unicode, gives no tokens, or the model has no
            template.
    """
    _check_text(text)
    if template:
        ids = _ids(tokenizer, render(tokenizer, text), special=False)
    else:
        before, inner, after = _with_special(tokenizer, text)
        ids = [*before, *inner, *after]
    if not ids:
        raise PromptError("The prompt gives no tokens.", "Type some more text.")
    return tuple(ids)


def added(tokenizer: Any, text: str, *, template: bool) -> tuple[int, ...]:
    """Positions of the prompt's tokens that contain nothing of the user's text.

    Those are the template's own tokens or, without a template, those that the tokenizer adds,
    such as a start token.

    Args:
        tokenizer: The model's tokenizer.
        text: The prompt.
        template: Whether the chat template wraps it.
    """
    if not template:
        before, inner, after = _with_special(tokenizer, text)
        size = len(before) + len(inner) + len(after)
        return (*range(len(before)), *range(size - len(after), size))
    rendered = render(tokenizer, text)
    span = _place(tokenizer, rendered, text)
    if span is None or not getattr(tokenizer, "is_fast", False):
        return ()
    try_text(tokenizer, rendered)
    encoded = tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True)
    offsets: list[tuple[int, int]] = encoded["offset_mapping"]
    return tuple(
        place
        for place, (first, last) in enumerate(offsets)
        if last <= span[0] or first >= span[1] or first == last
    )


def read_ids(tokenizer: Any, prompt: Any) -> tuple[int, ...]:
    """Token ids of a prompt in any usual form.

    Args:
        tokenizer: The model's tokenizer.
        prompt: Text; whole numbers in a list, array or tensor of one dimension, or of two with
            one row; or a tokenizer's output, whose attention mask removes padding.

    Raises:
        PromptError: If it is none of these, or has padding without an attention mask.
    """
    if isinstance(prompt, str):
        return encode_prompt(tokenizer, prompt)
    mask = None
    if isinstance(prompt, Mapping):
        if "input_ids" not in prompt:
            raise PromptError("The prompt has no input_ids.", "Give the tokenizer's output.")
        prompt, mask = prompt["input_ids"], prompt.get("attention_mask")
    ids = _row("ids", prompt)
    if mask is None:
        return _without_padding(tokenizer, ids)
    shown = _row("numbers of the attention mask", mask)
    if len(shown) != len(ids):
        raise PromptError(
            f"The attention mask has {len(shown)} numbers for {len(ids)} ids.",
            "Give the tokenizer's own output.",
        )
    return tuple(token for token, kept in zip(ids, shown, strict=True) if kept)


def check_ids(ids: Sequence[Any], vocab: int, max_positions: int = 0) -> tuple[int, ...]:
    """Check token ids against the vocabulary, and their number against the model's positions.

    Raises:
        PromptError: Naming the id, or the count and the limit.
    """
    if not len(ids):
        raise PromptError("The prompt is empty.", "Give at least one token.")
    checked = tuple(_whole("Token id", token) for token in ids)
    for token in checked:
        if not 0 <= token < vocab:
            raise PromptError(
                f"Token id {token} is not in the vocabulary.", f"Ids run from 0 to {vocab - 1}."
            )
    check_length(len(checked), max_positions)
    return checked


def check_length(length: int, max_positions: int) -> None:
    """Check the length of a sequence against the model's positions; 0 positions mean no limit.

    Raises:
        PromptError: With the length and the limit.
    """
    if max_positions and length > max_positions:
        raise PromptError(
            f"The sequence has {length} tokens; the model has {max_positions} positions.",
            "Shorten the prompt or generate fewer tokens.",
        )


def token_ids(tokenizer: Any, tokens: Any) -> tuple[int, ...]:
    """Ids of tokens given as ids or as text, one or several; None gives none.

    Raises:
        PromptError: If a text is not exactly one token, or an id is not a whole number.
    """
    if tokens is None:
        return ()
    several = [tokens] if isinstance(tokens, (str, Integral)) else _items("tokens", tokens)
    return tuple(_token_id(tokenizer, token) for token in several)


@overload
def token_id(tokenizer: Any, token: None) -> None: ...


@overload
def token_id(tokenizer: Any, token: int | str) -> int: ...


def token_id(tokenizer: Any, token: Any) -> int | None:
    """The id of one token given as id or text; None gives None.

    Raises:
        PromptError: If a text is not exactly one token, or an id is not a whole number.
    """
    return None if token is None else _token_id(tokenizer, token)


def _token_id(tokenizer: Any, token: Any) -> int:
    if not isinstance(token, str):
        return _whole("Token id", token)
    _check_text(token)
    ids = _ids(tokenizer, token, special=False)
    if len(ids) != 1:
        pieces = ", ".join(repr(tokenizer.decode([number])) for number in ids[:6])
        raise PromptError(
            f"{token[:40]!r} is {len(ids)} tokens: {pieces}.",
            "Give one token; a leading space often belongs to it.",
        )
    return ids[0]


def _check_text(text: Any) -> None:
    if not isinstance(text, str):
        raise PromptError(f"A prompt can't be {type(text).__name__}.", "Give text or token ids.")
    if not text:
        raise PromptError("The prompt is empty.", "Type some text, or click an example.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"Character {error.start} of the text is half of a surrogate pair, so the text is"
            " not valid Unicode.",
            "Remove it, or decode the text again.",
        ) from error


def _ids(tokenizer: Any, text: str, *, special: bool) -> list[int]:
    if hasattr(tokenizer, SOURCE):
        try_text(tokenizer, text)
    return [int(token) for token in tokenizer(text, add_special_tokens=special)["input_ids"]]


def _with_special(tokenizer: Any, text: str) -> tuple[list[int], list[int], list[int]]:
    """Ids added in front, of the text, and added at the end; an id in the text is not added."""
    whole = _ids(tokenizer, text, special=True)
    inner = _ids(tokenizer, text, special=False)
    before, after = _split(
        _ids(tokenizer, _PLAIN, special=True), _ids(tokenizer, _PLAIN, special=False)
    )
    if [*before, *inner, *after] != whole:
        before, after = _split(whole, inner)
    if [*before, *inner, *after] != whole:
        return [], whole, []
    return (
        [] if inner[: len(before)] == before else before,
        inner,
        [] if after and inner[-len(after) :] == after else after,
    )


def _split(whole: list[int], inner: list[int]) -> tuple[list[int], list[int]]:
    """What comes before and after ``inner`` in ``whole``; nothing if it is not there."""
    for start in range(len(whole) - len(inner) + 1):
        if whole[start : start + len(inner)] == inner:
            return whole[:start], whole[start + len(inner) :]
    return [], []


def _place(tokenizer: Any, rendered: str, text: str) -> tuple[int, int] | None:
    """Where the text is in the template's output; templates may strip its spaces."""
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


def _row(what: str, values: Any) -> tuple[int, ...]:
    """Whole numbers of one dimension, or of two with one row."""
    items = _items(what, values)
    nested = [isinstance(item, (list, tuple)) for item in items]
    if nested and all(nested):
        if len(items) > 1:
            raise PromptError(f"There are {len(items)} rows of {what}.", "Give one prompt.")
        items = list(items[0])
    return tuple(_whole("Token id" if what == "ids" else "Attention mask", item) for item in items)


def _items(what: str, values: Any) -> list[Any]:
    if isinstance(values, (str, bytes)):
        raise PromptError(f"The {what} are {type(values).__name__}.", "Give whole numbers.")
    if hasattr(values, "tolist"):
        values = values.tolist()
    if not isinstance(values, Iterable):
        raise PromptError(
            f"A prompt can't be {type(values).__name__}.", "Give text, or a list of token ids."
        )
    return [item.tolist() if hasattr(item, "tolist") else item for item in values]


def _whole(what: str, value: Any) -> int:
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise PromptError(
            f"{what} {str(value)[:40]} is not a whole number.", "Give ids as integers."
        )
    return int(value)


def _without_padding(tokenizer: Any, ids: tuple[int, ...]) -> tuple[int, ...]:
    """The ids; refused if they begin or end with a token that only pads."""
    pad = getattr(tokenizer, "pad_token_id", None)
    others = ("bos_token_id", "eos_token_id", "unk_token_id")
    only_pads = pad is not None and pad not in {getattr(tokenizer, name, None) for name in others}
    if only_pads and ids and pad in (ids[0], ids[-1]):
        raise PromptError(
            f"The ids begin or end with the padding token {pad}.",
            "Remove the padding, or give the tokenizer's output with its attention mask.",
        )
    return ids


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
