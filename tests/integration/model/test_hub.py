"""Models of a hub, against a fake one on loopback.

The hub's client reads its settings once, so each attempt runs in its own process.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from tests.support import fake_hub

SECRET = "not-a-real-one"  # noqa: S105
#: What one process does with a model's name: "fetch" downloads it, "load" also loads it with torch.
ATTEMPT = """
import json, sys
from analysis.errors import AnalysisError
from analysis.model import catalog, hub
source, how = sys.argv[1:]
try:
    found = {"fingerprint": catalog.fingerprint(source)}
    if how == "fetch":
        folder = hub.snapshot(source)
        hub.check_folder(folder)
        found |= {"revision": folder.name, "source": catalog.find(source).source,
                  "files": sorted(path.name for path in folder.iterdir())}
    else:
        from analysis.model import pretrained
        loaded = pretrained.load_pretrained(source, device="cpu")
        found |= {"revision": loaded.revision, "source": loaded.source,
                  "loaded": loaded.fingerprint, "layers": loaded.model.config.num_hidden_layers,
                  "again": catalog.fingerprint(source)}
except AnalysisError as error:
    found = {"kind": type(error).__name__, "message": str(error)}
print(json.dumps(found))
"""


@pytest.fixture
def repository(tiny_llama_dir: Path, tmp_path: Path) -> Path:
    """A model's files, and files that must not be fetched."""
    folder = shutil.copytree(tiny_llama_dir, tmp_path / "repository")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "modeling_tiny.py").write_text("raise SystemExit('executed')")
    return folder


@pytest.fixture
def hub(repository: Path) -> Iterator[fake_hub.FakeHub]:
    with fake_hub.serving(repository) as running:
        yield running


def environment(
    home: Path, endpoint: str, *, offline: bool = False, token: str = ""
) -> dict[str, str]:
    """The environment of a process that uses this hub and no other."""
    values = {
        **os.environ,
        "HF_HOME": str(home),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_OFFLINE": "1" if offline else "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    return {**values, "HF_TOKEN": token} if token else values


def attempt(how: str, source: str, home: Path, endpoint: str, **options: Any) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", ATTEMPT, source, how],
        env=environment(home, endpoint, **options),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


fetch, load = partial(attempt, "fetch"), partial(attempt, "load")


@pytest.mark.full
def test_a_hub_model_is_downloaded_once_and_then_needs_no_hub(
    hub: fake_hub.FakeHub, tmp_path: Path
) -> None:
    first = load(fake_hub.REPOSITORY, tmp_path / "home", hub.address)
    assert first["revision"] == fake_hub.COMMIT
    assert first["layers"] == 3
    assert first["fingerprint"] == first["loaded"] == first["again"]
    fetched = {path.rpartition("/")[2] for path in hub.paths if "/resolve/" in path}
    assert "model.safetensors" in fetched
    assert not fetched & {"pytorch_model.bin", "modeling_tiny.py"}
    hub.paths.clear()
    again = fetch(fake_hub.REPOSITORY, tmp_path / "home", hub.address)
    assert again["fingerprint"] == first["fingerprint"]
    assert load(fake_hub.REPOSITORY, tmp_path / "home", hub.address, offline=True) == first
    assert hub.paths == []


def test_a_hub_model_with_pickled_weights_only_is_refused(
    hub: fake_hub.FakeHub, repository: Path, tmp_path: Path
) -> None:
    (repository / "model.safetensors").unlink()
    found = fetch(fake_hub.REPOSITORY, tmp_path / "home", hub.address)
    assert found["kind"] == "ModelLoadError"
    assert "has no safetensors weights" in found["message"]
    assert not any(path.endswith(".bin") for path in hub.paths)


def test_a_missing_repository_is_named(hub: fake_hub.FakeHub, tmp_path: Path) -> None:
    found = fetch("owner/other", tmp_path / "home", hub.address)
    assert found["kind"] == "ModelLoadError"
    assert "The hub has no owner/other" in found["message"]


@pytest.mark.full
def test_an_unreachable_hub_is_reported(tmp_path: Path) -> None:
    found = fetch(fake_hub.REPOSITORY, tmp_path / "home", "http://127.0.0.1:9")
    assert found["kind"] == "ModelLoadError"
    assert "can't be reached" in found["message"]


def test_an_interrupted_download_is_resumed(hub: fake_hub.FakeHub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    whole = fetch(fake_hub.REPOSITORY, home, hub.address)
    (link,) = home.rglob("snapshots/*/model.safetensors")
    blob = link.resolve()
    link.unlink()
    blob.unlink(missing_ok=True)
    offline = fetch(fake_hub.REPOSITORY, home, hub.address, offline=True)
    assert offline["kind"] == "ModelLoadError"
    assert fetch(fake_hub.REPOSITORY, home, hub.address) == whole


def test_a_gated_model_is_reported_and_a_token_opens_it(
    hub: fake_hub.FakeHub, tmp_path: Path
) -> None:
    hub.token = SECRET
    found = fetch(fake_hub.REPOSITORY, tmp_path / "home", hub.address)
    assert found["kind"] == "ModelLoadError"
    assert "Access to owner/tiny on the hub is restricted" in found["message"]
    assert "HF_TOKEN" in found["message"]
    pinned = f"{fake_hub.REPOSITORY}@{fake_hub.COMMIT}"
    opened = fetch(pinned, tmp_path / "home", hub.address, token=SECRET)
    assert (opened["revision"], opened["source"]) == (fake_hub.COMMIT, pinned)
    assert SECRET not in json.dumps(opened)


def test_a_killed_download_leaves_nothing_broken(hub: fake_hub.FakeHub, tmp_path: Path) -> None:
    home, hub.halt = tmp_path / "home", Event()
    arguments = [sys.executable, "-c", ATTEMPT, fake_hub.REPOSITORY, "fetch"]
    with subprocess.Popen(arguments, env=environment(home, hub.address)) as process:
        assert hub.half_sent.wait(120), "no weights were requested"
        process.kill()
    hub.halt.set()
    hub.halt = None
    offline = fetch(fake_hub.REPOSITORY, home, hub.address, offline=True)
    assert offline["kind"] == "ModelLoadError"
    assert "can't be reached" in offline["message"]
    assert "model.safetensors" in fetch(fake_hub.REPOSITORY, home, hub.address)["files"]


@pytest.mark.full
def test_a_model_that_is_too_large_is_not_downloaded(
    hub: fake_hub.FakeHub, repository: Path, tmp_path: Path
) -> None:
    config = json.loads((repository / "config.json").read_text())
    config |= {"num_hidden_layers": 2, "intermediate_size": 1 << 40}
    (repository / "config.json").write_text(json.dumps(config))
    found = load(fake_hub.REPOSITORY, tmp_path / "home", hub.address)
    assert found["kind"] == "ModelLoadError"
    assert "GB in float32, and" in found["message"]
    assert not any(path.endswith(".safetensors") for path in hub.paths)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_a_hub_adapter_is_fetched_for_a_local_base(tiny_llama_dir: Path, tmp_path: Path) -> None:
    from tests.support import adapters

    adapters.write(tmp_path / "adapter", tiny_llama_dir, target_modules=["q_proj"])
    with fake_hub.serving(tmp_path / "adapter") as hub:
        found = load(f"{tiny_llama_dir}+{fake_hub.REPOSITORY}", tmp_path / "home", hub.address)
        assert found["source"] == f"{tiny_llama_dir}+{fake_hub.REPOSITORY}"
        assert found["fingerprint"] == found["loaded"] == found["again"]
        alone = fetch(fake_hub.REPOSITORY, tmp_path / "home", hub.address)
    assert "base+adapter" in alone["message"]
