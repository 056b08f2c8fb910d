"""A fake hub on loopback that serves one repository and records the paths requested."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

REPOSITORY = "owner/tiny"
COMMIT = "c0ffee" + "0" * 34


class FakeHub(ThreadingHTTPServer):
    """Serves ``folder`` as REPOSITORY at COMMIT.

    Attributes:
        paths: The paths requested, in order.
        token: Requests without it are refused, as for a gated model. Empty: none is refused.
        halt: If not None, weights stop half way: ``half_sent`` is set, and the rest waits for it.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.paths: list[str] = []
        self.token = ""
        self.halt: Event | None = None
        self.half_sent = Event()

    @property
    def address(self) -> str:
        """The value for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        self.server.paths.append(path)
        if self.server.token and self.headers["Authorization"] != f"Bearer {self.server.token}":
            self._refuse("GatedRepo", 403)
        elif path.startswith(f"/api/models/{REPOSITORY}/tree/"):
            self._send(json.dumps(self._tree()).encode(), {}, body=body)
        elif path.startswith(f"/api/models/{REPOSITORY}"):
            names = [{"rfilename": item["path"]} for item in self._tree()]
            facts = {"id": REPOSITORY, "sha": COMMIT, "siblings": names}
            self._send(json.dumps(facts).encode(), {}, body=body)
        elif path.startswith(f"/{REPOSITORY}/resolve/"):
            self._send_file(path.split("/", 5)[5], body=body)
        else:
            self._refuse("RepoNotFound")

    def _tree(self) -> list[dict[str, object]]:
        return [
            {"type": "file", "path": item.name, "size": item.stat().st_size, "oid": item.name}
            for item in sorted(self.server.folder.iterdir())
        ]

    def _send_file(self, name: str, *, body: bool) -> None:
        path = self.server.folder / Path(name).name
        if not path.is_file():
            self._refuse("EntryNotFound")
            return
        data = path.read_bytes()
        tag = hashlib.sha256(data).hexdigest()
        self._send(data, {"X-Repo-Commit": COMMIT, "ETag": f'"{tag}"'}, body=body)

    def _send(self, data: bytes, headers: dict[str, str], *, body: bool) -> None:
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body and self.server.halt is not None and len(data) > 50_000:
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.server.half_sent.set()
            self.server.halt.wait(60)
        elif body:
            self.wfile.write(data)

    def _refuse(self, code: str, status: int = 404) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@contextmanager
def serving(folder: Path) -> Iterator[FakeHub]:
    """A running hub; it stops at the end of the block."""
    with FakeHub(folder) as hub:
        thread = Thread(target=hub.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
