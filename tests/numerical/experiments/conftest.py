"""A small model of each family."""

from __future__ import annotations

import pytest

from tests.numerical.experiments.by_hand import FAMILIES, Case, parts_of
from tests.support import built, zoo


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest) -> Case:
    hf = zoo.make(request.param)
    return Case(built.understood(hf, request.param), parts_of(request.param, hf))
