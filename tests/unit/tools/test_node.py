"""The tool that installs Node.js says clearly what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import node


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The program that STRATASCOPE_NODE names; a test writes what it prints."""
    path = tmp_path / "node"
    monkeypatch.setenv("STRATASCOPE_NODE", str(path))
    return path


def write_program(path: Path, version: str) -> None:
    path.write_text(f"#!/bin/sh\necho {version}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("version", ["v18.15.0", "v20.20.2", "v100.1.0"])
def test_a_suitable_version_is_used(
    named: Path, version: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_program(named, version)
    assert node.main() == 0
    assert capsys.readouterr().out == f"{named}\n"


@pytest.mark.parametrize("version", ["v12.22.9", "v18.14.2", "no version"])
def test_another_version_is_refused(
    named: Path, version: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_program(named, version)
    assert node.main() == 1
    assert f"{named} is Node.js {version}; the tests need 18.15" in capsys.readouterr().err


def test_a_named_program_that_does_not_exist_is_reported(
    named: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert node.main() == 1
    assert str(named) in capsys.readouterr().err


@pytest.mark.parametrize("installs", [False, True], ids=["nothing to install", "too old"])
def test_without_an_installer_the_advice_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], installs: bool
) -> None:
    def find() -> str:
        raise FileNotFoundError("None here.")

    monkeypatch.delenv("STRATASCOPE_NODE", raising=False)
    monkeypatch.setattr(node, "find", find)
    monkeypatch.setattr(node, "_from_debian", lambda: installs)
    assert node.main() == 1
    assert "Install Node.js 18.15 or later by hand" in capsys.readouterr().err
