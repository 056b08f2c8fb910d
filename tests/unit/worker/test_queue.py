"""The order of the queue."""

from __future__ import annotations

import pytest

from analysis.contract.jobs import Priority
from analysis.errors import WorkerStoppedError
from analysis.worker import queue as queue_module
from analysis.worker.messages import Request
from analysis.worker.queue import Computation, CrashHistory, FairQueue, Stopwatch


def computation(name: str) -> Computation:
    return Computation(0, name, Request("run", "m", "f"))


def drained(queue: FairQueue) -> list[str]:
    names = []
    while entries := queue.pop():
        names.append(entries[0].computation.key)
    return names


def test_interactive_work_goes_first_and_users_take_turns() -> None:
    queue = FairQueue()
    for name in ("a1", "a2", "a3"):
        queue.add(computation(name), "anna", Priority.INTERACTIVE)
    queue.add(computation("long"), "ben", Priority.LONG)
    queue.add(computation("b1"), "ben", Priority.INTERACTIVE)
    queue.add(computation("c1"), "cleo", Priority.INTERACTIVE)
    assert queue.first_priority() == Priority.INTERACTIVE
    assert drained(queue) == ["a1", "b1", "c1", "a2", "a3", "long"]
    assert queue.first_priority() is None


def test_a_user_who_was_just_served_goes_behind_the_others() -> None:
    queue = FairQueue()
    queue.add(computation("a1"), "anna", Priority.INTERACTIVE)
    assert drained(queue) == ["a1"]
    queue.add(computation("a2"), "anna", Priority.INTERACTIVE)
    queue.add(computation("b1"), "ben", Priority.INTERACTIVE)
    assert drained(queue) == ["b1", "a2"]


def test_positions_are_the_order_of_service() -> None:
    queue = FairQueue()
    waiting = {name: computation(name) for name in ("a1", "a2", "b1", "long")}
    queue.add(waiting["long"], "ben", Priority.LONG)
    queue.add(waiting["a1"], "anna", Priority.INTERACTIVE)
    queue.add(waiting["a2"], "anna", Priority.INTERACTIVE)
    queue.add(waiting["b1"], "ben", Priority.INTERACTIVE)
    positions = {name: queue.position(one) for name, one in waiting.items()}
    assert positions == {"a1": 0, "b1": 1, "a2": 2, "long": 3}
    assert sorted(positions, key=positions.__getitem__) == drained(queue)


def test_a_shared_computation_runs_once_at_its_best_place() -> None:
    queue = FairQueue()
    shared = computation("shared")
    for name in ("a1", "a2"):
        queue.add(computation(name), "anna", Priority.INTERACTIVE)
    queue.add(shared, "anna", Priority.LONG)
    queue.add(shared, "ben", Priority.INTERACTIVE)
    assert len(queue) == 3
    assert queue.position(shared) == 1
    assert drained(queue) == ["a1", "shared", "a2"]


def test_withdrawing_one_request_keeps_the_others() -> None:
    queue = FairQueue()
    shared = computation("shared")
    mine = queue.add(shared, "anna", Priority.INTERACTIVE)
    queue.add(shared, "ben", Priority.LONG)
    queue.withdraw(mine)
    assert queue.first_priority() == Priority.LONG
    queue.drop(shared)
    assert len(queue) == 0


def test_a_returned_entry_keeps_its_place() -> None:
    queue = FairQueue()
    queue.add(computation("a1"), "anna", Priority.INTERACTIVE)
    queue.add(computation("a2"), "anna", Priority.INTERACTIVE)
    queue.put_back(queue.pop())
    assert drained(queue) == ["a1", "a2"]


def test_users_without_recent_requests_are_forgotten() -> None:
    queue = FairQueue()
    for number in range(1100):
        queue.add(computation("x"), f"user {number}", Priority.INTERACTIVE)
        queue.pop()
    assert len(queue._served) <= 1000


def test_a_request_that_killed_the_worker_twice_is_refused() -> None:
    blame = CrashHistory()
    blame.add("k")
    blame.check("k")
    blame.add("k")
    with pytest.raises(WorkerStoppedError, match="2 times"):
        blame.check("k")
    blame.check("other")
    blame.clear("k")
    blame.check("k")


def test_blame_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(queue_module.time, "monotonic", lambda: now[0])
    blame = CrashHistory(forget_s=60)
    blame.add("k")
    blame.add("k")
    now[0] += 61
    blame.check("k")
    blame.add("k")
    blame.check("k")


def test_the_stopwatch_counts_computing_time_only() -> None:
    now = [0.0]
    watch = Stopwatch(lambda: now[0])
    watch.start()
    now[0] = 2.0
    assert (watch.seconds, watch.running) == (2.0, True)
    watch.stop()
    now[0] = 10.0
    watch.start()
    watch.start()
    now[0] = 11.0
    watch.stop()
    watch.stop()
    assert (watch.seconds, watch.running) == (3.0, False)
