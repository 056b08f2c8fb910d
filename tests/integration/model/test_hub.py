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
from threading import Event
from typing import Any

import pytest

from tests.support import fake_hub

SECRET = "not-a-real-one"  # noqa: S105
LOOK = """
import json, sys
from analysis.errors import AnalysisError
from analysis.model import fingerprint
try:
    fingerprint.fingerprint(sys.argv[1])  # what fails here fails before torch is imported
    from analysis.model import pretrained
    loaded = pretrained.load_pretrained(sys.argv[1], device="cpu")
    found = {"revision": loaded.revision, "source": loaded.source,
             "fingerprint": loaded.fingerprint, "layers": loaded.model.config.num_hidden_layers,
             "again": fingerprint.fingerprint(sys.argv[1])}
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


def around(home: Path, endpoint: str, *, offline: bool = False, token: str = "") -> dict[str, str]:
    """The environment in which a look finds this hub and no other."""
    environment = {
        **os.environ,
        "HF_HOME": str(home),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_OFFLINE": "1" if offline else "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    return {**environment, "HF_TOKEN": token} if token else environment


def look(
    source: str, home: Path, endpoint: str, *, offline: bool = False, token: str = ""
) -> dict[str, Any]:
    environment = around(home, endpoint, offline=offline, token=token)
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


def test_a_missing_repository_is_named(hub: fake_hub.FakeHub, tmp_path: Path) -> None:
    found = look("owner/other", tmp_path / "home", hub.address)
    assert found["kind"] == "ModelLoadError"
    assert "The hub has no owner/other" in found["told"]


def test_an_unreachable_hub_is_reported(tmp_path: Path) -> None:
    found = look(fake_hub.REPOSITORY, tmp_path / "home", "http://127.0.0.1:9")
    assert found["kind"] == "ModelLoadError"
    assert "can't be reached" in found["told"]


def test_an_interrupted_download_is_resumed(hub: fake_hub.FakeHub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    whole = look(fake_hub.REPOSITORY, home, hub.address)
    (link,) = home.rglob("snapshots/*/model.safetensors")
    blob = link.resolve()
    link.unlink()
    blob.unlink(missing_ok=True)
    offline = look(fake_hub.REPOSITORY, home, hub.address, offline=True)
    assert offline["kind"] == "ModelLoadError"
    assert look(fake_hub.REPOSITORY, home, hub.address) == whole


def test_a_gated_model_is_reported_and_a_token_opens_it(
    hub: fake_hub.FakeHub, tmp_path: Path
) -> None:
    hub.token = SECRET
    found = look(fake_hub.REPOSITORY, tmp_path / "home", hub.address)
    assert found["kind"] == "ModelLoadError"
    assert "Access to owner/tiny on the hub is restricted" in found["told"]
    assert "HF_TOKEN" in found["told"]
    pinned = f"{fake_hub.REPOSITORY}@{fake_hub.COMMIT}"
    opened = look(pinned, tmp_path / "home", hub.address, token=SECRET)
    assert (opened["revision"], opened["source"]) == (fake_hub.COMMIT, pinned)
    assert SECRET not in json.dumps(opened)


def test_a_killed_load_leaves_nothing_broken(hub: fake_hub.FakeHub, tmp_path: Path) -> None:
    home, hub.halt = tmp_path / "home", Event()
    arguments = [sys.executable, "-c", LOOK, fake_hub.REPOSITORY]
    with subprocess.Popen(arguments, env=around(home, hub.address)) as process:
        assert hub.half_sent.wait(120), "the weights were never asked for"
        process.kill()
    hub.halt.set()
    hub.halt = None
    offline = look(fake_hub.REPOSITORY, home, hub.address, offline=True)
    assert offline["kind"] == "ModelLoadError"
    assert "can't be reached" in offline["told"]
    assert look(fake_hub.REPOSITORY, home, hub.address)["layers"] == 3


def test_a_model_that_is_too_large_is_not_fetched(
    hub: fake_hub.FakeHub, repository: Path, tmp_path: Path
) -> None:
    config = json.loads((repository / "config.json").read_text())
    config |= {"num_hidden_layers": 2, "intermediate_size": 1 << 40}
    (repository / "config.json").write_text(json.dumps(config))
    found = look(fake_hub.REPOSITORY, tmp_path / "home", hub.address)
    assert found["kind"] == "ModelLoadError"
    assert "GB in float32, and" in found["told"]
    assert not any(path.endswith(".safetensors") for path in hub.asked)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_a_hub_adapter_is_fetched_for_a_local_base(tiny_llama_dir: Path, tmp_path: Path) -> None:
    from tests.support import adapters

    adapters.write(tmp_path / "adapter", tiny_llama_dir, target_modules=["q_proj"])
    with fake_hub.serving(tmp_path / "adapter") as hub:
        found = look(f"{tiny_llama_dir}+{fake_hub.REPOSITORY}", tmp_path / "home", hub.address)
        assert found["source"] == f"{tiny_llama_dir}+{fake_hub.REPOSITORY}"
        assert found["fingerprint"] == found["again"]
        alone = look(fake_hub.REPOSITORY, tmp_path / "home", hub.address)
    assert "base+adapter" in alone["told"]
