"""Clients that send or read slowly do not stop the server."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from tests.support.repository import ROOT
from tests.support.slow_app import LARGE
from tests.support.time_limits import PATIENCE_S

THREADS = 2
MANY = 4 * THREADS
HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\n"
Recovery = Callable[[str], AbstractContextManager[None]]
Serve = Callable[..., int]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start gunicorn with our worker and two threads; give its port."""
    started: list[subprocess.Popen[str]] = []

    def start(**limits: str) -> int:
        log = tmp_path / "gunicorn.log"
        command = [
            sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:0", "--threads", f"{THREADS}",
            "--worker-class", "tests.support.slow_app.Worker", "--graceful-timeout", "5",
            "--no-control-socket", "tests.support.slow_app:app",
        ]  # fmt: skip
        environment = {**os.environ, **limits, "HOLD": str(tmp_path / "hold")}
        with log.open("w") as lines:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, stdout=lines, text=True
            )
        started.append(process)
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"Listening at: http://127.0.0.1:(\d+)", line):
                return int(found[1])
        raise AssertionError("gunicorn did not start")

    yield start
    for process in started:
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        process.stderr.close()
        assert process.wait(PATIENCE_S) == 0


@pytest.fixture
def sockets() -> Iterator[ExitStack]:
    """Sockets of slow clients, closed after the test."""
    with ExitStack() as stack:
        yield stack


def connected(port: int, stack: ExitStack, sent: bytes = b"") -> socket.socket:
    """A client that has sent this and waits."""
    client = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
    stack.enter_context(client)
    client.sendall(sent)
    return client


def answered(port: int, path: str = "/", body: bytes = b"hello") -> bytes:
    """The response to an ordinary request."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    client.request("POST", path, body)
    try:
        return client.getresponse().read()
    finally:
        client.close()


def received(client: socket.socket) -> bytes:
    """All that the server sends until it closes."""
    parts = []
    while data := client.recv(1 << 16):
        parts.append(data)
    return b"".join(parts)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        HEAD,
        HEAD + b"Content-Length: 99\r\n\r\nhalf of it",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n" + HEAD,
        b"POST /large HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["nothing", "half of the headers", "half of the body", "one and a half", "reads nothing"],
)
def test_slow_clients_do_not_keep_others_waiting(
    serve: Serve, sockets: ExitStack, recovery: Recovery, sent: bytes
) -> None:
    port = serve()
    for _ in range(MANY):
        connected(port, sockets, sent)
    with recovery(f"{MANY} clients stop in the middle of a request: another is answered"):
        assert answered(port) == b"hello"


def test_a_half_sent_request_is_ended_in_time(serve: Serve, sockets: ExitStack) -> None:
    port = serve(HEAD_S="0.5", BODY_S="0.5")
    assert received(connected(port, sockets)) == b""
    assert b" 408 " in received(connected(port, sockets, HEAD))
    half = HEAD + b"Content-Length: 99\r\n\r\nhalf"
    assert b" 408 " in received(connected(port, sockets, half))


def test_one_address_has_a_share_of_the_connections(serve: Serve, sockets: ExitStack) -> None:
    port = serve(PER_ADDRESS="4")
    oldest = connected(port, sockets, HEAD)
    for _ in range(4):
        connected(port, sockets, HEAD)
    assert received(oldest) == b""
    assert answered(port) == b"hello"


def test_health_is_answered_while_all_threads_work(
    serve: Serve, sockets: ExitStack, tmp_path: Path
) -> None:
    port = serve()
    held = b"POST /hold HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    waiting = [connected(port, sockets, held) for _ in range(MANY)]
    client = connected(port, sockets, b"GET /healthz HTTP/1.0\r\n\r\n")
    assert b" 200 " in received(client)
    (tmp_path / "hold").touch()
    assert all(b" 200 " in received(each) for each in waiting)


def test_one_client_does_not_take_all_threads(
    serve: Serve, sockets: ExitStack, tmp_path: Path
) -> None:
    port = serve()
    head = b"POST /hold HTTP/1.1\r\nHost: localhost\r\nCookie: mine\r\nConnection: close\r\n\r\n"
    waiting = [connected(port, sockets, head) for _ in range(MANY)]
    assert answered(port) == b"hello"
    (tmp_path / "hold").touch()
    assert all(b" 200 " in received(each) for each in waiting)


def test_requests_on_one_connection_are_answered_in_order(serve: Serve, sockets: ExitStack) -> None:
    first = HEAD + b"Content-Length: 5\r\n\r\nfirst"
    last = HEAD + b"Connection: close\r\nContent-Length: 4\r\n\r\nlast"
    client = connected(serve(), sockets, first + last)
    assert re.findall(rb"\r\n\r\n(first|last)", received(client)) == [b"first", b"last"]


def test_a_client_that_waits_for_a_word_before_its_body_gets_it(
    serve: Serve, sockets: ExitStack
) -> None:
    head = HEAD + b"Expect: 100-continue\r\nConnection: close\r\nContent-Length: 4\r\n\r\n"
    client = connected(serve(), sockets, head)
    assert client.recv(100).startswith(b"HTTP/1.1 100 ")
    client.sendall(b"body")
    assert received(client).endswith(b"\r\n\r\nbody")


def test_a_large_response_arrives_whole(serve: Serve) -> None:
    assert answered(serve(), "/large") == b"x" * LARGE
