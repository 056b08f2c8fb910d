"""Servers as in a deployment: gunicorn, and Redis with a Celery worker."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from tests.support.redis import RedisServer
from tests.support.repository import ROOT
from tests.support.time_limits import PATIENCE_S

ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+/?")
CHILD = "analysis.worker.process"


def loaded(url: str, log: Path, limit_s: float = 300.0) -> None:
    """Wait until a server has loaded its model; beside other tests this takes a minute."""
    late = time.monotonic() + limit_s
    while status(url, "/readyz") != 200:
        assert time.monotonic() < late, f"no model was loaded:\n{log.read_text()}"
        time.sleep(0.2)


def status(url: str, path: str) -> int:
    """The status of a server's response to a path."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


class Servers:
    """gunicorn, with ``redis`` also Redis and a Celery worker; they stop with the block.

    Args:
        folder: For memo, socket and logs.
        redis: Whether to compute in a Celery worker.
        prepare: Called in each server's process before it starts.
        **settings: ``DEFAULT_MODEL="..."``: environment variables without their prefix.
    """

    def __init__(
        self, folder: Path, *, redis: bool = False, prepare: Any = None, **settings: str
    ) -> None:
        named = {f"STRATASCOPE_{name}": value for name, value in settings.items()}
        self.environment = {**os.environ, **named}
        self.folder = folder
        self.log = folder / "server.log"
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self.redis: RedisServer | None = None
        self._prepare = prepare
        self._drain: threading.Thread | None = None
        try:
            if redis:
                self.redis = RedisServer(folder)
                self.environment["STRATASCOPE_REDIS_URL"] = self.redis.url
                self.start("worker", "worker")
            self.url = self._serve()
        except BaseException:
            self.close()
            raise

    def again(self) -> None:
        """Serve at the same address again, after the server was killed."""
        self._close("web")
        self.url = self._serve(self.url.rstrip("/").rpartition(":")[2])

    def _serve(self, port: str = "0") -> str:
        web = self.start("web", "serve", "--port", port)
        assert web.stdout is not None
        for line in web.stdout:
            if found := ADDRESS.search(line):
                # Otherwise a full pipe would block the server.
                self._drain = threading.Thread(target=web.stdout.read, daemon=True)
                self._drain.start()
                return found[0].rstrip("/") + "/"
        raise AssertionError(f"the server said no address:\n{self.log.read_text()}")

    def start(self, name: str, *command: str) -> subprocess.Popen[str]:
        """Start ``stratascope COMMAND`` with a separate memo."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dash_app", *command],
                cwd=ROOT,
                env={**self.environment, "STRATASCOPE_CACHE_DIR": str(self.folder / name)},
                stdout=subprocess.PIPE if name == "web" else log,
                stderr=log,
                text=True,
                preexec_fn=self._prepare,  # noqa: PLW1509 - a limit on files, set by a test
            )
        self.processes[name] = process
        return process

    def everything(self, name: str = "web") -> list[psutil.Process]:
        """A server's process and its children; empty after its end."""
        process = self.processes[name]
        if process.poll() is not None:
            return []  # another process may have its number by now
        with suppress(psutil.NoSuchProcess):
            top = psutil.Process(process.pid)
            return [top, *top.children(recursive=True)]
        return []

    def model(self, name: str = "web") -> psutil.Process:
        """The model process."""
        (found,) = (each for each in self.everything(name) if is_model(each))
        return found

    def web_process(self) -> psutil.Process:
        """gunicorn's worker."""
        top, *rest = self.everything()
        (found,) = (each for each in rest if each.ppid() == top.pid and not is_model(each))
        return found

    def parts(self) -> dict[str, list[psutil.Process]]:
        """All processes by kind: "web", "worker" and "model"."""
        found: dict[str, list[psutil.Process]] = {}
        for name in self.processes:
            for each in self.everything(name):
                found.setdefault("model" if is_model(each) else name, []).append(each)
        return found

    def close(self) -> None:
        """Stop all."""
        try:
            for name in reversed(self.processes):
                self._close(name)
        finally:
            if self.redis is not None:
                self.redis.close()

    def _close(self, name: str) -> None:
        """Send SIGTERM; kill a process that is still there after a while, with its children.

        Raises:
            AssertionError: If that was necessary: a server that does not stop is a bug.
        """
        process, everything = self.processes[name], self.everything(name)
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE_S)
        stopped = process.poll() is not None
        _, left = psutil.wait_procs(everything, 10)
        for each in left:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait()
        if process.stdout is not None:
            if self._drain is not None:
                self._drain.join(10)
            process.stdout.close()
        if left or not stopped:
            raise AssertionError(f"{name} did not stop ({left}):\n{self.log.read_text()}")

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def is_model(process: psutil.Process) -> bool:
    """Whether it is a model process."""
    with suppress(psutil.Error):
        return CHILD in process.cmdline()
    return False
