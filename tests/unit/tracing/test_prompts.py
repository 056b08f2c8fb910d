"""Prompts in every usual form become the same ids, or one clear error."""

from __future__ import annotations

from collections import UserDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import BatchEncoding, PreTrainedTokenizerFast

from analysis.errors import PromptError
from analysis.tracing.prompts import added, check_ids, encode_prompt, read_ids, token_ids
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
