"""Models of a hub, against one on loopback: the client reads its settings once, so each
look runs in a process of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import fake_hub

LOOK = """
import json, sys
from analysis.errors import AnalysisError
from analysis.models import catalog, loading
try:
    loaded = loading.load_pretrained(sys.argv[1], device="cpu")
    found = {"revision": loaded.revision, "source": loaded.source,
             "fingerprint": loaded.fingerprint, "layers": loaded.model.config.num_hidden_layers,
             "again": catalog.fingerprint(sys.argv[1])}
except AnalysisError as error:
    found = {"kind": type(error).__name__, "told": str(error)}
print(json.dumps(found))
"""


@pytest.fixture
def repository(tiny_llama_dir: Path, tmp_path: Path) -> Path:
    """A model's files, with some beside them that must not be fetched."""
    folder = shutil.copytree(tiny_llama_dir, tmp_path / "repository")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "modeling_tiny.py").write_text("raise SystemExit('executed')")
    return folder


@pytest.fixture
def hub(repository: Path) -> Iterator[fake_hub.FakeHub]:
    with fake_hub.serving(repository) as running:
        yield running


def look(source: str, home: Path, endpoint: str, *, offline: bool = False) -> dict[str, Any]:
    environment = {
        **os.environ,
        "HF_HOME": str(home),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_OFFLINE": "1" if offline else "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", LOOK, source],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_hub_model_is_fetched_once_and_then_needs_no_hub(
    hub: fake_hub.FakeHub, tmp_path: Path
) -> None:
    first = look(fake_hub.REPOSITORY, tmp_path / "home", hub.address)
    assert first["revision"] == fake_hub.COMMIT
    assert first["layers"] == 3
    assert first["fingerprint"] == first["again"]
    fetched = {path.rpartition("/")[2] for path in hub.asked if "/resolve/" in path}
    assert "model.safetensors" in fetched
    assert not fetched & {"pytorch_model.bin", "modeling_tiny.py"}
    hub.asked.clear()
    assert look(fake_hub.REPOSITORY, tmp_path / "home", hub.address) == first
    assert look(fake_hub.REPOSITORY, tmp_path / "home", hub.address, offline=True) == first
    assert hub.asked == []


def test_a_hub_model_with_pickled_weights_only_is_refused(
    hub: fake_hub.FakeHub, repository: Path, tmp_path: Path
) -> None:
    (repository / "model.safetensors").unlink()
    found = look(fake_hub.REPOSITORY, tmp_path / "home", hub.address)
    assert found["kind"] == "ModelLoadError"
    assert "has no safetensors weights" in found["told"]
    assert not any(path.endswith(".bin") for path in hub.asked)


def test_a_repository_that_is_not_there_is_named(hub: fake_hub.FakeHub, tmp_path: Path) -> None:
    found = look("owner/other", tmp_path / "home", hub.address)
    assert found["kind"] == "ModelLoadError"
    assert "The hub has no owner/other" in found["told"]


def test_a_hub_that_cannot_be_reached_is_told(tmp_path: Path) -> None:
    found = look(fake_hub.REPOSITORY, tmp_path / "home", "http://127.0.0.1:9")
    assert found["kind"] == "ModelLoadError"
    assert "can't be reached" in found["told"]


def test_a_fetch_that_was_cut_off_goes_on(hub: fake_hub.FakeHub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    whole = look(fake_hub.REPOSITORY, home, hub.address)
    (link,) = home.rglob("snapshots/*/model.safetensors")
    blob = link.resolve()
    link.unlink()
    blob.unlink(missing_ok=True)
    offline = look(fake_hub.REPOSITORY, home, hub.address, offline=True)
    assert offline["kind"] == "ModelLoadError"
    assert look(fake_hub.REPOSITORY, home, hub.address) == whole
