"""The Procfile's command serves a page and stops completely."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.dash_page import Page
from tests.support.scaled import wait_for

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.full, pytest.mark.real]


def line(name: str) -> list[str]:
    """The command of a process type, run by this environment's interpreter."""
    entries = dict(entry.split(": ", 1) for entry in (ROOT / "Procfile").read_text().splitlines())
    program, *rest = shlex.split(entries[name])
    return [str(Path(sys.executable).parent / program), *rest]


@pytest.fixture
def port() -> int:
    """A free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def web(port: int, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The process type ``web``."""
    environment = {
        **os.environ,
        "STRATASCOPE_CACHE_DIR": str(tmp_path),
        "STRATASCOPE_DEFAULT_MODEL": "addition-5digit",
    }
    command = [*line("web"), "--bind", f"127.0.0.1:{port}"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL) as process:
        yield process
        process.kill()


def listening(port: int) -> bool:
    """Whether a server answers there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_command_of_the_procfile_serves_the_page(
    web: subprocess.Popen[bytes], port: int
) -> None:
    wait_for(lambda: listening(port))
    page = Page(f"http://127.0.0.1:{port}/")
    page.open("?prompt=54321%2B12345%3D&new=6")
    assert page.props["run.data"]["prompt"] == "54321+12345="
    page.run("11111+22222=", 6)
    assert page.props["run.data"]["prompt"] == "11111+22222="
    page.close()
    everything = psutil.Process(web.pid).children(recursive=True)
    web.send_signal(signal.SIGTERM)
    assert web.wait(60) == 0
    wait_for(lambda: not any(each.is_running() for each in everything))
