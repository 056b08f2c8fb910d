"""Which positions of two prompts belong together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from analysis.errors import SpecError

#: A prompt of this many tokens is aligned in about a second.
MAX_TOKENS = 4096


def align(a_ids: Sequence[int], b_ids: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Pairs of positions with equal tokens: a longest common subsequence.

    Common tokens at the start and at the end are always paired. Between them, of several longest
    subsequences, the one whose pairs come first in ``a_ids`` is taken.

    Args:
        a_ids: Token ids of one prompt.
        b_ids: Token ids of the other prompt, from the same tokenizer.

    Returns:
        (position in a, position in b) of each pair, ascending in both.

    Raises:
        SpecError: If a prompt is too long.
    """
    a, b = [int(token) for token in a_ids], [int(token) for token in b_ids]
    if max(len(a), len(b)) > MAX_TOKENS:
        raise SpecError(
            f"A prompt of {max(len(a), len(b))} tokens is too long to align.",
            f"Use at most {MAX_TOKENS} tokens.",
        )
    start = _common(a, b)
    end = _common(a[start:][::-1], b[start:][::-1])
    inner = _longest(a[start : len(a) - end], b[start : len(b) - end])
    return (
        *((place, place) for place in range(start)),
        *((start + i, start + j) for i, j in inner),
        *((len(a) - back, len(b) - back) for back in range(end, 0, -1)),
    )


def align_texts(a: Sequence[str], b: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Pairs of positions of two prompts whose tokens come from different tokenizers.

    After the same text, two positions have read the same if their tokens end at the same character.
    So equal texts are paired by where tokens end; of different texts, equal tokens are paired, as
    ``align`` does.

    Args:
        a: The texts of one prompt's tokens.
        b: The texts of the other prompt's tokens.

    Returns:
        (position in a, position in b) of each pair, ascending in both.

    Raises:
        SpecError: If a prompt is too long.
    """
    if "".join(a) != "".join(b):
        numbers = {text: number for number, text in enumerate(dict.fromkeys((*a, *b)))}
        return align([numbers[text] for text in a], [numbers[text] for text in b])
    ends = dict(zip(accumulate(map(len, b)), range(len(b)), strict=True))
    found = enumerate(accumulate(map(len, a)))
    return tuple((place, ends[end]) for place, end in found if end in ends)


def adjusted(
    pairs: Sequence[tuple[int, int]], changes: Sequence[str], sizes: tuple[int, int]
) -> tuple[tuple[int, int], ...]:
    """An alignment with changes by hand.

    Args:
        pairs: (position in a, position in b) of each pair.
        changes: "3-5" makes position 3 of a and position 5 of b partners, whatever partners they
            had; "3-" leaves position 3 of a without a partner. Later changes win.
        sizes: The number of tokens of a and of b.

    Returns:
        The new pairs, ascending in a.

    Raises:
        SpecError: If a change can't be read, or a prompt has no such position.
    """
    found = dict(pairs)
    for change in changes:
        first, line, second = change.partition("-")
        if not (line and first.isdecimal() and (second.isdecimal() or not second)):
            raise SpecError(f"The pair {change!r} can't be read.", "Write it like 3-5, or 3-.")
        i, j = int(first), int(second) if second else None
        if i >= sizes[0] or (j is not None and j >= sizes[1]):
            raise SpecError(
                f"The pair {change} names a position that a prompt lacks: they have"
                f" {sizes[0]} and {sizes[1]} tokens.",
                "Choose smaller positions; the first token has position 0.",
            )
        found = {own: other for own, other in found.items() if own != i and other != j}
        if j is not None:
            found[i] = j
    return tuple(sorted(found.items()))


def aligned(
    alignment: str, changes: Sequence[str], a: Sequence[int], b: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """The pairs of a spec: (position in a, position in b), ascending in a.

    Args:
        alignment: One of ``specs.ALIGNMENTS``.
        changes: See ``adjusted``.
        a: Token ids of one prompt.
        b: Token ids of the other prompt.

    Raises:
        SpecError: If the prompts can't be aligned, or a change is not possible.
    """
    pairs = align(a, b) if alignment == "token" else by_position(a, b)
    return adjusted(pairs, changes, (len(a), len(b)))


def by_position(a_ids: Sequence[int], b_ids: Sequence[int]) -> list[tuple[int, int]]:
    """Each position with the same position.

    Raises:
        SpecError: If the prompts have different lengths.
    """
    if len(a_ids) != len(b_ids):
        raise SpecError(
            f"The prompts have {len(a_ids)} and {len(b_ids)} tokens, so their positions do not"
            " correspond.",
            "Write prompts of equal length, or align them by token.",
        )
    return [(place, place) for place in range(len(a_ids))]


def partners(pairs: Sequence[tuple[int, int]], length: int) -> tuple[int, ...]:
    """For each of ``length`` positions of the first prompt, its partner in the second, or -1."""
    found = dict(pairs)
    return tuple(found.get(place, -1) for place in range(length))


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common prefix."""
    return next(
        (n for n, (one, other) in enumerate(zip(a, b, strict=False)) if one != other),
        min(len(a), len(b)),
    )


def _longest(a: Sequence[int], b: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs of a longest common subsequence."""
    if not a or not b:
        return []
    others = np.array(b, np.int64)
    lengths = np.zeros((len(a) + 1, len(b) + 1), np.int32)  # of a[i:] and b[j:]
    for i in range(len(a) - 1, -1, -1):
        matched = np.where(others == a[i], lengths[i + 1, 1:] + 1, lengths[i + 1, :-1])
        lengths[i, :-1] = np.maximum.accumulate(matched[::-1])[::-1]
    pairs, i, j = [], 0, 0
    while i < len(a) and j < len(b):
        if a[i] == b[j] and lengths[i, j] == lengths[i + 1, j + 1] + 1:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif lengths[i + 1, j] >= lengths[i, j + 1]:
            i += 1
        else:
            j += 1
    return pairs
