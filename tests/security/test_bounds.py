"""Everything that could grow without limit has a setting and a message."""

from __future__ import annotations

import contextvars
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from analysis.contract.jobs import current_user
from analysis.errors import BusyError, PromptError, SpecError
from analysis.lens.specs import LensSpec
from analysis.service import Service
from analysis.store.memo import Memo
from analysis.tasks.suite_specs import SuiteSpec
from analysis.tracing.specs import RunSpec, TraceSpec
from analysis.worker.messages import Limits, Request, ServiceSettings
from analysis.worker.queue import Computation, CrashHistory, FairQueue
from dash_app.security.clients import LocalBuckets, Rate
from dash_app.server import server
from dash_app.settings import MIB, Settings
from tests.support.repository import ROOT


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Service]:
    """A service as the server creates it, with low limits."""
    chosen = Settings(
        data_dir=tmp_path, cache_dir=tmp_path, max_prompt_tokens=4, max_new_tokens=2,
        max_suite_prompts=5, max_queue=1,
    )  # fmt: skip
    service = Service(server.service_settings(chosen), fingerprint=lambda name, _: name)
    yield service
    service.close()


def test_a_prompt_over_the_limit(small: Service) -> None:
    with pytest.raises(PromptError, match="STRATASCOPE_MAX_PROMPT_TOKENS"):
        small.ask("fake", RunSpec("fake", "word " * 1000))


def test_more_new_tokens_than_allowed(small: Service) -> None:
    with pytest.raises(SpecError, match="STRATASCOPE_MAX_NEW_TOKENS"):
        small.ask("fake", RunSpec("fake", "a", new_tokens=3))


def test_a_sequence_over_the_limit(small: Service) -> None:
    """Token ids come from the page: they are counted as well."""
    with pytest.raises(PromptError, match="STRATASCOPE_MAX_PROMPT_TOKENS"):
        small.ask(TraceSpec("fake", (1,) * 7), LensSpec())


def test_a_suite_over_the_limit(small: Service) -> None:
    with pytest.raises(SpecError, match="STRATASCOPE_MAX_SUITE_PROMPTS"):
        small.ask("fake", SuiteSpec("fake", "facts", size=6))


def test_a_full_queue_is_reported() -> None:
    from analysis.worker.messages import Request
    from analysis.worker.supervisor import Supervisor

    supervisor = Supervisor("tests.support.fake_work:perform", Limits(max_queue=0), lambda *_: None)
    with pytest.raises(BusyError, match="waiting"):
        supervisor.join("key", Request("run", "fake", "f", (RunSpec("fake", "echo"),)), "user", 0)
    supervisor.close()


def test_the_memo_stays_under_its_limit(tmp_path: Path) -> None:
    limit = 2 * MIB
    memo = Memo(tmp_path / "memo", limit, memory_limit=MIB)
    for number in range(40):
        memo.put(f"key {number}", os.urandom(100_000))
    memo.flush()
    status = memo.status()
    assert status.bytes_used <= limit * 1.2
    assert 0 < status.entries < 40
    memo.put("huge", b"x" * (limit + 1))  # larger than all of it: not kept, and nothing breaks
    memo.flush()
    assert memo.status().problem == ""
    memo.close()


def test_one_user_cannot_displace_the_results_and_uploads_of_others(tmp_path: Path) -> None:
    limits = Limits(memo_bytes=4 * MIB, recent_bytes=0)
    service = Service(ServiceSettings(limits=limits, cache_dir=tmp_path), lambda *_: "f")
    memo = service._memo
    try:
        as_user("b", lambda: service.keep("prompts of b"))
        memo.put("result of b", os.urandom(100_000), "b")
        greedy = [f"result {number} of a" for number in range(80)]
        for key in greedy:
            memo.put(key, os.urandom(100_000), "a")
        lists = [as_user("a", lambda: service.keep(os.urandom(50_000).hex())) for _ in range(80)]
        memo.flush()
        name = hashlib.sha256(b"prompts of b").hexdigest()
        assert service.kept(name) == "prompts of b"
        assert memo.get("result of b") is not None
        assert service.kept(lists[-1]) is not None  # the newest of each user stays
        assert sum(memo.get(key) is not None for key in greedy) <= 10
        assert memo.status().bytes_used <= 2 * MIB
    finally:
        service.close()


def as_user(name: str, work: Callable[[], str]) -> str:
    """Work in a context of its own, as a request of this user does."""
    context = contextvars.copy_context()
    context.run(current_user.set, name)
    return context.run(work)


def test_a_result_belongs_to_whoever_asked_for_it(tmp_path: Path) -> None:
    settings = ServiceSettings(
        limits=Limits(recent_bytes=0),
        cache_dir=tmp_path,
        function="tests.support.fake_work:perform",
    )
    owners = []
    with Service(settings, lambda *_: "f") as service:
        service._memo.put = lambda key, data, owner="": owners.append(owner)  # type: ignore[method-assign]
        as_user("a", lambda: str(service.ask("fake", RunSpec("fake", "echo x"))))
    assert owners == ["a"]


def test_what_clients_can_add_to_has_an_end(tmp_path: Path) -> None:
    """Each store gets more names than it keeps; the number of its entries stays below its bound."""
    buckets, crashes, queue = LocalBuckets(), CrashHistory(), FairQueue()
    memo = Memo(tmp_path / "memo", MIB, memory_limit=10_000)
    for number in range(20_200):
        buckets.take(f"address {number}", Rate(1, 1))
    for number in range(1_100):
        crashes.add(f"key {number}")
        request = Request("run", "fake", "f", (RunSpec("fake", "echo"),))
        queue.add(Computation(number, f"key {number}", request), f"user {number}", 0)
        assert queue.pop()
        memo.put(f"key {number}", os.urandom(100), f"user {number}")
    memo.flush()
    assert len(buckets._kept) <= 20_000
    assert len(crashes._crashes) <= 256
    assert len(queue) == 0
    assert len(queue._served) <= 1_000
    assert len(memo._written) <= 256
    assert memo._recent.used <= 10_000
    memo.close()


def test_limits_reach_the_code_that_applies_them(tmp_path: Path) -> None:
    chosen = Settings(
        data_dir=tmp_path, cache_dir=tmp_path, memo_mib=17, tasks_mib=18, traces_mib=19,
        resident_mib=65, deadline_s=7, max_queue=3,
    )  # fmt: skip
    limits = server.service_settings(chosen).worker_limits()
    assert limits.memo_bytes == 17 * MIB
    assert limits.max_queue == 3
    assert limits.deadline_s == 7
    assert limits.task_bytes == 18 * MIB
    assert limits.trace_bytes == 19 * MIB
    assert limits.model_bytes == 65 * MIB
    assert limits.tasks == str(tmp_path / "tasks")


def test_a_limit_has_one_default() -> None:
    assert server.service_settings(Settings()).limits == Limits()


def test_the_largest_upload_fits_into_a_request() -> None:
    """Base64 is a third larger. A list over the limit gets a message, not status 413."""
    fields = Settings.model_fields
    assert fields["max_list_kib"].default * 4 / 3 < fields["max_body_kib"].default


def test_every_setting_is_read_somewhere() -> None:
    code = "\n".join(
        path.read_text(encoding="utf-8")
        for part in ("analysis", "dash_app")
        for path in (ROOT / part).rglob("*.py")
        if path.name != "settings.py" or part == "analysis"
    )
    code += (ROOT / "dash_app" / "settings.py").read_text().partition("def limits(")[2]
    unread = [
        name
        for name in Settings.model_fields
        if not re.search(rf"\.{name}\b|STRATASCOPE_{name.upper()}\b", code)
    ]
    assert not unread


def test_every_setting_has_a_meaning_and_a_usable_default() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert len(field.description) > 15, name
    Settings()
