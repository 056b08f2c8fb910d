"""Results that no page fetches do not fill the memory."""

from __future__ import annotations

import pytest

from dash_app.jobs import manager as manager_module
from dash_app.jobs.manager import BackgroundJob, JobManager


def test_jobs_that_no_page_fetches_are_few_for_each_user_and_in_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(manager_module, "_KEPT_OF_USER", 3)
    monkeypatch.setattr(manager_module, "_KEPT", 5)
    manager = JobManager()

    def ended(user: str, count: int) -> list[str]:
        """End jobs of a user; return those that are still known."""
        keys = [f"{user}-{place}" for place in range(count)]
        for key in keys:
            manager._jobs[key] = job = BackgroundJob(key, user)
            manager._finish(job, "1")
        manager._pruned = 0.0
        manager._prune()
        return [key for key in keys if not manager.is_lost(key)]

    assert ended("ben", 2) == ["ben-0", "ben-1"]
    assert ended("anna", 50) == ["anna-47", "anna-48", "anna-49"]
    assert not manager.is_lost("ben-0"), "ben's share is his own"
    assert len(ended("carl", 50)) == 3
    assert len(manager._jobs) == 5
    assert sum(manager._results.get(f"anna-{place}") is not None for place in range(50)) == 2
    manager.close()
