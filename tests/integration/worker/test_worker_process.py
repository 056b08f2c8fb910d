"""The model worker: a real process with fake work, killed, cancelled and interrupted.

Nothing here is timed: each step waits for the event it needs, with a generous limit.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from analysis.contract.jobs import Priority
from analysis.errors import (
    AnalysisError,
    BusyError,
    CancelledError,
    DeadlineError,
    PromptError,
    WorkerStoppedError,
)
from analysis.service import Service
from analysis.tracing.specs import RunSpec
from analysis.worker.messages import Limits, ServiceSettings
from tests.support.office import Office, make_office
from tests.support.scaled import FAKE, LIMIT_S, ROOT, wait_for

__all__ = ["make_office"]


@pytest.fixture
def office(make_office: Callable[..., Office]) -> Office:
    return make_office()


def test_an_answer_arrives_after_progress_reports(office: Office) -> None:
    answer, _, heard = office.ask("steps 3")
    assert answer.result(LIMIT_S) == "steps 3"
    assert heard[0].label in ("Waiting", "Starting")
    gate = office.folder / "gate"
    answer, _, heard = office.ask(f"hold {gate}")
    wait_for(lambda: any(progress.label == "holding" for progress in heard))
    gate.touch()
    answer.result(LIMIT_S)


def test_the_worker_stays_the_same_process(office: Office) -> None:
    office.now("echo 1")
    pid = office.service.status().worker_pid
    office.now("echo 2")
    assert office.service.status().worker_pid == pid


def test_a_kill_with_eight_queued_jobs_loses_the_running_job_only(office: Office) -> None:
    gate = office.folder / "gate"
    victim, _, _ = office.ask(f"hold {gate}")
    office.started(f"hold {gate}")
    others = [office.ask(f"echo {number}")[0] for number in range(7)]
    office.queued(7)
    killed = office.kill()
    with pytest.raises(WorkerStoppedError, match="stopped while it worked on this"):
        victim.result(LIMIT_S)
    assert [other.result(LIMIT_S) for other in others] == [f"echo {n}" for n in range(7)]
    assert office.service.status().worker_pid != killed


def test_a_job_that_killed_the_worker_twice_is_refused(office: Office) -> None:
    for _ in range(2):
        with pytest.raises(WorkerStoppedError, match="while it worked on this"):
            office.now("crash now")
    with pytest.raises(WorkerStoppedError, match="2 times"):
        office.now("crash now")
    assert office.lines().count("start crash now") == 2
    assert office.now("echo still alive") == "echo still alive"


def test_a_failed_job_can_be_run_again(office: Office) -> None:
    once = f"crash-once {office.folder / 'crashed'}"
    with pytest.raises(WorkerStoppedError):
        office.now(once)
    assert office.now(once) == once


def test_a_click_is_answered_during_a_long_job(office: Office) -> None:
    gate = office.folder / "gate"
    long, _, _ = office.ask(f"long {gate}", priority=Priority.LONG)
    office.started(f"long {gate}")
    assert office.now("echo click") == "echo click"
    assert not long.done()
    gate.touch()
    assert long.result(LIMIT_S) == f"long {gate}"
    assert office.lines() == [
        f"start long {gate}",
        "start echo click",
        "end echo click",
        f"end long {gate}",
    ]


def test_a_job_that_did_not_start_is_not_lost_with_the_worker(office: Office) -> None:
    office.now("echo warm")
    for number in range(5):
        office.kill()
        assert office.now(f"echo {number}") == f"echo {number}"
        assert office.now(f"echo again {number}") == f"echo again {number}"


def test_a_long_job_does_not_interrupt_another(office: Office) -> None:
    gate = office.folder / "gate"
    first, _, _ = office.ask(f"long {gate}", priority=Priority.LONG)
    office.started(f"long {gate}")
    second, _, heard = office.ask("echo later", priority=Priority.LONG)
    wait_for(lambda: any(progress.queue_position == 1 for progress in heard))
    gate.touch()
    first.result(LIMIT_S)
    second.result(LIMIT_S)
    assert office.lines()[1] == f"end long {gate}"


def test_a_kill_during_a_click_does_not_lose_the_long_job(office: Office) -> None:
    gate, click = office.folder / "gate", office.folder / "click"
    long, _, _ = office.ask(f"long {gate}", priority=Priority.LONG)
    office.started(f"long {gate}")
    clicked, _, _ = office.ask(f"hold {click}")
    office.started(f"hold {click}")
    office.kill()
    with pytest.raises(WorkerStoppedError):
        clicked.result(LIMIT_S)
    wait_for(lambda: office.lines().count(f"start long {gate}") == 2)
    gate.touch()
    assert long.result(LIMIT_S) == f"long {gate}"


def cancelled(job: Any, answer: Any) -> None:
    """Cancel, and check that the waiting request fails."""
    job.cancel()
    with pytest.raises(CancelledError):
        answer.result(LIMIT_S)


def test_eight_equal_requests_cost_one_computation(office: Office) -> None:
    gate = office.folder / "gate"
    answers = [office.ask(f"hold {gate}", user=f"user {number}") for number in range(8)]
    wait_for(lambda: all(any(p.label == "holding" for p in heard) for _, _, heard in answers))
    gate.touch()
    assert {answer.result(LIMIT_S) for answer, _, _ in answers} == {f"hold {gate}"}
    assert office.lines().count(f"start hold {gate}") == 1
    assert office.service.status().computed == 1


def test_one_of_two_shared_requests_can_be_cancelled_alone(office: Office) -> None:
    gate = office.folder / "gate"
    (mine, my_job, _), (theirs, _, _) = office.ask(f"hold {gate}"), office.ask(f"hold {gate}")
    office.started(f"hold {gate}")
    cancelled(my_job, mine)
    gate.touch()
    assert theirs.result(LIMIT_S) == f"hold {gate}"


def test_cancelling_stops_the_work_and_keeps_the_worker(office: Office) -> None:
    never = office.folder / "never"
    answer, job, _ = office.ask(f"hold {never}")
    office.started(f"hold {never}")
    pid = office.service.status().worker_pid
    cancelled(job, answer)
    assert office.now("echo next") == "echo next"
    assert f"end hold {never}" not in office.lines()
    assert office.service.status().worker_pid == pid


def test_a_cancelled_request_can_be_repeated_at_once(office: Office) -> None:
    gate = office.folder / "gate"
    first, job, _ = office.ask(f"hold {gate}")
    office.started(f"hold {gate}")
    job.cancel()
    again, _, _ = office.ask(f"hold {gate}")
    with pytest.raises(CancelledError):
        first.result(LIMIT_S)
    gate.touch()
    assert again.result(LIMIT_S) == f"hold {gate}"


def test_cancelling_a_queued_job_takes_it_out_of_the_queue(office: Office) -> None:
    gate = office.folder / "gate"
    first, _, _ = office.ask(f"hold {gate}")
    office.started(f"hold {gate}")
    waiting, job, heard = office.ask("echo unwanted")
    wait_for(lambda: any(progress.queue_position == 1 for progress in heard))
    cancelled(job, waiting)
    office.queued(0)
    gate.touch()
    first.result(LIMIT_S)
    office.now("echo after")
    assert "start echo unwanted" not in office.lines()


def test_a_long_job_can_be_cancelled_while_a_click_is_answered(office: Office) -> None:
    never, click = office.folder / "never", office.folder / "click"
    long, job, _ = office.ask(f"long {never}", priority=Priority.LONG)
    office.started(f"long {never}")
    clicked, _, _ = office.ask(f"hold {click}")
    office.started(f"hold {click}")
    cancelled(job, long)
    click.touch()
    assert clicked.result(LIMIT_S) == f"hold {click}"
    assert office.now("echo after") == "echo after"


def test_a_cancelled_job_that_does_not_stop_ends_the_worker(
    make_office: Callable[..., Office],
) -> None:
    office = make_office(cancel_grace_s=0.2)
    never = office.folder / "never"
    answer, job, _ = office.ask(f"stuck {never}")
    office.started(f"stuck {never}")
    pid = office.service.status().worker_pid
    queued = office.ask("echo survivor")[0]
    cancelled(job, answer)
    assert queued.result(LIMIT_S) == "echo survivor"
    assert office.service.status().worker_pid != pid


def test_work_without_steps_is_cancelled_at_its_checks(
    make_office: Callable[..., Office],
) -> None:
    office = make_office(cancel_grace_s=LIMIT_S)
    never = office.folder / "never"
    answer, job, _ = office.ask(f"look {never}")
    office.started(f"look {never}")
    pid = office.service.status().worker_pid
    cancelled(job, answer)
    assert office.now("echo next") == "echo next"
    assert office.service.status().worker_pid == pid


def test_a_deadline_ends_the_request_and_the_work(office: Office) -> None:
    never = office.folder / "never"
    with pytest.raises(DeadlineError, match=r"0\.2 seconds"):
        office.now(f"hold {never}", deadline_s=0.2)
    assert office.now("echo next") == "echo next"


def test_users_take_turns(office: Office) -> None:
    gate = office.folder / "gate"
    first, _, _ = office.ask(f"hold {gate}", user="anna")
    office.started(f"hold {gate}")
    answers = []
    for number, (text, user) in enumerate([("a1", "anna"), ("a2", "anna"), ("b1", "ben")]):
        answers.append(office.ask(f"echo {text}", user=user)[0])
        office.queued(number + 1)
    gate.touch()
    for answer in [first, *answers]:
        answer.result(LIMIT_S)
    starts = [line for line in office.lines() if line.startswith("start echo")]
    assert starts == ["start echo b1", "start echo a1", "start echo a2"]


def test_a_full_queue_refuses_with_a_message(make_office: Callable[..., Office]) -> None:
    office = make_office(limits=Limits(max_queue=1))
    gate = office.folder / "gate"
    first, _, _ = office.ask(f"hold {gate}")
    office.started(f"hold {gate}")
    second, _, _ = office.ask("echo waits")
    office.queued(1)
    with pytest.raises(BusyError):
        office.now("echo too many")
    gate.touch()
    assert (first.result(LIMIT_S), second.result(LIMIT_S)) == (f"hold {gate}", "echo waits")


def test_errors_keep_their_type_and_defects_reveal_nothing(office: Office) -> None:
    with pytest.raises(PromptError, match="9 tokens"):
        office.now("prompt x")
    with pytest.raises(AnalysisError) as caught:
        office.now("bug x")
    assert "on purpose" not in str(caught.value)
    assert office.now("echo alive") == "echo alive"


def test_a_worker_that_cannot_start_fails_every_request(
    make_office: Callable[..., Office],
) -> None:
    office = make_office()
    office.service.close()
    broken = Service(
        ServiceSettings(memo=False, function="tests.support.no_such_module:perform"),
        lambda model, dtype: "f",
    )
    for _ in range(3):
        with pytest.raises(WorkerStoppedError, match="could not start"):
            broken.ask("fake", RunSpec("fake", "echo x"))
    broken.close()


def test_closing_fails_waiting_requests_and_ends_the_worker(office: Office) -> None:
    never = office.folder / "never"
    running, _, _ = office.ask(f"hold {never}")
    office.started(f"hold {never}")
    waiting, _, _ = office.ask("echo x")
    office.queued(1)
    pid = office.service.status().worker_pid
    assert pid is not None
    office.service.close()
    for answer in (running, waiting):
        with pytest.raises(CancelledError, match="shutting down"):
            answer.result(LIMIT_S)
    assert not psutil.pid_exists(pid)
    with pytest.raises(CancelledError):
        office.service.ask("fake", RunSpec("fake", "echo late"))


PARENT = """
import sys, threading
from analysis.service import Service, ServiceSettings
from analysis.tracing.specs import RunSpec
service = Service(ServiceSettings(memo=False, function={fake!r}), lambda model, dtype: "f")
service.ask("fake", RunSpec("fake", "echo x"))
print(service.status().worker_pid, flush=True)
service.ask("fake", RunSpec("fake", {text!r}))
"""


@pytest.mark.parametrize("verb", ["hold", "stuck"])
def test_the_worker_exits_with_its_parent_even_in_the_middle_of_work(
    tmp_path: Path, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "work.log"
    monkeypatch.setenv("FAKE_WORK_LOG", str(log))
    text = f"{verb} {tmp_path / 'never'}"
    script = PARENT.format(fake=FAKE, text=text)
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        wait_for(lambda: f"start {text}" in log.read_text())
        parent.kill()
        parent.wait(LIMIT_S)
    psutil.wait_procs([worker], timeout=LIMIT_S)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
