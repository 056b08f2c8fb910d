"""Names of models, and fingerprints of their weights."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.errors import ModelLoadError, SpecError, UnknownModelError
from analysis.model import catalog, hub

DEFAULT = "smollm2-135m-instruct"


@pytest.fixture(autouse=True)
def no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(catalog.SETTING, raising=False)


def test_only_the_built_in_models_are_offered_by_default() -> None:
    offered = [entry.name for entry in catalog.entries()]
    assert offered == [DEFAULT, "addition-5digit", "induction-by-hand", "copy-by-hand"]


def test_the_setting_adds_hub_ids_folders_and_files(
    monkeypatch: pytest.MonkeyPatch, tiny_llama_dir: Path
) -> None:
    setting = f"owner/name@v1, mine={tiny_llama_dir}; /models/a.Q4_1.gguf,"
    monkeypatch.setenv(catalog.SETTING, setting)
    added = [
        (entry.name, entry.kind, entry.source)
        for entry in catalog.entries()[len(catalog.BUILT_IN) :]
    ]
    assert added == [
        ("owner/name@v1", "hub", "owner/name@v1"),
        ("mine", "folder", str(tiny_llama_dir)),
        ("a.Q4_1", "gguf", "/models/a.Q4_1.gguf"),
    ]


@pytest.mark.parametrize("setting", ["x=", "=owner/name", "no-such", "a=owner/b,a=owner/c"])
def test_an_invalid_setting_is_refused(monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    monkeypatch.setenv(catalog.SETTING, setting)
    with pytest.raises(UnknownModelError):
        catalog.entries()


def test_a_misspelt_name_gets_a_suggestion() -> None:
    with pytest.raises(UnknownModelError, match=f"Did you mean '{DEFAULT}'"):
        catalog.find("smollm2-135-instruct")


NOWHERE = ["/no/such/folder", "./none", "none.gguf", "a b/c", "", "a/b/c", "~no-such-user/x", "\0"]


@pytest.mark.parametrize("name", [*NOWHERE, "x" * 5000])
def test_a_missing_model_is_unknown(name: str) -> None:
    with pytest.raises(UnknownModelError):
        catalog.find(name)


def test_names_from_users_reach_listed_models_only(
    monkeypatch: pytest.MonkeyPatch, tiny_llama_dir: Path
) -> None:
    assert catalog.find(str(tiny_llama_dir)).kind == "folder"
    for name in (str(tiny_llama_dir), "owner/name"):
        with pytest.raises(UnknownModelError):
            catalog.offered(name)
    monkeypatch.setenv(catalog.SETTING, f"mine={tiny_llama_dir}")
    assert catalog.offered("mine").source == str(tiny_llama_dir)


def test_the_default_model_has_a_fingerprint_before_it_is_converted(data_dir: Path) -> None:
    found = catalog.fingerprint(DEFAULT)
    assert found == catalog.fingerprint(catalog.DEFAULT, "float32")
    assert found != catalog.fingerprint(DEFAULT, "bfloat16")
    assert not data_dir.exists()


def test_a_folders_fingerprint_is_that_of_its_content(tiny_llama_dir: Path, tmp_path: Path) -> None:
    folder, copy = (shutil.copytree(tiny_llama_dir, tmp_path / name) for name in ("one", "two"))
    for each in copy.iterdir():
        os.utime(each, (1, 1))  # another machine wrote it at another time
    before = catalog.fingerprint(str(folder))
    assert before == catalog.fingerprint(str(copy))
    assert catalog.revision(catalog.find(str(folder))) == catalog.revision(catalog.find(str(copy)))
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"silu"', '"relu"'))
    changed = {catalog.fingerprint(str(one)) for one in (folder, copy)}
    assert len({before, *changed}) == 3
    (folder / "tokenizer.json").rename(folder / "another.json")
    assert catalog.fingerprint(str(folder)) not in {before, *changed}


def test_large_files_are_hashed_once(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"weights")
    monkeypatch.setattr(hub, "_LARGE", 1)
    wanted = hashlib.sha256(b"weights").hexdigest()
    assert hub.content(file) == wanted
    (kept,) = (data_dir / "content-hashes").iterdir()
    monkeypatch.setattr(hub, "_hashed", lambda *_: "computed again")
    hub._content.cache_clear()  # another process
    assert hub.content(file) == wanted
    kept.write_text("damaged")
    hub._content.cache_clear()
    assert hub.content(file) == "computed again"
    hub._content.cache_clear()


def test_an_uncached_hub_model_is_reported_offline() -> None:
    with pytest.raises(ModelLoadError, match="can't be reached"):
        catalog.fingerprint("stratascope-tests/not-cached")


def test_an_invalid_dtype_is_refused() -> None:
    import torch

    assert catalog.dtype_name(torch.bfloat16) == "bfloat16"
    with pytest.raises(SpecError, match="int7"):
        catalog.fingerprint(DEFAULT, "int7")


def test_the_catalogue_needs_no_torch() -> None:
    code = (
        "import sys; from analysis.model import catalog;"
        f"catalog.fingerprint({DEFAULT!r}); catalog.entries();"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
