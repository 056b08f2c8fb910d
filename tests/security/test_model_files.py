"""Model files from strangers: none may take memory or time without bound, or select code."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from analysis.errors import ModelLoadError
from analysis.model import hub, untrusted
from tests.support.repository import ROOT

GGUF = b"GGUF" + struct.pack("<I", 3)


def folder_with(folder: Path, name: str, values: Any) -> Path:
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    (folder / name).write_text(json.dumps(values))
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(ModelLoadError) as caught:
        untrusted.check_folder(folder)
    return str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        {"_attn_implementation": "kernels-community/x"},
        {"text_config": {"attn_implementation": "kernels-community/x"}},
        {"parts": [{"_attn_implementation_internal": {"text": "owner/name:function"}}]},
        {"experts_implementation": "owner/name"},
        {"quantization_config": {"quant_method": "mxfp4"}},
        {"quantization_config": {"quant_method": ["x"]}},
    ],
)
def test_a_configuration_cannot_select_code(tmp_path: Path, config: Any) -> None:
    message = refusal(folder_with(tmp_path, "config.json", config))
    assert "runs no code" in message
    assert "install" not in message.lower()


def test_ordinary_configurations_pass(tmp_path: Path) -> None:
    config = {
        "num_hidden_layers": 200,
        "num_experts": 512,
        "layer_norm_eps": 1e-5,
        "layer_types": ["full_attention"] * 200,
        "_attn_implementation": "sdpa",
        "auto_map": {"AutoModel": "modeling_x.X"},
        "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    }
    untrusted.check_folder(folder_with(tmp_path, "config.json", config))


SCRIPT = """
import sys
from analysis import load_model
try:
    load_model(sys.argv[1], device="cpu")
except Exception as error:
    print(type(error).__name__, error)
print("kernels" in sys.modules and sys.modules["kernels"] is not None)
"""


def test_an_installed_package_of_kernels_is_never_imported(
    tmp_path: Path, tiny_llama_dir: Path
) -> None:
    """The configuration names a kernel; a fake of the package notes whether it is imported."""
    model = tmp_path / "model"
    model.mkdir()
    for item in tiny_llama_dir.iterdir():
        (model / item.name).symlink_to(item)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").unlink()
    config["_attn_implementation"] = "kernels-community/x"
    (model / "config.json").write_text(json.dumps(config))
    package, mark = tmp_path / "site" / "kernels", tmp_path / "imported"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"open({str(mark)!r}, 'w')\n__version__ = '0.12.0'\n")
    info = tmp_path / "site" / "kernels-0.12.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kernels\nVersion: 0.12.0\n")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(model)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path / 'site'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("ModelLoadError"), done.stderr
    assert done.stdout.endswith("False\n")
    assert not mark.exists()


@pytest.mark.parametrize("key", ["num_hidden_layers", "n_layer", "num_local_experts"])
def test_a_number_of_layers_without_bound_is_refused(tmp_path: Path, key: str) -> None:
    message = refusal(folder_with(tmp_path, "config.json", {"text": {key: 10**9}}))
    assert "1,000,000,000" in message


def test_replacements_that_multiply_are_refused_with_the_factor(tmp_path: Path) -> None:
    double = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    values = {"normalizer": {"type": "Sequence", "normalizers": [double] * 40}}
    assert "1.1e+12 times" in refusal(folder_with(tmp_path, "tokenizer.json", values))
    usual = {"type": "Replace", "pattern": {"Regex": " "}, "content": "\u2581"}
    values = {"normalizer": {"type": "Sequence", "normalizers": [usual] * 40}, "padding": None}
    untrusted.check_folder(folder_with(tmp_path, "tokenizer.json", values))


def test_padding_without_bound_is_refused(tmp_path: Path) -> None:
    values = {"padding": {"strategy": {"Fixed": 10**12}}}
    assert "pads to" in refusal(folder_with(tmp_path, "tokenizer.json", values))


def test_a_json_file_that_is_not_json_or_nests_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[" * 100_000)
    assert "not JSON" in refusal(tmp_path)


@pytest.mark.parametrize(
    "header",
    [
        GGUF + struct.pack("<QQ", 1 << 60, 0),
        GGUF + struct.pack("<QQ", 0, 1 << 60),
        GGUF + struct.pack("<QQ", 0, 1) + struct.pack("<Q", 1 << 60),
        GGUF + struct.pack("<QQQ", 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 8, 1 << 60),
        GGUF + struct.pack("<QQQ", 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 9, 1 << 40),
        GGUF + struct.pack("<QQQ", 0, 1, 13) + b"x.block_count" + struct.pack("<II", 4, 10**9),
    ],
    ids=["tensors", "entries", "a name", "an array", "nested arrays", "layers"],
)
def test_a_small_gguf_file_that_claims_much_is_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(header.ljust(4096, b"\0"))
    with pytest.raises(ModelLoadError, match="claims"):
        untrusted.check_gguf(path)


def test_a_safetensors_header_without_bound_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 12 << 30))
        file.truncate((12 << 30) + 8)
    with pytest.raises(ModelLoadError, match="claims a header"):
        hub.safetensors_header(path)


def test_a_pattern_that_never_ends_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    import re

    monkeypatch.setattr(untrusted, "CPU_S", 0.2)
    with (
        pytest.raises(ModelLoadError, match=r"longer than 0\.2 seconds"),
        untrusted.limited("A pattern of the adapter"),
    ):
        re.match(r"(a+)+$", "a" * 64 + "b")


def test_a_template_that_never_ends_is_stopped(
    tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from analysis.model.transformers_io import read_tokenizer
    from analysis.tracing.tokens import render

    tokenizer = read_tokenizer(tiny_llama_dir)
    loop = "{% for a in range(99999) %}"
    tokenizer.chat_template = loop * 4 + "x" + "{% endfor %}" * 4
    monkeypatch.setattr(untrusted, "CPU_S", 0.5)
    with pytest.raises(ModelLoadError, match=r"longer than 0\.5 seconds"):
        render(tokenizer, "hello")
