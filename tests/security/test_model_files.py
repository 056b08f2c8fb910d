"""Model files from strangers: none may take memory or time without bound, or select code."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from analysis.errors import ModelLoadError
from analysis.loading import load_model
from analysis.model import catalog, confined, hub, trial, untrusted
from analysis.model.transformers_io import read_tokenizer
from analysis.tracing.tokens import encode_prompt, render
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
    tokenizer = read_tokenizer(tiny_llama_dir)
    loop = "{% for a in range(99999) %}"
    tokenizer.chat_template = loop * 4 + "x" + "{% endfor %}" * 4
    monkeypatch.setattr(untrusted, "CPU_S", 0.5)
    with pytest.raises(ModelLoadError, match=r"longer than 0\.5 seconds"):
        render(tokenizer, "hello")


WORDS = {"type": "WordLevel", "vocab": {"a": 0, "[UNK]": 1}, "unk_token": "[UNK]"}
#: Tokenizers of a few kB or MB, and what the refusal says.
HOSTILE = {
    "a panic while it is read": (
        {
            "model": {
                "type": "BPE",
                "vocab": {"a": 0, "b": 1, "ab": 2},
                "merges": ["a b"],
                "continuing_subword_prefix": "####",
            }
        },
        "fails: range end index",
    ),
    "additions that multiply": (
        {
            "model": WORDS,
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [
                    *[{"SpecialToken": {"id": "X", "type_id": 0}}] * 10_000,
                    {"Sequence": {"id": "A", "type_id": 0}},
                ],
                "pair": [
                    {"Sequence": {"id": "A", "type_id": 0}},
                    {"Sequence": {"id": "B", "type_id": 1}},
                ],
                "special_tokens": {"X": {"id": "X", "ids": [0] * 10**5, "tokens": ["a"] * 10**5}},
            },
        },
        "needs more than 512 MiB of memory",
    ),
}


def with_tokenizer(source: Path, folder: Path, **parts: Any) -> Path:
    """A model whose tokenizer has other parts."""
    shutil.copytree(source, folder)
    values = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": []}
    values |= dict.fromkeys(("normalizer", "pre_tokenizer", "post_processor", "decoder"))
    (folder / "tokenizer.json").write_text(json.dumps(values | parts))
    return folder


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_tokenizer_is_refused_and_ends_another_process_only(
    tmp_path: Path, tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    parts, said = HOSTILE[name]
    monkeypatch.setattr(confined, "MEMORY", 512 << 20)
    folder = with_tokenizer(tiny_llama_dir, tmp_path / "model", **parts)
    with pytest.raises(ModelLoadError, match=said):
        load_model(folder, device="cpu")
    trial.check_files(tiny_llama_dir)  # another process reads the next model


def test_a_prompt_that_makes_a_tokenizer_panic_is_refused(
    tmp_path: Path, tiny_llama_dir: Path
) -> None:
    """The pattern backtracks without end on one prompt only, and the library panics."""
    pattern = {"type": "Split", "pattern": {"Regex": "(a+)+$x"}, "behavior": "Isolated"}
    folder = with_tokenizer(
        tiny_llama_dir, tmp_path / "model", model=WORDS, pre_tokenizer={**pattern, "invert": False}
    )
    model = load_model(folder, device="cpu")
    with pytest.raises(ModelLoadError, match="tokenizer fails: Onig"):
        encode_prompt(model.tokenizer, "a" * 60 + "c")
    assert encode_prompt(model.tokenizer, "b a") == (1,)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ 'x' * 10 ** 12 }}", "template needs more than 4,096 MiB of memory"),
        ("{{ 9 ** (9 ** 9) }}", "template takes longer than 2 seconds of processor time"),
    ],
    ids=["memory", "time in one instruction"],
)
def test_a_hostile_template_is_refused_with_the_figure(
    tmp_path: Path, tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch, template: str, said: str
) -> None:
    """A signal does not stop one long instruction, so only another process can be stopped."""
    tokenizer = read_tokenizer(tiny_llama_dir)
    untrusted.guard(tokenizer, tiny_llama_dir)
    tokenizer.chat_template = "{{ messages[0].content }}"
    assert render(tokenizer, "hello") == "hello"
    tokenizer.chat_template = template
    monkeypatch.setattr(untrusted, "CPU_S", 2.0)
    with pytest.raises(ModelLoadError, match=said):
        render(tokenizer, "hello")
    tokenizer.chat_template = "{{ messages[0].content }}"
    assert render(tokenizer, "hello") == "hello"


def test_a_pattern_of_an_adapter_that_never_ends_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(untrusted, "CPU_S", 1.0)
    with pytest.raises(ModelLoadError, match="pattern of the adapter takes longer than 1 second"):
        untrusted.try_patterns([r"(a+)+$"], ["a" * 64 + "b"])


def test_a_configuration_that_nests_without_end_needs_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each empty list of three bytes takes over fifty in memory."""
    monkeypatch.setattr(confined, "MEMORY", 256 << 20)
    (tmp_path / "config.json").write_text(f"[{','.join(['[]'] * 4_000_000)}]")
    with pytest.raises(ModelLoadError, match="needs more than 256 MiB of memory"):
        trial.check_files(tmp_path)


def test_the_models_of_the_package_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confined, "run", lambda *_, **__: pytest.fail("a process was asked"))
    folder = Path(catalog.ADDER.source)
    trial.check_files(folder)
    tokenizer = read_tokenizer(folder)
    assert encode_prompt(tokenizer, "1+2=")
