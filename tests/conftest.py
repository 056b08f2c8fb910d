"""Fixtures that several kinds of tests share.

Nothing heavy is imported at the top: tests of figures and layout run without torch.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Two spinning threads on a busy machine are several times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# A test that uses the hub is a bug and must fail at once.
os.environ["HF_HUB_OFFLINE"] = "1"
# No deadline for examples: a busy machine can be slow.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Print the exit status of a test process that died: -9 is a kill, for example for memory."""
    if error:
        import psutil

        with suppress(AttributeError, subprocess.TimeoutExpired):  # xdist does not report it
            code = node.gateway._io.popen.wait(10)
            free, whole = (value >> 20 for value in psutil.virtual_memory()[1::-1])
            print(f"\n{node.gateway.id}: exit status {code}, {free} of {whole} MiB free")


@pytest.fixture(scope="session")
def default_model_dir() -> Path:
    """Folder of the converted default model; convert it if necessary."""
    from analysis.model import default_model

    return default_model.ensure()


@pytest.fixture(scope="session")
def tiny_gpt2_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small random GPT-2 with its tokenizer."""
    from tests.support import tiny

    return tiny.save(tiny.tiny_gpt2(), tmp_path_factory.mktemp("tiny-gpt2"))


@pytest.fixture(scope="session")
def tiny_llama_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small random Llama (grouped-query) with its tokenizer."""
    from tests.support import tiny

    return tiny.save(tiny.tiny_llama(), tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder for this test alone."""
    folder = tmp_path / "data"
    monkeypatch.setenv("STRATASCOPE_DATA_DIR", str(folder))
    return folder


@pytest.fixture
def cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty memo folder for this test alone."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("STRATASCOPE_CACHE_DIR", str(folder))
    return folder


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium, one for all browser tests."""
    from playwright.sync_api import sync_playwright

    from tests.support import chromium

    path = chromium.find()
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=chromium.FLAGS)
        yield running
        running.close()
