"""Alignment of two prompts against a recursive definition, and on tokens of real text."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest

import analysis
from analysis.errors import SpecError
from analysis.experiments.alignment import adjusted, align_texts, partners
from tests.support import built, tiny
from tests.support.tiny import tiny_tokenizer


def longest(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Length of a longest common subsequence, by its definition."""

    @cache
    def of(i: int, j: int) -> int:
        if i == len(a) or j == len(b):
            return 0
        if a[i] == b[j]:
            return 1 + of(i + 1, j + 1)
        return max(of(i + 1, j), of(i, j + 1))

    return of(0, 0)


def pairs_of(a: str, b: str) -> tuple[tuple[str, str], ...]:
    """Aligned pieces of two texts, with a check of what every alignment must be."""
    tokenizer = tiny_tokenizer()
    first, second = (tuple(tokenizer(text)["input_ids"]) for text in (a, b))
    pairs = analysis.align(first, second)
    for side in zip(*pairs, strict=True):
        assert list(side) == sorted(set(side))
    assert all(first[i] == second[j] for i, j in pairs)
    assert len(pairs) == longest(first, second)
    return tuple((tokenizer.decode([first[i]]), tokenizer.decode([second[j]])) for i, j in pairs)


def test_a_changed_word_has_no_partner() -> None:
    found = pairs_of(" the capital of France is", " the capital of Paris is")
    assert found == tuple((word, word) for word in (" the", " capital", " of", " is"))


def test_an_inserted_word_has_no_partner() -> None:
    texts = " one two is", " one of two is"
    a, b = (tuple(tiny_tokenizer()(text)["input_ids"]) for text in texts)
    assert analysis.align(a, b) == ((0, 0), (1, 2), (2, 3))
    assert partners(analysis.align(b, a), len(b)) == (0, -1, 1, 2)


def test_a_longer_prompt_keeps_the_whole_shorter_one() -> None:
    assert analysis.align((1, 2, 3), (1, 2, 3, 4, 5)) == ((0, 0), (1, 1), (2, 2))
    assert analysis.align((3, 4), (1, 2, 3, 4)) == ((0, 2), (1, 3))
    assert analysis.align((), (1, 2)) == ()
    assert analysis.align((7,), (8,)) == ()


def test_emoji_are_aligned_byte_by_byte() -> None:
    found = pairs_of("one 🙂 two", "one 🙃 two")
    assert ("o", "o") in found
    assert len(found) == len(tiny_tokenizer()("one 🙂 two")["input_ids"]) - 1


@pytest.mark.parametrize("seed", range(30))
def test_an_alignment_is_as_long_as_the_definition_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (tuple(rng.integers(0, 4, rng.integers(0, 13)).tolist()) for _ in range(2))
    pairs = analysis.align(a, b)
    assert len(pairs) == longest(a, b)
    assert all(a[i] == b[j] for i, j in pairs)
    assert all(i < k and j < m for (i, j), (k, m) in pairwise(pairs))


def test_a_prompt_that_is_too_long_is_refused() -> None:
    with pytest.raises(SpecError, match="too long to align"):
        analysis.align(range(5000), range(10))


def test_two_tokenizers_are_paired_where_their_tokens_end() -> None:
    a = ("The", " capital", " of", " France")
    b = ("T", "he", " cap", "ital", " o", "f Fr", "ance")
    assert align_texts(a, b) == ((0, 1), (1, 3), (3, 6))
    for i, j in align_texts(a, b):
        assert "".join(a[: i + 1]) == "".join(b[: j + 1])
    other = ("The", " capital", " of", " Italy")
    assert align_texts(a, other) == ((0, 0), (1, 1), (2, 2))  # other texts: equal tokens


def test_an_alignment_is_changed_by_hand() -> None:
    pairs = ((0, 0), (1, 1), (2, 3))
    assert adjusted(pairs, (), (3, 4)) == pairs
    assert adjusted(pairs, ("1-2",), (3, 4)) == ((0, 0), (1, 2), (2, 3))
    assert adjusted(pairs, ("1-3",), (3, 4)) == ((0, 0), (1, 3))  # 2 loses its partner
    assert adjusted(pairs, ("2-", "0-1"), (3, 4)) == ((0, 1),)
    for wrong, words in (("1", "can't be read"), ("x-1", "can't be read"), ("3-1", "3 and 4")):
        with pytest.raises(SpecError, match=words):
            adjusted(pairs, (wrong,), (3, 4))


def test_a_changed_alignment_is_patched_and_compared() -> None:
    model = built.understood(tiny.tiny_gpt2(), "gpt2")
    clean, corrupted = (5, 6, 7, 8), (5, 9, 7, 8)
    chosen = analysis.sweep(model, clean, corrupted, answer=1, foil=2, pairs=("0-", "1-2", "2-1"))
    assert chosen.partners.tolist() == [-1, 2, 1, 3]
    assert np.isnan(chosen.raw[:, 0]).all()
    found = analysis.compare(model, clean, corrupted, alignment="position", pairs=("1-",))
    assert found.pairs.tolist() == [[0, 0], [2, 2], [3, 3]]
