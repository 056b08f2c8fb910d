"""Token ids from prompts, and the descriptions of tokens."""

from __future__ import annotations

from collections import UserDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from transformers import BatchEncoding, PreTrainedTokenizerFast

from analysis.errors import PromptError
from analysis.tracing.tokens import (
    added,
    check_ids,
    describe_token,
    describe_tokens,
    encode_prompt,
    read_ids,
    token_ids,
    vocabulary,
)
from tests.support import tiny

IDS = (5, 9, 33)


def with_start(*, end: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer that adds a start token, and an end token on request."""
    tokenizer = tiny.tiny_tokenizer()
    single = f"{tiny.END} $A {tiny.END}" if end else f"{tiny.END} $A"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=single, special_tokens=[(tiny.END, 0)]
    )
    return tokenizer


def padding() -> PreTrainedTokenizerFast:
    """A tokenizer with a padding token of its own."""
    tokenizer = tiny.tiny_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    return tokenizer


FORMS: dict[str, Any] = {
    "list": list(IDS),
    "tuple": IDS,
    "one row": [list(IDS)],
    "numpy": np.array(IDS),
    "numpy row": np.array([IDS], np.int32),
    "numpy items": [np.int64(number) for number in IDS],
    "tensor": torch.tensor(IDS),
    "tensor row": torch.tensor([IDS]),
    "tensor items": [torch.tensor(number) for number in IDS],
    "range of three": range(5, 8),
    "encoding": BatchEncoding({"input_ids": [*IDS, 1, 1], "attention_mask": [1, 1, 1, 0, 0]}),
    "padded left": {
        "input_ids": torch.tensor([[1, 1, *IDS]]),
        "attention_mask": torch.tensor([[0, 0, 1, 1, 1]]),
    },
    "mapping without a mask": UserDict({"input_ids": [list(IDS)]}),
}


@pytest.mark.parametrize("name", FORMS)
def test_usual_forms_are_read(name: str) -> None:
    wanted = (5, 6, 7) if name.startswith("range") else IDS
    assert read_ids(tiny.tiny_tokenizer(), FORMS[name]) == wanted


WRONG: dict[str, tuple[Any, str]] = {
    "fractions": ([1.5, 2.7], "Token id 1.5 is not a whole number"),
    "floats": ([1.0], "Token id 1.0 is not a whole number"),
    "float array": (np.array([1.0, 2.0]), "not a whole number"),
    "bfloat16": (torch.tensor([1.0, 2.0], dtype=torch.bfloat16), "not a whole number"),
    "flags": ([True, False], "not a whole number"),
    "words": (["a", "b"], "not a whole number"),
    "nothing": ([], "empty"),
    "empty text": ("", "empty"),
    "no prompt": (None, "can't be NoneType"),
    "one number": (7, "can't be int"),
    "path": (Path("prompt.txt"), "PosixPath"),
    "bytes": (b"abc", "bytes"),
    "two rows": ([[1, 2], [3, 4]], "2 rows of ids"),
    "three dimensions": (torch.zeros(1, 1, 3, dtype=torch.long), "not a whole number"),
    "no ids": ({"attention_mask": [1]}, "no input_ids"),
    "short mask": ({"input_ids": [1, 2], "attention_mask": [1]}, "1 numbers for 2 ids"),
    "all padding": ({"input_ids": [1, 2], "attention_mask": [0, 0]}, "empty"),
    "lone surrogate": ("a\ud800b", "Character 1 of the text is half of a surrogate pair"),
    "beyond the vocabulary": ([10**6], "not in the vocabulary"),
    "negative": ([-1], "not in the vocabulary"),
}


@pytest.mark.parametrize("name", WRONG)
def test_anything_else_is_one_clear_error(name: str) -> None:
    prompt, words = WRONG[name]
    with pytest.raises(PromptError, match=words):
        check_ids(read_ids(tiny.tiny_tokenizer(), prompt), 286)


@pytest.mark.parametrize("ids", [[286, 5, 9], [5, 9, 286, 286]])
def test_padding_without_a_mask_is_not_read_as_text(ids: list[int]) -> None:
    tokenizer = padding()
    with pytest.raises(PromptError, match="begin or end with the padding token 286"):
        read_ids(tokenizer, ids)
    assert read_ids(tokenizer, {"input_ids": ids, "attention_mask": [1] * len(ids)}) == tuple(ids)
    encoded = tokenizer(["the capital", "the capital of France"], padding=True)
    row = {name: values[0] for name, values in encoded.items()}
    assert read_ids(tokenizer, row) == encode_prompt(tokenizer, "the capital")


def test_a_padding_token_with_another_use_is_a_real_token() -> None:
    tokenizer = tiny.tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    assert read_ids(tokenizer, [0, 5, 0]) == (0, 5, 0)


@pytest.mark.parametrize("end", [False, True])
def test_a_template_applied_as_text_has_one_start_token(end: bool) -> None:
    tokenizer = with_start(end=end)
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    message = [{"role": "user", "content": "the capital"}]
    rendered = tokenizer.apply_chat_template(message, tokenize=False)
    plain = encode_prompt(tokenizer, "the capital")
    assert plain.count(0) == 1 + end
    assert encode_prompt(tokenizer, rendered) == plain
    assert encode_prompt(tokenizer, "the capital", template=True) == plain[: len(plain) - end]
    assert added(tokenizer, "the capital", template=False)[:1] == (0,)
    assert added(tokenizer, rendered, template=False) == ((len(plain) - 1,) if end else ())
    closed = f"{rendered}{tiny.END}"
    assert encode_prompt(tokenizer, closed).count(0) == 2
    assert encode_prompt(tokenizer, tiny.END) == (0,)
    assert encode_prompt(tokenizer, tiny.END * 2 + "the").count(0) == 2 + end


def test_tokens_may_be_given_as_text() -> None:
    tokenizer = with_start()
    (paris,) = token_ids(tokenizer, " Paris")
    assert tokenizer.decode([paris]) == " Paris"
    assert token_ids(tokenizer, [" Paris", np.int32(3), torch.tensor(4)]) == (paris, 3, 4)
    assert token_ids(tokenizer, torch.tensor([1, 2])) == (1, 2)
    assert token_ids(tokenizer, None) == ()
    for wrong, words in (
        (" Paris is", r"is 2 tokens: ' Paris', ' is'"),
        ("", "empty"),
        ("\udfff", "surrogate"),
        (1.5, "can't be float"),
        ([1.5], "not a whole number"),
        (b"a", "bytes"),
    ):
        with pytest.raises(PromptError, match=words):
            token_ids(tokenizer, wrong)


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
