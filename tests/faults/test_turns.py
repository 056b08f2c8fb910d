"""Long work that can be continued takes turns with that of others, on one host and in Celery."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from analysis import codec
from analysis.contract.jobs import Job, Priority
from analysis.errors import CancelledError
from analysis.tracing.specs import RunSpec
from analysis.worker import backend, supervisor
from analysis.worker.messages import Limits, Request
from tests.support.scaled import FAKE, LIMIT_S, Client, WorkerHost, wait_for

Ask = Callable[..., Future[str]]


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The log of the computations; a turn is over at once."""
    path = tmp_path / "work.log"
    path.touch()
    monkeypatch.setenv("FAKE_WORK_LOG", str(path))
    monkeypatch.setattr(supervisor, "TURN_S", 0.0)
    return path


@pytest.fixture
def ask(log: Path) -> Iterator[Ask]:
    """Ask for fake work that can be continued."""
    local = backend.Local(supervisor.Supervisor(FAKE, Limits(), lambda *_: None))
    pool = ThreadPoolExecutor(8)

    def one(text: str, user: str, job: Job | None = None) -> Future[str]:
        request = Request("run", "fake", "f", (RunSpec("fake", text),), resumable=True)
        asked = job or Job(user=user, priority=Priority.LONG)

        def answer() -> str:
            data = local.ask(text, request, asked, LIMIT_S).data
            return str(codec.decode(data).tokens[0].text)

        return pool.submit(answer)

    yield one
    local.close()
    pool.shutdown()


def test_short_work_of_another_user_does_not_wait_for_the_end_of_long_work(
    ask: Ask, log: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    suite = ask(f"long {gate}", "anna")
    wait_for(lambda: f"start long {gate}" in log.read_text())
    assert ask("echo short", "ben").result(LIMIT_S) == "echo short"
    assert not suite.done()
    wait_for(lambda: log.read_text().count(f"start long {gate}") >= 2)
    gate.touch()
    assert suite.result(LIMIT_S) == f"long {gate}"


def test_work_of_the_same_user_is_not_interrupted(ask: Ask, log: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    suite = ask(f"long {gate}", "anna")
    wait_for(lambda: f"start long {gate}" in log.read_text())
    later = ask("echo later", "anna")
    gate.touch()
    assert suite.result(LIMIT_S) == f"long {gate}"
    assert later.result(LIMIT_S) == "echo later"
    assert log.read_text().splitlines()[1] == f"end long {gate}"


def test_interrupted_work_can_be_cancelled(ask: Ask, log: Path, tmp_path: Path) -> None:
    gate, other = tmp_path / "never", tmp_path / "other"
    job = Job(user="anna", priority=Priority.LONG)
    suite = ask(f"long {gate}", "anna", job)
    wait_for(lambda: f"start long {gate}" in log.read_text())
    holds = ask(f"hold {other}", "ben")
    wait_for(lambda: f"start hold {other}" in log.read_text())
    job.cancel()
    with pytest.raises(CancelledError):
        suite.result(LIMIT_S)
    other.touch()
    assert holds.result(LIMIT_S) == f"hold {other}"


LONG = {"priority": Priority.LONG, "resumable": True}


def test_in_celery_short_work_does_not_wait_for_the_end_of_long_work(
    start_worker: Callable[..., WorkerHost], client: Client
) -> None:
    start_worker()
    gate = client.folder / "gate"
    suite, _, heard = client.ask(f"long {gate}", user="anna", **LONG)
    client.started(f"long {gate}")
    assert client.now("echo short", user="ben", **LONG) == "echo short"
    assert not suite.done()
    client.started(f"long {gate}", times=2)
    assert any(progress.queue_position for progress in heard)
    gate.touch()
    assert suite.result(LIMIT_S) == f"long {gate}"
    assert client.lines()[-1] == f"end long {gate}"


def test_in_celery_two_long_works_take_turns_until_both_end(
    start_worker: Callable[..., WorkerHost], client: Client
) -> None:
    start_worker()
    gates = {user: client.folder / user for user in ("anna", "ben")}
    both = [client.ask(f"long {gate}", user=user, **LONG)[0] for user, gate in gates.items()]
    for gate in gates.values():
        client.started(f"long {gate}", times=3)
    for gate in gates.values():
        gate.touch()
    assert [one.result(LIMIT_S) for one in both] == [f"long {gate}" for gate in gates.values()]


def test_in_celery_work_that_cannot_be_continued_is_not_interrupted(
    start_worker: Callable[..., WorkerHost], client: Client
) -> None:
    start_worker()
    gate = client.folder / "gate"
    whole, _, _ = client.ask(f"long {gate}", user="anna", priority=Priority.LONG)
    client.started(f"long {gate}")
    later, _, _ = client.ask("echo later", user="ben", **LONG)
    client.queued(1)
    gate.touch()
    assert whole.result(LIMIT_S) == f"long {gate}"
    assert later.result(LIMIT_S) == "echo later"
    assert client.lines()[:2] == [f"start long {gate}", f"end long {gate}"]


def test_in_celery_interrupted_work_can_be_cancelled(
    start_worker: Callable[..., WorkerHost], client: Client
) -> None:
    start_worker()
    gate, other = client.folder / "never", client.folder / "other"
    suite, job, _ = client.ask(f"long {gate}", user="anna", **LONG)
    client.started(f"long {gate}")
    holds, _, _ = client.ask(f"hold {other}", user="ben", priority=Priority.LONG)
    client.started(f"hold {other}")
    job.cancel()
    with pytest.raises(CancelledError):
        suite.result(LIMIT_S)
    client.queued(0)
    other.touch()
    assert holds.result(LIMIT_S) == f"hold {other}"
