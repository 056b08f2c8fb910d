"""A Redis for the test, workers with fake work, and web processes that send requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.redis import RedisServer
from tests.support.scaled import Client, WorkerHost


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """An empty Redis on a socket."""
    server = RedisServer(tmp_path)
    yield server
    server.close()


@pytest.fixture
def start_worker(redis_server: RedisServer, tmp_path: Path) -> Iterator[Callable[..., WorkerHost]]:
    """Start workers: ``start_worker("name")``."""
    hosts: list[WorkerHost] = []

    def start(name: str = "worker") -> WorkerHost:
        hosts.append(WorkerHost(redis_server.url, tmp_path, name))
        return hosts[-1]

    yield start
    for host in hosts:
        host.close()


@pytest.fixture
def open_client(redis_server: RedisServer, tmp_path: Path) -> Iterator[Callable[..., Client]]:
    """Open clients as web processes do: ``open_client()``."""
    clients: list[Client] = []

    def start(**changed: float) -> Client:
        clients.append(Client(redis_server.url, tmp_path, **changed))
        return clients[-1]

    yield start
    for client in clients:
        client.close()


@pytest.fixture
def client(open_client: Callable[..., Client]) -> Client:
    """One of them."""
    return open_client()


@pytest.fixture(scope="module")
def shared_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A Redis and one worker for all tests of a module that damage neither."""
    folder = tmp_path_factory.mktemp("shared_worker")
    server = RedisServer(folder)
    host = WorkerHost(server.url, folder)
    yield server.url, folder
    host.close()
    server.close()


@pytest.fixture
def shared_clients(shared_worker: tuple[str, Path]) -> Iterator[tuple[Client, Client]]:
    """Two clients of that worker, as of two web processes."""
    both = (Client(*shared_worker), Client(*shared_worker))
    yield both
    for shared_client in both:
        shared_client.close()


@pytest.fixture
def shared_client(shared_clients: tuple[Client, Client]) -> Client:
    """One of them."""
    return shared_clients[0]


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """The file that fake work waits for."""
    return tmp_path / "gate"
