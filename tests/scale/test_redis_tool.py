"""The tool that installs a Redis server says clearly what is missing."""

from __future__ import annotations

import pytest

from tools import redis


def test_a_missing_named_server_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STRATASCOPE_REDIS_SERVER", "/no/such/redis-server")
    assert redis.main() == 1
    assert "/no/such/redis-server" in capsys.readouterr().err


def test_without_any_server_the_message_is_clear(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nowhere() -> str:
        raise FileNotFoundError("No redis-server is here.")

    monkeypatch.delenv("STRATASCOPE_REDIS_SERVER", raising=False)
    monkeypatch.setattr(redis, "find", nowhere)
    monkeypatch.setattr(redis, "_from_debian", lambda: False)
    assert redis.main() == 1
    assert "could not be installed" in capsys.readouterr().err
