"""The catalogue file: its entries and the messages about mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from analysis.errors import UnknownModelError
from analysis.model import catalog, pretrained


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Write the file and set the setting to it."""
    monkeypatch.delenv(catalog.SETTING, raising=False)

    def written(text: str) -> Path:
        path = tmp_path / "catalog.toml"
        path.write_text(text, encoding="utf-8")
        monkeypatch.setenv(catalog.FILE_SETTING, str(path))
        return path

    return written


def test_entries_say_how_they_are_loaded(write: object, tiny_llama_dir: Path) -> None:
    write(  # type: ignore[operator]
        f"""
        [[model]]
        name = "half"
        title = "Tiny, in 16 bits"
        source = "{tiny_llama_dir}"
        dtype = "bfloat16"
        device = "cpu"

        [[model]]
        name = "far"
        source = "owner/name"
        revision = "v2"
        quantise = "4bit"
        adapter = "owner/adapter"
        """
    )
    *built_in, half, far = catalog.entries()
    assert tuple(built_in) == catalog.BUILT_IN
    assert half.title == "Tiny, in 16 bits"
    assert (far.source, far.kind, far.quantise, far.adapter, far.title) == (
        "owner/name@v2", "hub", "4bit", "owner/adapter", "far",
    )  # fmt: skip
    loaded = pretrained.load_pretrained("half")
    assert loaded.model.dtype == torch.bfloat16
    assert loaded.fingerprint == catalog.fingerprint("half") == catalog.fingerprint(half)
    assert loaded.fingerprint != catalog.fingerprint("half", "float32")


def test_the_built_in_model_can_be_left_out(write: object) -> None:
    write('builtin = false\n[[model]]\nname = "a"\nsource = "owner/a"\n')  # type: ignore[operator]
    assert [entry.name for entry in catalog.entries()] == ["a"]


def test_paths_are_relative_to_the_file(write: object, tmp_path: Path) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    write('[[model]]\nname = "mine"\nsource = "models/mine"\n')  # type: ignore[operator]
    assert catalog.offered("mine").source == str(tmp_path / "models" / "mine")


def test_a_changed_file_is_read_again(write: object) -> None:
    write('[[model]]\nname = "a"\nsource = "owner/a"\n')  # type: ignore[operator]
    assert catalog.entries()[len(catalog.BUILT_IN)].name == "a"
    write('[[model]]\nname = "other"\nsource = "owner/a"\n')  # type: ignore[operator]
    assert catalog.entries()[len(catalog.BUILT_IN)].name == "other"


ENTRY = '[[model]]\nname = "a"\nsource = "owner/a"\n'
MISTAKES = {
    "[[model]\n": r"line 1",
    ENTRY + "\n[[model]]\nsource = 'owner/b'\n": r"catalog\.toml line 5.*has no name",
    ENTRY + "colour = 'red'\n": r"line 1, model 'a' has an unknown key 'colour'",
    ENTRY + "device = 3\n": r"device must be text",
    ENTRY + "dtype = 'int7'\n": r"line 1, model 'a': A model can't be loaded as 'int7'",
    ENTRY + "quantise = '3bit'\n": r"quantised to '3bit'",
    "[[model]]\nname = 'a'\nsource = 'x.gguf'\nquantise = '4bit'\n": r"GGUF",
    "[[model]]\nname = 'a'\nsource = 'no such'\n": r"line 1, model 'a': There is no model named",
    "[[model]]\nname = 'a'\nsource = '/models/a'\nrevision = 'v1'\n": r"Only a hub id",
    ENTRY + "\n" + ENTRY: r"Two models have the name 'a' \(catalog\.toml line 5",
    "[[model]]\nname = 'a=b'\nsource = 'owner/a'\n": r"can't contain '='",
    "models = []\n": r"has a key 'models'",
    "model = 3\n": r"not a list",
    "\x00": r"can't be read",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_is_reported_with_place_and_reason(write: object, text: str) -> None:
    write(text)  # type: ignore[operator]
    with pytest.raises(UnknownModelError, match=MISTAKES[text]):
        catalog.entries()


def test_a_missing_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(catalog.FILE_SETTING, str(tmp_path / "none.toml"))
    with pytest.raises(UnknownModelError, match=r"none\.toml can't be read"):
        catalog.entries()


def test_the_settings_are_defaults_for_entries(
    monkeypatch: pytest.MonkeyPatch, tiny_llama_dir: Path
) -> None:
    monkeypatch.setenv(catalog.DTYPE_SETTING, "bfloat16")
    monkeypatch.setenv(pretrained.SETTING, "cpu")
    loaded = pretrained.load_pretrained(str(tiny_llama_dir))
    assert loaded.model.dtype == torch.bfloat16
    assert loaded.fingerprint == catalog.fingerprint(str(tiny_llama_dir))
    exact = pretrained.load_pretrained(str(tiny_llama_dir), dtype="float32")
    assert exact.model.dtype == torch.float32
