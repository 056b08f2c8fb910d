"""A Redis of the test's own, workers with fake work, and web processes that ask them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.redis import RedisServer
from tests.support.scaled import Bureau, WorkerHost


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """An empty Redis on a socket."""
    server = RedisServer(tmp_path)
    yield server
    server.close()


@pytest.fixture
def hire(redis_server: RedisServer, tmp_path: Path) -> Iterator[Callable[..., WorkerHost]]:
    """Start workers: ``hire("name")``."""
    hosts: list[WorkerHost] = []

    def start(name: str = "worker") -> WorkerHost:
        hosts.append(WorkerHost(redis_server.url, tmp_path, name))
        return hosts[-1]

    yield start
    for host in hosts:
        host.close()


@pytest.fixture
def open_bureau(redis_server: RedisServer, tmp_path: Path) -> Iterator[Callable[..., Bureau]]:
    """Open web processes' sides: ``open_bureau()``."""
    bureaus: list[Bureau] = []

    def start(**changed: float) -> Bureau:
        bureaus.append(Bureau(redis_server.url, tmp_path, **changed))
        return bureaus[-1]

    yield start
    for bureau in bureaus:
        bureau.close()


@pytest.fixture
def bureau(open_bureau: Callable[..., Bureau]) -> Bureau:
    """One of them."""
    return open_bureau()


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A Redis and one worker for all tests of a module that break neither."""
    folder = tmp_path_factory.mktemp("company")
    server = RedisServer(folder)
    host = WorkerHost(server.url, folder)
    yield server.url, folder
    host.close()
    server.close()


@pytest.fixture
def desks(company: tuple[str, Path]) -> Iterator[tuple[Bureau, Bureau]]:
    """Two web processes' sides, asking that one worker."""
    both = (Bureau(*company), Bureau(*company))
    yield both
    for desk in both:
        desk.close()


@pytest.fixture
def desk(desks: tuple[Bureau, Bureau]) -> Bureau:
    """One of them."""
    return desks[0]


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """What fake work waits for."""
    return tmp_path / "gate"
