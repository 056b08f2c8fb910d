"""The same journey, with two web processes, Redis and a Celery worker behind the page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import test_journey
from tests.support.servers import Servers, loaded

pytestmark = [pytest.mark.browser, pytest.mark.real, pytest.mark.full]

globals().update(
    {name: test for name, test in vars(test_journey).items() if name.startswith("test_")}
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, default_model_dir: Path) -> Iterator[Servers]:
    """Replaces the single process of the other journey."""
    folder = tmp_path_factory.mktemp("scaled")
    with Servers(folder, redis=True, WEB_PROCESSES="2") as running:
        loaded(running.url, running.log)
        yield running
