"""Loading: the result, and a message for every failure."""

from __future__ import annotations

import errno
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.contract import jobs
from analysis.errors import CancelledError, ModelLoadError, SpecError, UnknownModelError
from analysis.model import catalog, pretrained, transformers_io
from tests.support import tiny, tiny_gguf


@pytest.fixture
def folder(tiny_llama_dir: Path, tmp_path: Path) -> Path:
    """A copy of a small model, to be damaged."""
    return shutil.copytree(tiny_llama_dir, tmp_path / "model")


def test_a_folder_loads_completely_and_frozen(tiny_llama_dir: Path) -> None:
    loaded = pretrained.load_pretrained(str(tiny_llama_dir), device="cpu")
    fresh = tiny.tiny_llama()
    assert not loaded.model.training
    assert not any(weight.requires_grad for weight in loaded.model.parameters())
    for name, weight in fresh.state_dict().items():
        assert torch.equal(weight, loaded.model.state_dict()[name]), name
    assert loaded.model.config._attn_implementation == "eager"
    assert loaded.fingerprint == catalog.fingerprint(str(tiny_llama_dir))
    assert loaded.tokenizer.decode(loaded.tokenizer(" Paris")["input_ids"]) == " Paris"


def test_a_dtype_can_be_requested(tiny_gpt2_dir: Path) -> None:
    loaded = pretrained.load_pretrained(str(tiny_gpt2_dir), dtype=torch.bfloat16, device="cpu")
    assert loaded.model.dtype == torch.bfloat16
    assert loaded.fingerprint != catalog.fingerprint(str(tiny_gpt2_dir))


def test_a_gguf_file_loads_as_a_plain_model(tmp_path: Path) -> None:
    path = tiny_gguf.write(tmp_path / "tiny.gguf")
    loaded = pretrained.load_pretrained(str(path), device="cpu")
    assert not hasattr(loaded.model.config, "quantization_config")
    assert loaded.source == str(path)
    ids = loaded.tokenizer("the capital of France", return_tensors="pt")["input_ids"]
    assert torch.isfinite(loaded.model(ids).logits).all()


def test_truncated_weights_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelLoadError, match=r"is truncated: it has .* bytes"):
        pretrained.load_pretrained(str(folder))


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0[]"])
def test_invalid_weights_are_refused(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelLoadError, match=r"model\.safetensors"):
        pretrained.load_pretrained(str(folder))


def test_a_configuration_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match=r"not the weights model\.safetensors"):
        pretrained.load_pretrained(str(folder))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickled_weights_are_refused_unread(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / name)
    with pytest.raises(ModelLoadError, match="as pickle"):
        pretrained.load_pretrained(str(folder))


def test_a_missing_shard_is_named(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelLoadError, match=r"model-2\.safetensors"):
        pretrained.load_pretrained(str(folder))


def test_an_index_must_not_name_files_outside_the_folder(folder: Path) -> None:
    index = {"weight_map": {"a": "../model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelLoadError, match="can't be read"):
        pretrained.load_pretrained(str(folder))


def test_missing_weights_are_not_filled_with_random_numbers(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    weights = load_file(path)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=r"lack model\.layers\.1\.mlp\.up_proj\.weight"):
        pretrained.load_pretrained(str(folder))


def test_a_folder_without_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"no config\.json"):
        pretrained.load_pretrained(str(tmp_path))


def test_code_from_a_model_is_never_run(folder: Path, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    (folder / "evil.py").write_text(f"open({str(proof)!r}, 'w')\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "architectures": ["Evil"]}
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelLoadError, match="never runs"):
        pretrained.load_pretrained(str(folder))
    assert not proof.exists()


def test_a_broken_gguf_file_is_explained(tmp_path: Path) -> None:
    whole = tiny_gguf.write(tmp_path / "tiny.gguf").read_bytes()
    (tmp_path / "tiny.gguf").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelLoadError, match="can't be loaded"):
        pretrained.load_pretrained(str(tmp_path / "tiny.gguf"))


def test_unknown_and_uncached_models_give_different_errors() -> None:
    with pytest.raises(UnknownModelError):
        pretrained.load_pretrained("no-such-model")
    with pytest.raises(ModelLoadError, match="HF_HUB_OFFLINE"):
        pretrained.load_pretrained("stratascope-tests/not-cached")


@pytest.mark.parametrize("device", ["toaster", "cuda:99", 3.5])
def test_a_missing_device_is_refused(tiny_gpt2_dir: Path, device: Any) -> None:
    with pytest.raises(SpecError, match="no device"):
        pretrained.load_pretrained(str(tiny_gpt2_dir), device=device)


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (MemoryError(), "does not fit in memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk is full"),
        (ImportError("bitsandbytes"), "needs a package"),
    ],
)
def test_the_machines_limits_are_explained(
    tiny_gpt2_dir: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, told: str
) -> None:
    def fail(*_args: Any) -> None:
        raise raised

    monkeypatch.setattr(transformers_io, "read_weights", fail)
    with pytest.raises(ModelLoadError, match=told):
        pretrained.load_pretrained(str(tiny_gpt2_dir))


def test_loading_can_be_cancelled(tiny_gpt2_dir: Path) -> None:
    def stop(_done: int, _total: int, _label: str) -> None:
        raise CancelledError

    with pytest.raises(CancelledError), jobs.listening(stop):
        pretrained.load_pretrained(str(tiny_gpt2_dir))


KILLED = """
import os, signal, sys
from analysis.contract import jobs
from analysis.model import pretrained

def die(done, total, label):
    if label.startswith(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

with jobs.listening(die):
    pretrained.load_pretrained(sys.argv[1], device="cpu")
"""


@pytest.mark.parametrize("step", ["Reading the weights", "Moving the model"])
def test_a_killed_load_leaves_the_model_as_it_was(folder: Path, step: str) -> None:
    before = catalog.fingerprint(str(folder))
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder), step], check=False)
    assert done.returncode == -signal.SIGKILL
    assert catalog.fingerprint(str(folder)) == before
    assert pretrained.load_pretrained(str(folder), device="cpu").fingerprint == before


@pytest.mark.real
def test_the_default_model_knows_the_capital_of_france(default_model_dir: Path) -> None:
    loaded = pretrained.load_pretrained("smollm2-135m-instruct", device="cpu")
    assert default_model_dir.name.endswith(loaded.revision[:12])
    inputs = loaded.tokenizer("The capital of France is", return_tensors="pt")
    best = int(loaded.model(**inputs).logits[0, -1].argmax())
    assert loaded.tokenizer.decode([best]) == " Paris"
