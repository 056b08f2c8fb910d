"""A service whose model worker is a real process with fake work, and users who ask it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from analysis.contract.jobs import Job, Progress
from analysis.service import Service
from analysis.tracing.specs import RunSpec
from analysis.worker.messages import ServiceSettings
from tests.support.scaled import FAKE, LIMIT_S, kill_the_worker, wait_for


class Office:
    """A service with fake work, its users, and a log of the computations."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.log = folder / "work.log"
        self.log.touch()
        chosen = ServiceSettings(cache_dir=folder, function=FAKE, memo=False, **settings)
        self.service = Service(chosen, lambda model, dtype: "f")
        self.pool = ThreadPoolExecutor(32)

    def ask(self, text: str, **job: Any) -> tuple[Future[str], Job, list[Progress]]:
        heard: list[Progress] = []
        asked = Job(on_progress=heard.append, **job)

        def answer() -> str:
            return self.service.ask("fake", RunSpec("fake", text), asked).tokens[0].text

        return self.pool.submit(answer), asked, heard

    def now(self, text: str, **job: Any) -> str:
        return self.ask(text, **job)[0].result(LIMIT_S)

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()

    def started(self, text: str) -> None:
        wait_for(lambda: f"start {text}" in self.lines())

    def queued(self, count: int) -> None:
        wait_for(lambda: self.service.status().queued == count)

    def kill(self) -> int:
        return kill_the_worker(self.service)


@pytest.fixture
def make_office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Office]]:
    monkeypatch.setenv("FAKE_WORK_LOG", str(tmp_path / "work.log"))
    offices: list[Office] = []

    def make(**settings: Any) -> Office:
        offices.append(Office(tmp_path, **settings))
        offices[-1].service.start()
        return offices[-1]

    yield make
    for office in offices:
        office.service.close()
        office.pool.shutdown()
