"""A model worker that hangs is replaced, and whoever waits for it gets an answer or an error."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import pytest

from analysis.errors import AnalysisError, CancelledError, WorkerStoppedError
from analysis.worker.messages import Limits
from tests.support.office import Office, make_office
from tests.support.repository import ROOT
from tests.support.scaled import FAKE, LIMIT_S, wait_for

__all__ = ["make_office"]

Recovery = Callable[[str], AbstractContextManager[None]]


@pytest.fixture
def office(make_office: Callable[..., Office]) -> Office:
    """A service that replaces its worker after five seconds without a sign of life."""
    return make_office(limits=Limits(silence_s=5.0, max_prompt_tokens=1 << 20))


def hung(office: Office) -> psutil.Process:
    """The worker, stopped: it neither ends nor answers."""
    office.now("echo ready")
    pid = office.service.status().worker_pid
    assert pid is not None
    worker = psutil.Process(pid)
    worker.send_signal(signal.SIGSTOP)
    return worker


@pytest.mark.full
def test_a_worker_that_hangs_before_a_request_is_replaced(
    office: Office, recovery: Recovery
) -> None:
    worker = hung(office)
    with recovery("model worker hangs before a request: the answer"):
        assert office.now("echo x") == "echo x"
    assert not worker.is_running()


def test_a_worker_that_hangs_in_a_computation_is_replaced(
    office: Office, recovery: Recovery
) -> None:
    gate = office.folder / "gate"
    running, _, _ = office.ask(f"hold {gate}")
    office.started(f"hold {gate}")
    waiting, _, _ = office.ask("echo waits")
    office.queued(1)
    pid = office.service.status().worker_pid
    assert pid is not None
    psutil.Process(pid).send_signal(signal.SIGSTOP)
    with (
        recovery("model worker hangs in a computation: its user is told"),
        pytest.raises(WorkerStoppedError, match="stopped while it worked on this"),
    ):
        running.result(LIMIT_S)
    with recovery("model worker hangs in a computation: another's answer, after that"):
        assert waiting.result(LIMIT_S) == "echo waits"


@pytest.mark.full
def test_a_worker_that_hangs_in_an_answer_is_replaced(office: Office, recovery: Recovery) -> None:
    office.now("echo ready")
    text = f"half {office.folder / 'sent'}"
    with (
        recovery("model worker hangs in the middle of an answer: its user is told"),
        pytest.raises(WorkerStoppedError),
    ):
        office.now(text)
    assert office.now(text) == text


@pytest.mark.full
def test_a_large_request_to_a_hung_worker_keeps_nobody_waiting(
    office: Office, recovery: Recovery
) -> None:
    worker = hung(office)
    text = "echo " + "x" * (4 << 20)
    answer, _, _ = office.ask(text)
    with recovery("model worker hangs while a large request is sent: the status"):
        wait_for(lambda: office.service.status().queued == 0)
    with recovery("model worker hangs while a large request is sent: the answer"):
        assert answer.result(LIMIT_S) == text
    assert not worker.is_running()


def test_a_service_closes_while_its_worker_hangs(office: Office, recovery: Recovery) -> None:
    office.now("echo ready")
    pid = office.service.status().worker_pid
    answer, _, _ = office.ask(f"half {office.folder / 'sent'}")
    wait_for(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    with recovery("a server stops while its model worker hangs: all processes gone"):
        office.service.close()
    assert not psutil.pid_exists(pid)
    with pytest.raises((CancelledError, WorkerStoppedError)):
        answer.result(LIMIT_S)


PARENT = """
from analysis.service import Service, ServiceSettings
from analysis.tracing.specs import RunSpec
service = Service(ServiceSettings(memo=False, function={fake!r}), lambda model, dtype: "f")
service.ask("fake", RunSpec("fake", "echo x"))
print(service.status().worker_pid, flush=True)
input()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a stopped child")
def test_a_hung_worker_does_not_outlive_its_parent(tmp_path: Path) -> None:
    script = PARENT.format(fake=FAKE)
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        worker.send_signal(signal.SIGSTOP)
        parent.kill()
        parent.wait(LIMIT_S)
    wait_for(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)


def test_a_panic_in_a_computation_keeps_the_worker(office: Office) -> None:
    office.now("echo ready")
    pid = office.service.status().worker_pid
    with pytest.raises(AnalysisError, match="Something went wrong"):
        office.now("panic now")
    assert office.now("echo after") == "echo after"
    assert office.service.status().worker_pid == pid
