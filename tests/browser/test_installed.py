"""An installed wheel serves the whole page, without the checkout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.support.repository import ROOT
from tests.support.servers import ADDRESS, loaded
from tests.support.time_limits import PATIENCE_MS

pytestmark = [pytest.mark.browser, pytest.mark.real, pytest.mark.full]


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` folder of a fresh environment with the wheel; other packages are shared.

    A ``.pth`` file adds this environment's packages, but not its editable install: Python does not
    read the ``.pth`` files of a folder that was added by one.
    """
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    source.mkdir()
    for name in run("git", "ls-files", cwd=ROOT).splitlines():
        if name.startswith(("analysis", "assets", "dash_app", "docs/glossary")) or "/" not in name:
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    run(
        sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder,
        source, cwd=folder,
    )  # fmt: skip
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    (packages,) = (folder / "venv" / "lib").glob("python3*/site-packages")
    (packages / "shared.pth").write_text(sysconfig.get_paths()["purelib"])
    (wheel,) = folder.glob("*.whl")
    run(folder / "venv/bin/python", "-m", "pip", "install", "--no-deps", wheel, cwd=folder)
    return folder / "venv" / "bin"


@pytest.fixture(scope="module")
def served(installed: Path, default_model_dir: Path) -> Iterator[str]:
    """The address of the installed page."""
    folder = installed.parents[1]
    environment = {**os.environ, "STRATASCOPE_CACHE_DIR": str(folder / "cache")}
    environment.pop("PYTHONPATH", None)
    log = folder / "server.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [installed / "stratascope", "serve", "--port", "0"],
            cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            lines = iter(process.stdout.readline, "")
            found = next((match for line in lines if (match := ADDRESS.search(line))), None)
            assert found is not None, log.read_text()
            url = found[0].rstrip("/") + "/"
            loaded(url, log)
            yield url
        finally:
            process.terminate()
            process.wait(60)
            process.stdout.close()


def test_the_checkout_is_not_on_the_path(installed: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    code = "import analysis, dash_app; print(analysis.__file__, dash_app.__file__)"
    done = subprocess.run(
        [installed / "python", "-c", code],
        cwd=installed, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert all(str(installed.parents[1]) in path for path in done.stdout.split())


def test_the_installed_page_draws_the_heatmap_with_every_asset(served: str, browser: Any) -> None:
    page = browser.new_context(viewport={"width": 1280, "height": 720}).new_page()
    page.set_default_timeout(PATIENCE_MS)
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("response", lambda answer: answer.status >= 400 and problems.append(answer.url))
    page.goto(served)
    expect(page.locator("#lens-graph .heatmaplayer image").first).to_be_visible(timeout=PATIENCE_MS)
    assert page.evaluate("getComputedStyle(document.body).fontFamily").startswith(("Inter", '"Int'))
    assert problems == []
    page.context.close()


def test_the_installed_command_checks_a_model(installed: Path, tiny_llama_dir: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [installed / "stratascope", "check", tiny_llama_dir],
        cwd=installed, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"every identity holds", done.stdout)
