"""LoRA adapters on a base: logits equal peft's, and the identities hold."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import analysis
from analysis.errors import ModelLoadError
from analysis.model import adapters as model_adapters
from analysis.model import catalog, pretrained
from tests.support import adapters, tiny

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning"),
]

KINDS: dict[str, dict[str, Any]] = {
    "attention": {"target_modules": ["q_proj", "v_proj"]},
    "everything": {"target_modules": "all-linear"},
    "both ends": {"target_modules": ["o_proj", "down_proj", "lm_head", "embed_tokens"]},
    "a trained head": {"target_modules": ["o_proj"], "modules_to_save": ["lm_head"]},
    "dora": {"target_modules": ["o_proj", "down_proj"], "use_dora": True},
}


@pytest.fixture
def folder(tiny_llama_dir: Path, tmp_path: Path) -> Path:
    """An adapter's folder, to be damaged."""
    adapters.write(tmp_path / "adapter", tiny_llama_dir, target_modules=["q_proj", "v_proj"])
    return tmp_path / "adapter"


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapted_model_equals_pefts_and_satisfies_the_identities(
    kind: str, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    wanted = adapters.write(tmp_path / "adapter", tiny_llama_dir, **KINDS[kind])
    model = analysis.load_model(str(tmp_path / "adapter"), device="cpu")
    trace = analysis.trace(model, adapters.TOKENS)
    np.testing.assert_allclose(trace.logits, wanted.numpy(), atol=2e-5)
    plain = analysis.trace(analysis.load_model(str(tiny_llama_dir)), adapters.TOKENS)
    assert np.abs(plain.logits - trace.logits).max() > 0.1
    ledger = model.check()
    assert ledger.passed, [entry for entry in ledger.entries if not entry.passed]
    assert ledger.colour == "green"


def test_base_and_adapter_can_be_named_together(tiny_llama_dir: Path, folder: Path) -> None:
    named = pretrained.load_pretrained(f"{tiny_llama_dir}+{folder}", device="cpu")
    alone = pretrained.load_pretrained(str(folder), device="cpu")
    ids = torch.tensor([adapters.TOKENS])
    assert torch.equal(named.model(ids).logits, alone.model(ids).logits)
    assert named.fingerprint == alone.fingerprint
    assert named.source == f"{tiny_llama_dir}+{folder}"
    base = pretrained.load_pretrained(str(tiny_llama_dir), device="cpu")
    assert named.revision.partition("+")[0] == base.revision
    assert named.fingerprint != base.fingerprint


def test_a_changed_adapter_has_another_fingerprint(folder: Path) -> None:
    before = catalog.fingerprint(str(folder))
    adapters.change(folder, lora_alpha=16)
    assert catalog.fingerprint(str(folder)) != before


def test_a_hub_adapter_names_its_base_and_revision(folder: Path) -> None:
    adapters.change(folder, base_model_name_or_path="owner/base", revision="v2")
    entry = catalog.find(str(folder))
    assert (entry.source, entry.kind, entry.adapter) == ("owner/base@v2", "hub", str(folder))


def test_an_adapter_of_another_base_is_refused(
    folder: Path, tiny_gpt2_dir: Path, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelLoadError, match="does not fit its base"):
        pretrained.load_pretrained(f"{tiny_gpt2_dir}+{folder}", device="cpu")
    narrow = tmp_path / "narrow"
    adapters.write(narrow, tiny_llama_dir, target_modules=["q_proj"])
    adapters.change(narrow, r=8)
    with pytest.raises(ModelLoadError, match="does not fit its base"):
        pretrained.load_pretrained(str(narrow), device="cpu")


@pytest.mark.parametrize("ends", [["embed_tokens", "lm_head"], ["lm_head"]])
def test_an_adapter_with_tokens_of_its_own_is_explained(
    tiny_llama_dir: Path, tmp_path: Path, ends: list[str]
) -> None:
    folder, size = tmp_path / "wider", tiny.vocab_size()
    wanted = adapters.write(
        folder, tiny_llama_dir, more=3, target_modules=["q_proj"], modules_to_save=ends
    )
    with pytest.raises(
        ModelLoadError, match=f"has {size + 3} tokens and its base has {size}"
    ) as told:
        pretrained.load_pretrained(str(folder), device="cpu")
    assert f"resize_token_embeddings({size + 3})" in told.value.hint
    llama = tiny.tiny_llama()
    llama.resize_token_embeddings(size + 3)
    base = tiny.save(llama, tmp_path / "resized")
    if "embed_tokens" in ends:
        model = analysis.load_model(f"{base}+{folder}", device="cpu")
        found = analysis.trace(model, adapters.TOKENS).logits
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_other_sizes_are_named(folder: Path) -> None:
    adapters.change(folder, r=8)
    with pytest.raises(
        ModelLoadError, match=r"size mismatch of \S+lora_A\S+, \[4, 32\] in the adapter"
    ):
        pretrained.load_pretrained(str(folder), device="cpu")


def test_a_missing_adapter_layer_is_refused(folder: Path) -> None:
    adapters.change(folder, target_modules=["q_proj", "v_proj", "k_proj"])
    with pytest.raises(ModelLoadError, match="missing adapter keys"):
        pretrained.load_pretrained(str(folder), device="cpu")


def test_pickled_missing_and_truncated_adapters_are_refused(folder: Path, tmp_path: Path) -> None:
    weights = folder / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-40])
    with pytest.raises(ModelLoadError, match="is truncated"):
        pretrained.load_pretrained(str(folder))
    weights.unlink()
    with pytest.raises(ModelLoadError, match="not the weights"):
        pretrained.load_pretrained(str(folder))
    torch.save({}, folder / "adapter_model.bin")
    with pytest.raises(ModelLoadError, match="as pickle"):
        pretrained.load_pretrained(str(folder))


def test_other_kinds_of_adapters_and_broken_ones_are_refused(folder: Path, tmp_path: Path) -> None:
    prompt = shutil.copytree(folder, tmp_path / "prompt")
    adapters.change(prompt, peft_type="PROMPT_TUNING")
    with pytest.raises(ModelLoadError, match="PROMPT_TUNING, not LORA"):
        pretrained.load_pretrained(str(prompt))
    adapters.change(folder, base_model_name_or_path=None)
    with pytest.raises(ModelLoadError, match="names no base model"):
        pretrained.load_pretrained(str(folder))
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(ModelLoadError, match="can't be read"):
        pretrained.load_pretrained(str(folder))


def test_a_missing_adapter_is_named(tiny_llama_dir: Path) -> None:
    with pytest.raises(ModelLoadError, match="There is no adapter /no/such"):
        pretrained.load_pretrained(f"{tiny_llama_dir}+/no/such")


def test_without_peft_the_error_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_adapters, "find_spec", lambda _name: None)
    with pytest.raises(ModelLoadError, match=r"pip install -e '\.\[lora\]'"):
        pretrained.load_pretrained(str(folder))
