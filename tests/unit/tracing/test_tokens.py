"""Tokens: text, piece and bytes for every kind of tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from analysis.errors import PromptError
from analysis.tracing.prompts import added, encode_prompt
from analysis.tracing.tokens import describe_token, describe_tokens, vocabulary
from tests.support import tiny

TEXTS = (
    "the capital of France", " two  spaces ", "line\nfeed\r\n\ttab", "naïve Ġ ▁ \u00ad\u00a0x",
    "שלום עולם", "مرحبا بالعالم", "日本語の文", "👩‍👩‍👧 🙂", "<b>&amp;</b><script>",
    "<0x0A>", "\x00\x7f",
)  # fmt: skip
UNKNOWN, BEGIN, END = "<unk>", "<s>", "</s>"
TEMPLATE = (
    "{{ bos_token }}<|role|>user: {% for m in messages %}{{ m['content'] }}{% endfor %}"
    "<|role|>answer:"
)


def byte_level() -> PreTrainedTokenizerFast:
    """The tiny byte-level tokenizer, with a role token and a plain added word."""
    made = tiny.tiny_tokenizer()
    made.add_special_tokens({"additional_special_tokens": ["<|role|>"]})
    made.add_tokens(["ééé"])
    return made


def sentencepiece() -> PreTrainedTokenizerFast:
    """A tokenizer like Llama's: ``▁`` for spaces, a prefix space, unknown characters as bytes."""
    pieces = [UNKNOWN, BEGIN, END, *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", *"abcdefghijklmnopqrstuvwxyz", "▁▁", "▁▁▁", "th", "the", "▁the"]
    merges = [("▁", "▁"), ("▁▁", "▁"), ("t", "h"), ("th", "e"), ("▁", "the")]
    inner = Tokenizer(
        BPE(
            vocab={piece: number for number, piece in enumerate(pieces)},
            merges=merges,
            unk_token=UNKNOWN,
            byte_fallback=True,
        )
    )
    inner.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    inner.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=BEGIN, eos_token=END, unk_token=UNKNOWN
    )


def data_of(tokenizer: Any, ids: Any) -> bytes:
    return b"".join(bytes.fromhex(token.data) for token in describe_tokens(tokenizer, ids))


@pytest.mark.parametrize("text", TEXTS)
def test_bytes_of_byte_level_pieces_equal_the_text(text: str) -> None:
    tokenizer = byte_level()
    ids = encode_prompt(tokenizer, text)
    assert data_of(tokenizer, ids) == text.encode()


@pytest.mark.parametrize("text", [text for text in TEXTS if "▁" not in text])
def test_bytes_of_sentencepiece_pieces_equal_the_text_with_a_prefix_space(text: str) -> None:
    tokenizer = sentencepiece()
    ids = encode_prompt(tokenizer, text)
    assert data_of(tokenizer, ids) == b" " + text.encode()


def test_characters_of_a_byte_level_piece_stand_for_bytes() -> None:
    """``é`` as a piece is the lone byte E9, not the letter, though it could be read as one."""
    tokenizer = byte_level()
    lone = tokenizer.convert_tokens_to_ids("é")
    token = describe_token(tokenizer, lone)
    assert (token.raw, token.data, token.text) == ("é", "e9", "\ufffd")
    space = describe_token(tokenizer, tokenizer.convert_tokens_to_ids("Ġ"))
    assert (space.text, space.raw, space.data) == (" ", "Ġ", "20")


def test_added_words_are_plain_text() -> None:
    tokenizer = byte_level()
    (token,) = describe_tokens(tokenizer, tokenizer("ééé")["input_ids"])
    assert (token.text, token.raw) == ("ééé", "ééé")
    assert bytes.fromhex(token.data) == "ééé".encode()
    assert not token.special


def test_special_tokens_are_marked() -> None:
    tokenizer = byte_level()
    role = describe_token(tokenizer, tokenizer.convert_tokens_to_ids("<|role|>"))
    assert role.special
    assert role.text == "<|role|>"
    tokenizer.add_tokens([AddedToken("<|tool|>", special=True)])
    assert describe_token(tokenizer, tokenizer.convert_tokens_to_ids("<|tool|>")).special


def test_an_emoji_is_split_and_each_part_shows_its_bytes() -> None:
    tokens = describe_tokens(byte_level(), encode_prompt(byte_level(), "🙂"))
    assert [token.data for token in tokens] == ["f0", "9f", "99", "82"]
    assert {token.text for token in tokens} == {"\ufffd"}
    told = describe_tokens(sentencepiece(), encode_prompt(sentencepiece(), "🙂"))
    assert [token.raw for token in told] == ["▁", "<0xF0>", "<0x9F>", "<0x99>", "<0x82>"]
    assert [token.data for token in told] == ["20", "f0", "9f", "99", "82"]


def test_spaces_and_newlines_of_sentencepiece_are_kept() -> None:
    tokenizer = sentencepiece()
    tokens = describe_tokens(tokenizer, encode_prompt(tokenizer, "the  \nthe the"))
    assert [(token.raw, token.text) for token in tokens] == [
        ("▁the", " the"), ("▁▁", "  "), ("<0x0A>", "\n"), ("the", "the"), ("▁the", " the"),
    ]  # fmt: skip
    assert tokens[2].data == "0a"


def test_text_that_looks_like_a_byte_token_or_markup_is_text() -> None:
    tokenizer = byte_level()
    tokenizer.add_tokens(["<0x0A>", "<b>"])
    written, bold = describe_tokens(tokenizer, tokenizer("<0x0A><b>")["input_ids"])
    assert (written.text, bytes.fromhex(written.data)) == ("<0x0A>", b"<0x0A>")
    assert (bold.text, bytes.fromhex(bold.data)) == ("<b>", b"<b>")


@pytest.mark.parametrize("make", [byte_level, sentencepiece])
def test_ids_beyond_the_tokenizer_are_named_unused(make: Any) -> None:
    beyond = len(make()) + 7
    token = describe_token(make(), beyond)
    assert token.text == f"<unused {beyond}>"
    assert token.special
    assert token.data == ""
    assert [item.id for item in vocabulary(make(), [beyond, 3, -1, 3])] == [3, beyond]


@pytest.mark.parametrize("text", ["hello the", " padded ", "user", "answer:", "日本", "🙂"])
def test_tokens_of_the_template_are_distinguished_from_the_text(text: str) -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = TEMPLATE
    ids = encode_prompt(tokenizer, text, template=True)
    places = added(tokenizer, text, template=True)
    kept = [token_id for place, token_id in enumerate(ids) if place not in places]
    assert tokenizer.decode(kept) == text
    around = [token_id for place, token_id in enumerate(ids) if place in places]
    assert tokenizer.decode(around) == f"{tiny.END}<|role|>user: <|role|>answer:"


def test_a_template_that_strips_the_text_is_handled() -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = TEMPLATE.replace("m['content']", "m['content'] | trim")
    ids = encode_prompt(tokenizer, "  user\n", template=True)
    places = added(tokenizer, "  user\n", template=True)
    kept = [token_id for place, token_id in enumerate(ids) if place not in places]
    assert tokenizer.decode(kept) == "user"


def test_without_a_template_only_the_tokenizers_own_tokens_are_added() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_level()
    assert added(tokenizer, "the", template=False) == ()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{tiny.END} $A {tiny.END}", special_tokens=[(tiny.END, 0)]
    )
    ids = encode_prompt(tokenizer, "the")
    assert added(tokenizer, "the", template=False) == (0, len(ids) - 1)


def test_a_missing_or_failing_template_gives_a_message() -> None:
    tokenizer = byte_level()
    with pytest.raises(PromptError, match="no chat template"):
        encode_prompt(tokenizer, "the", template=True)
    tokenizer.chat_template = "{{ raise_exception('no users here') }}"
    with pytest.raises(PromptError, match="no users here"):
        encode_prompt(tokenizer, "the", template=True)


@pytest.mark.real
def test_the_default_models_template_and_bytes(default_model_dir: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(default_model_dir)
    for text in TEXTS:
        ids = encode_prompt(tokenizer, text)
        assert data_of(tokenizer, ids) == text.encode()
        inside = encode_prompt(tokenizer, text, template=True)
        places = added(tokenizer, text, template=True)
        kept = [token_id for place, token_id in enumerate(inside) if place not in places]
        assert text.strip() in tokenizer.decode(kept)
        assert len(kept) <= len(ids) + 2
