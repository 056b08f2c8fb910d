"""A gunicorn worker that slow clients can't occupy.

gunicorn's threaded worker reads a request in one of its threads, so as many half-sent requests as
there are threads stop the server. Here one event loop receives requests and sends responses, with
a time limit for each step, as a buffering proxy does. A thread gets a request only once it is
complete, and never waits for a socket. One client gets three quarters of the threads at most; its
further requests wait. Health checks have threads of their own.
"""

from __future__ import annotations

import re
import selectors
import socket
import time
from collections import Counter, defaultdict, deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

from gunicorn.http import wsgi
from gunicorn.workers.gthread import TConn, ThreadWorker

#: Seconds that a client has to send the head of a request, to send its body, to receive the
#: response, and to close its end of a closed connection.
HEAD_S, BODY_S, SEND_S, LINGER_S = 20.0, 60.0, 60.0, 3.0
#: Most open connections of one worker, and of one address.
CONNECTIONS, PER_ADDRESS = 512, 256
#: Most bytes in memory for all clients of one worker: received, and not sent yet.
MOST_BYTES = 96 << 20
#: Largest head besides the request line, in bytes.
_HEADERS = 128 << 10
_CHUNK = 64 << 10

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,15})[ \t]*(?=\r\n)", re.IGNORECASE)
_EXPECTS = re.compile(rb"\r\nexpect:[ \t]*100-continue", re.IGNORECASE)
_ENCODED = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)
_COOKIES = re.compile(rb"\r\ncookie:([^\r\n]*)", re.IGNORECASE)
_HEALTH = re.compile(rb"(?:GET|HEAD) \S*/(?:healthz|readyz|metrics)[ ?]")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_CLOSE = b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class _Response(wsgi.Response):  # type: ignore[misc]
    """gunicorn's response without the header that names the server's software."""

    def default_headers(self) -> list[str]:
        """The headers that gunicorn adds."""
        headers: list[str] = super().default_headers()
        return [line for line in headers if not line.startswith("Server:")]


wsgi.Response = _Response


class Wire:
    """A client's socket, as the threads see it: reads and writes use memory and never wait.

    Args:
        sock: The client's socket.
        max_head: Largest head of a request, in bytes.
        max_body: Largest body, in bytes. A larger one is not received: the app refuses it.
    """

    def __init__(self, sock: socket.socket, max_head: int, max_body: int) -> None:
        self._sock = sock
        self._max_head, self._max_body = max_head, max_body
        self.received, self.unsent = bytearray(), bytearray()
        self.head = 0  # bytes of the request's head; 0 until it is complete
        self.cut = False  # whether the rest of the request is not received
        self._asked = False
        sock.setblocking(False)

    # Called by the event loop.

    def receive(self) -> bool:
        """Receive what has arrived. Returns False at the end of the stream."""
        try:
            data = self._sock.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return True
        self.received += data
        return bool(data)

    def complete(self) -> bool:
        """Whether a thread can answer: the request is there, or is too large to be received."""
        if not self.head:
            # The last three bytes seen before may begin the end of the head.
            self.head = self.received.find(b"\r\n\r\n") + 4
            if self.head < 4:
                self.head = 0
                self.cut = len(self.received) > self._max_head
                return self.cut
        head = bytes(self.received[: self.head])
        length = max(map(int, _LENGTH.findall(head)), default=0)
        # Without a length nobody knows where the request ends; the app refuses it.
        self.cut = length > self._max_body or bool(_ENCODED.search(head))
        if self.cut or len(self.received) >= self.head + length:
            return True
        if not self._asked and _EXPECTS.search(head):
            self._asked = True
            self.unsent += _CONTINUE
            self.flush()
        return False

    def is_health_check(self) -> bool:
        """Whether the request asks for the server's health."""
        return bool(_HEALTH.match(self.received))

    def client(self) -> bytes:
        """What tells clients apart: the cookies. Without valid ones, the app refuses at once."""
        found = _COOKIES.search(self.received, 0, self.head)
        return found[1] if found else b""

    def next_request(self, read_ahead: bytes) -> None:
        """Start over with what the client has sent behind the last request."""
        self.received[:0] = read_ahead
        self.head, self._asked = 0, False

    def flush(self) -> None:
        """Send what the client accepts now."""
        with suppress(BlockingIOError, InterruptedError):
            while self.unsent:
                del self.unsent[: self._sock.send(self.unsent[:_CHUNK])]

    @property
    def held(self) -> int:
        """Bytes in memory."""
        return len(self.received) + len(self.unsent)

    # Called by gunicorn in a thread.

    def recv(self, count: int, _flags: int = 0) -> bytes:
        """Take received bytes; empty if there are none."""
        taken = bytes(self.received[:count])
        del self.received[:count]
        return taken

    def sendall(self, data: bytes, _flags: int = 0) -> None:
        """Send what the client accepts now, and keep the rest for the event loop."""
        self.unsent += data
        self.flush()

    send = sendall

    def setblocking(self, _flag: bool) -> None:
        """Do nothing: the socket never blocks."""

    def settimeout(self, _seconds: float | None) -> None:
        """Do nothing: the event loop limits the time."""

    def gettimeout(self) -> None:
        """None: calls return at once."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class BufferedWorker(ThreadWorker):  # type: ignore[misc]
    """gunicorn's threaded worker with the sockets in the event loop.

    Each open connection that is not in a thread waits in ``_waiting`` for one event, with a
    deadline. What gunicorn keeps for idle connections stays empty.
    """

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Refuse TLS, which belongs to a proxy, and set what this worker needs."""
        if cfg.is_ssl:
            raise RuntimeError("Let a proxy in front of the server handle TLS.")
        cfg.set("worker_connections", CONNECTIONS)
        cfg.set("sendfile", False)

    def init_process(self) -> None:
        """Start, with a pool of its own for health checks."""
        self._waiting: dict[Any, float] = {}  # connection -> deadline, monotonic
        self._open: dict[Any, str] = {}  # connection -> address
        self._swept = 0.0
        self._busy: Counter[bytes] = Counter()  # threads by client
        self._parked: dict[bytes, deque[Any]] = defaultdict(deque)  # complete requests, by client
        self._health = ThreadPoolExecutor(2, thread_name_prefix="health")
        super().init_process()

    # The life of a connection: accepted, received, in a thread, sent, and again or closed.

    def accept(self, listener: Any) -> None:
        """Accept a connection, and wait for its request."""
        try:
            sock, peer = listener.accept()
        except OSError:  # it is gone again, or there are no more file descriptors
            return
        config = getattr(self.wsgi, "config", {})
        most = config.get("MAX_CONTENT_LENGTH") or 4 << 20
        wire = Wire(sock, self.cfg.limit_request_line + _HEADERS, most)
        conn = TConn(self.cfg, wire, peer, listener.getsockname())
        self.nr_conns += 1
        self._open[conn] = address = peer[0] if isinstance(peer, tuple) else ""
        self._wait(conn, selectors.EVENT_READ, HEAD_S, self._on_request)
        self._make_room(address)

    def _wait(self, conn: Any, event: int, seconds: float, then: Any) -> None:
        try:
            self.poller.register(conn.sock, event, partial(self._ready, conn, then))
        except (OSError, ValueError, KeyError):  # gunicorn closed it after a failed response
            self._drop(conn)
            return
        self._waiting[conn] = time.monotonic() + seconds

    def _ready(self, conn: Any, then: Any, _sock: Any) -> None:
        if conn in self._waiting:  # else an event of the same round closed it
            try:
                then(conn)
            except OSError:
                self._drop(conn)

    def _on_request(self, conn: Any) -> None:
        wire, knew_head = conn.sock, conn.sock.head
        is_first = not wire.received
        if not wire.receive():
            self._drop(conn)
        elif wire.complete():
            self._hand_over(conn)
        elif wire.head and not knew_head:
            self._waiting[conn] = time.monotonic() + BODY_S
        elif is_first:  # the connection was idle until now
            self._waiting[conn] = time.monotonic() + HEAD_S

    def _hand_over(self, conn: Any) -> None:
        """Let a thread answer a complete request, now or when its client has a thread left."""
        self._forget(conn)
        conn.data_ready = True
        if conn.sock.is_health_check():
            conn.client_key = None
            self._submit(self._health, conn)
            return
        conn.client_key = key = conn.sock.client()
        self._parked[key].append(conn)
        self._unpark(key)

    def _unpark(self, key: bytes) -> None:
        while self._parked[key] and self._busy[key] < max(1, self.cfg.threads * 3 // 4):
            self._busy[key] += 1
            self._submit(self.tpool, self._parked[key].popleft())
        if not self._parked[key]:
            del self._parked[key]

    def _submit(self, pool: Any, conn: Any) -> None:
        work = pool.submit(self.handle, conn)
        work.add_done_callback(
            lambda done: self.method_queue.defer(self.finish_request, conn, done)
        )

    def finish_request(self, conn: Any, fs: Future[Any]) -> None:
        """Send what is left of a response, then wait for the next request or close."""
        if conn.client_key is not None:
            self._busy[conn.client_key] -= 1
            self._busy += Counter()  # drop those at zero
            self._unpark(conn.client_key)
        keep = False
        with suppress(Exception):  # ``handle`` has logged it
            keep = bool(fs.result()) and not conn.sock.cut
        if conn.sock.unsent:
            conn.keep = keep
            self._wait(conn, selectors.EVENT_WRITE, SEND_S, self._on_writable)
        else:
            self._after_response(conn, keep=keep)

    def _on_writable(self, conn: Any) -> None:
        conn.sock.flush()
        if not conn.sock.unsent:
            self._forget(conn)
            self._after_response(conn, keep=conn.keep)

    def _after_response(self, conn: Any, *, keep: bool) -> None:
        if not keep:
            self._linger(conn)
            return
        conn.sock.next_request(conn.parser.unreader.take_buffered())
        if conn.sock.complete():
            self._hand_over(conn)
            return
        begun = bool(conn.sock.received)
        patience = HEAD_S if begun else self.cfg.keepalive if self.alive else LINGER_S
        self._wait(conn, selectors.EVENT_READ, patience, self._on_request)

    def _linger(self, conn: Any) -> None:
        """End the response, and discard what the client still sends until it closes its end.

        Closing at once would reset the connection, and the client could lose the response.
        """
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(conn)
            return
        conn.sock.received.clear()
        self._wait(conn, selectors.EVENT_READ, LINGER_S, self._on_rest)

    def _on_rest(self, conn: Any) -> None:
        if not conn.sock.receive():
            self._drop(conn)
        conn.sock.received.clear()

    def _forget(self, conn: Any) -> None:
        """Stop waiting for an event."""
        if self._waiting.pop(conn, None) is not None:
            with suppress(OSError, ValueError, KeyError):
                self.poller.unregister(conn.sock)

    def _drop(self, conn: Any) -> None:
        self._forget(conn)
        if self._open.pop(conn, None) is not None:
            self.nr_conns -= 1
            conn.close()

    # Limits.

    def _make_room(self, address: str) -> None:
        """Close the connection that waits longest if there are too many, of one address first."""
        counts = Counter(self._open.values())
        if counts[address] > PER_ADDRESS:
            self._drop_oldest(address)
        elif len(self._open) >= CONNECTIONS:  # gunicorn would accept no more
            self._drop_oldest(counts.most_common(1)[0][0])

    def _drop_oldest(self, address: str) -> None:
        waiting = [conn for conn in self._waiting if self._open.get(conn) == address]
        if waiting:
            self._drop(waiting[0])

    def murder_pending(self) -> None:
        """Close the connections whose time is up; gunicorn calls this in every round."""
        now = time.monotonic()
        if now - self._swept < 0.2:
            return
        self._swept = now
        for conn, deadline in list(self._waiting.items()):
            if deadline <= now:
                self._expire(conn)
        held = {conn: conn.sock.held for conn in self._waiting}
        while held and sum(held.values()) > MOST_BYTES:
            largest = max(held, key=held.__getitem__)
            del held[largest]
            self._drop(largest)

    def _expire(self, conn: Any) -> None:
        """Close a connection; a client that has sent a part of a request is told why."""
        wire = conn.sock
        if wire.received and not wire.unsent:
            wire.unsent += b"HTTP/1.1 408 Request Timeout" + _CLOSE
            with suppress(OSError):
                wire.flush()
        self._drop(conn)

    def _cap_keepalive(self, deadline: float) -> None:
        """Close connections without a complete request by ``deadline``: the worker stops."""
        for conn, until in self._waiting.items():
            if not conn.sock.unsent:
                self._waiting[conn] = min(until, deadline)
