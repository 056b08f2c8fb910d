"""Results as bytes and back, the same bytes every time."""

from __future__ import annotations

import numpy as np
import pytest

from analysis import codec
from analysis.errors import StoreError
from analysis.tracing.specs import PatternResult


def pattern() -> PatternResult:
    flat = np.arange(6, dtype=np.float32).reshape(2, 3)
    return PatternResult(4, np.ones((2, 3, 3), np.float32), flat, flat, flat)


def test_results_survive_encoding() -> None:
    made = codec.decode(codec.encode(pattern(), {"revision": "r1"}))
    assert made.layer == 4
    assert np.array_equal(made.sink, pattern().sink)
    assert codec.origin(codec.encode(pattern(), {"revision": "r1"})) == {"revision": "r1"}


def test_the_same_result_is_the_same_bytes() -> None:
    assert len({codec.encode(pattern(), {"a": "1", "b": "2"}) for _ in range(64)}) == 1


@pytest.mark.parametrize("data", [b"", b"garbage", b"\x08\0\0\0\0\0\0\0{}      "])
def test_bytes_that_are_no_result_are_reported(data: bytes) -> None:
    with pytest.raises(StoreError):
        codec.decode(data)
