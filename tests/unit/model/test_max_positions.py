"""The longest sequence of a model, with and without scaled rotary embeddings."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from analysis.model.handle import max_positions

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


@pytest.mark.parametrize(
    ("rope", "wanted"),
    [
        (None, 32768),
        ({"rope_type": "default"}, 32768),
        (YARN, 131072),
        ({"rope_type": "dynamic", "factor": 2.0}, 65536),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 1024}, 32768),
        ({"rope_type": "longrope", "long_factor": [1.0]}, 32768),
        ({"full_attention": YARN, "sliding_attention": {"rope_type": "default"}}, 131072),
    ],
)
def test_scaled_rotary_embeddings_reach_their_factor(rope: Any, wanted: int) -> None:
    config = SimpleNamespace(max_position_embeddings=32768, rope_parameters=rope)
    assert max_positions(config) == wanted


def test_no_limit_stays_none() -> None:
    assert max_positions(SimpleNamespace()) == 0
