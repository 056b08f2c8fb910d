"""Settings of scale-out that cannot work are refused with a message."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.errors import SpecError
from analysis.scale.app import ScaleSettings
from dash_app import cli
from dash_app.server.server import build
from dash_app.settings import Settings


def test_several_web_processes_need_a_redis(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="2 web processes need Redis"):
        build(Settings(web_processes=2, cache_dir=tmp_path, data_dir=tmp_path))


def test_a_worker_needs_a_reachable_redis(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.delenv("STRATASCOPE_REDIS_URL", raising=False)
    assert cli.main(["worker"]) == 1
    assert "STRATASCOPE_REDIS_URL" in capsys.readouterr().err
    monkeypatch.setenv("STRATASCOPE_REDIS_URL", f"unix://{tmp_path}/nobody.sock")
    monkeypatch.setenv("STRATASCOPE_CACHE_DIR", str(tmp_path))
    assert cli.main(["worker"]) == 1
    assert "Redis can't be reached" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "broker"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("rediss://:pw@h:1/0", "rediss://:pw@h:1/0"),
        ("unix:///run/redis.sock", "redis+socket:///run/redis.sock"),
    ],
)
def test_addresses_are_translated_for_celery(url: str, broker: str) -> None:
    assert ScaleSettings(url).broker == broker


def test_the_address_is_not_shown_because_it_may_contain_a_password() -> None:
    shown = repr(Settings(redis_url="redis://:secret@h:1/0"))
    assert "secret@" not in shown
