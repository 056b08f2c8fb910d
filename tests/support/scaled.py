"""Celery workers with fake work, in separate processes."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from analysis import codec
from analysis.contract.jobs import Job
from analysis.service import Service
from analysis.tracing.specs import RunSpec
from analysis.worker.messages import Request
from tests.support.repository import ROOT
from tests.support.time_limits import PATIENCE_S

LIMIT_S = float(PATIENCE_S)
FAKE = "tests.support.fake_work:perform"
#: Short limits: a killed worker is noticed within seconds, a slow one is not reported.
QUICK = {
    "lease_s": 4.0,
    "lost_s": 2.5,
    "patience_s": 15.0,
    "beat_s": 0.05,
    "grace_s": 5.0,
    "turn_s": 0.05,
}


#: Names an environment variable with a file. The consumer of a worker that finds the file removes
#: it, and takes no message before it restarts.
DEAF = "STRATASCOPE_TEST_DEAF"


class WorkerHost:
    """``Worker`` in a separate process, as ``stratascope worker`` runs it."""

    def __init__(self, url: str, folder: Path, name: str = "worker", function: str = FAKE) -> None:
        self.log = folder / f"{name}.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.scaled", url, function],
                cwd=ROOT,
                stdout=log,
                stderr=log,
                env={**os.environ, "FAKE_WORK_LOG": str(folder / "work.log")},
            )

    def children(self) -> list[psutil.Process]:
        """The model process, if it runs."""
        return psutil.Process(self.process.pid).children()

    def kill(self) -> None:
        """Kill Celery's process (SIGKILL)."""
        self.process.kill()
        self.process.wait()

    def stop(self, seconds: float = 30.0) -> int:
        """Send SIGTERM and return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def close(self) -> None:
        """End it in any way."""
        if self.process.poll() is None:
            self.kill()


def settings(url: str, **changed: Any) -> Any:
    """Settings with short limits."""
    from analysis.scale.app import ScaleSettings

    return ScaleSettings(url, **{**QUICK, **changed})


class Client:
    """A client, and the log of the workers' computations."""

    def __init__(self, url: str, folder: Path, **changed: Any) -> None:
        from analysis.scale.client import Remote

        self.folder = folder
        self.log = folder / "work.log"
        self.log.touch()
        self.remote = Remote(settings(url, **changed), lambda *_: None)
        self.pool = ThreadPoolExecutor(32)

    def ask(
        self, text: str, deadline_s: float = LIMIT_S, *, resumable: bool = False, **job: Any
    ) -> tuple[Future[str], Any, list[Any]]:
        """Request fake work; return the future result, the job and its progress."""
        heard: list[Any] = []
        asked = Job(on_progress=heard.append, **job)
        request = Request("run", "fake", "f", (RunSpec("fake", text),), resumable)

        def answer() -> str:
            data = self.remote.ask(text, request, asked, deadline_s).data
            said: str = codec.decode(data).tokens[0].text
            return said

        return self.pool.submit(answer), asked, heard

    def now(self, text: str, **job: Any) -> str:
        """Send a request and wait for the result."""
        return self.ask(text, **job)[0].result(LIMIT_S)

    def lines(self) -> list[str]:
        """The log of the workers."""
        return self.log.read_text().splitlines()

    def started(self, text: str, times: int = 1) -> None:
        """Wait until workers have started it this many times."""
        wait_for(lambda: self.lines().count(f"start {text}") >= times)

    def queued(self, count: int) -> None:
        """Wait until this many requests wait."""
        wait_for(lambda: self.remote.queued == count)

    def close(self) -> None:
        """Close the client."""
        self.remote.close()
        self.pool.shutdown(cancel_futures=True)


def wait_for(condition: Callable[[], Any]) -> None:
    """Wait until a condition is true, with a limit for very slow machines."""
    pause = threading.Event()
    for _ in range(int(LIMIT_S / 0.01)):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it never happened")


def kill_the_worker(service: Service) -> int:
    """Kill a service's model worker (SIGKILL) and return its process id."""
    pid = service.status().worker_pid
    assert pid, "no worker runs"  # kill(0) would end every process of the test run
    os.kill(pid, signal.SIGKILL)
    return pid


def _deafen(mark: str) -> None:
    """Make this process's first connection to the broker consume no message."""
    if not mark or not Path(mark).exists():
        return
    from kombu.transport.redis import MultiChannelPoller

    ask, deaf = MultiChannelPoller.on_poll_start, []

    def ask_for_nothing(poller: Any) -> None:
        deaf.append(poller)
        Path(mark).unlink(missing_ok=True)
        if poller is not deaf[0]:
            ask(poller)

    MultiChannelPoller.on_poll_start = ask_for_nothing


def main() -> int:
    """Run a worker until a signal stops it."""
    from analysis.scale.worker import Worker
    from analysis.worker.messages import Limits

    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("function")
    chosen = parser.parse_args()
    _deafen(os.environ.get(DEAF, ""))
    return Worker(settings(chosen.url), chosen.function, Limits()).run()


if __name__ == "__main__":
    sys.exit(main())
