"""Models in memory, and traces, lenses and attention in the formats of other libraries."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import analysis
from analysis.errors import ModelLoadError, SpecError, StoreError
from analysis.learned.translators import import_tuned_lens, load_lens
from tests.numerical.conftest import Case
from tests.support import built, tiny


def transformers_states(hf, ids):
    """Hidden states and attention by transformers itself."""
    with torch.no_grad():
        return hf(input_ids=torch.tensor([ids]), output_hidden_states=True, output_attentions=True)


@pytest.mark.parametrize("wrap", ["plain", "nnsight", "old nnsight", "bridge"])
def test_a_model_in_memory_is_the_same_object_and_gives_its_own_logits(wrap: str) -> None:
    hf, tokenizer, ids = tiny.tiny_llama(), tiny.tiny_tokenizer(), (4, 9, 30, 7)
    wanted = transformers_states(hf, ids).logits[0].numpy()
    given = {
        "plain": hf,
        "nnsight": SimpleNamespace(_module=hf, _model=None, tokenizer=tokenizer),
        "old nnsight": SimpleNamespace(_model=hf, tokenizer=tokenizer),
        "bridge": SimpleNamespace(original_model=hf, tokenizer=tokenizer),
    }[wrap]
    model = analysis.load_model(given, tokenizer if wrap == "plain" else None)
    assert model.hf is hf
    assert model.tokenizer is tokenizer
    assert model.check().passed
    np.testing.assert_allclose(analysis.trace(model, ids).logits, wanted, atol=1e-5)
    recipe = analysis.recipe(model, analysis.trace(model, ids))
    assert len(recipe.identity["fingerprint"]) == 32


def test_other_weights_have_another_fingerprint() -> None:
    tokenizer = tiny.tiny_tokenizer()
    prints = {
        analysis.load_model(tiny.tiny_llama(seed), tokenizer).info.fingerprint for seed in (0, 0, 1)
    }
    assert len(prints) == 2


@pytest.mark.parametrize(
    ("given", "tokenizer", "options", "error", "said"),
    [
        (SimpleNamespace(), None, {}, ModelLoadError, "no Hugging Face model in SimpleNamespace"),
        ("model", None, {}, ModelLoadError, "has no tokenizer"),
        ("model", 3, {}, ModelLoadError, "has no tokenizer"),
        ("model", "own", {"dtype": "float16"}, SpecError, "keeps its dtype and device"),
        ("addition-5digit", "own", {}, SpecError, "has its own tokenizer"),
    ],
)
def test_a_wrong_model_in_memory_is_refused(given, tokenizer, options, error, said) -> None:
    given = tiny.tiny_llama() if given == "model" else given
    tokenizer = tiny.tiny_tokenizer() if tokenizer == "own" else tokenizer
    with pytest.raises(error, match=said):
        analysis.load_model(given, tokenizer, **options)


def test_the_cache_has_the_states_by_the_names_of_transformerlens(small: Case) -> None:
    model, trace = small.model, small.trace
    cache = analysis.transformer_lens_cache(model, trace, heads=True)
    own = transformers_states(model.hf, trace.token_ids)
    layers, size = model.info.layers, len(trace.tokens)
    for layer in range(layers):
        name = f"blocks.{layer}"
        before = cache[f"{name}.hook_resid_pre"]
        assert before.shape == (1, size, model.info.d_model)
        torch.testing.assert_close(before, own.hidden_states[layer], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            cache[f"{name}.attn.hook_pattern"], own.attentions[layer], atol=1e-6, rtol=1e-5
        )
        middle, after = cache[f"{name}.hook_resid_mid"], cache[f"{name}.hook_resid_post"]
        torch.testing.assert_close(before + cache[f"{name}.hook_attn_out"], middle)
        torch.testing.assert_close(middle + cache[f"{name}.hook_mlp_out"], after, atol=1e-5, rtol=0)
        result = cache[f"{name}.attn.hook_result"]
        assert result.shape == (1, size, model.info.heads, model.info.d_model)
        bias = cache[f"{name}.hook_attn_out"] - result.sum(2)
        torch.testing.assert_close(bias, bias[:, :1].expand_as(bias), atol=1e-5, rtol=0)
    assert len(cache) == 7 * layers
    assert f"blocks.{layers}.hook_resid_pre" not in cache
    with pytest.raises(SpecError):
        analysis.transformer_lens_cache(built.understood(tiny.tiny_gpt2(3), "another"), trace)


def test_parallel_blocks_have_no_state_between_attention_and_mlp() -> None:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=tiny.vocab_size(), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=64, use_parallel_residual=True,
    )  # fmt: skip
    hf = tiny.randomise(GPTNeoXForCausalLM(config), 0)
    model = analysis.load_model(hf, tiny.tiny_tokenizer())
    cache = analysis.transformer_lens_cache(model, analysis.trace(model, (5, 6, 7)))
    assert "blocks.0.hook_resid_mid" not in cache
    assert "blocks.0.hook_resid_post" in cache


def test_attention_has_the_shapes_of_circuitsvis_and_bertviz(small: Case) -> None:
    trace, size = small.trace, len(small.trace.tokens)
    own = transformers_states(small.model.hf, trace.token_ids).attentions
    one = analysis.circuitsvis(trace, 1)
    assert list(one) == ["tokens", "attention"]  # arguments of attention_patterns
    assert one["tokens"] == [token.text for token in trace.tokens]
    np.testing.assert_allclose(one["attention"], own[1][0].numpy(), atol=1e-6)
    both = analysis.bertviz(trace)
    assert list(both) == ["attention", "tokens"]  # arguments of head_view
    assert len(both["attention"]) == small.model.info.layers
    stacked = torch.stack([layer.squeeze(0) for layer in both["attention"]])  # as BertViz does
    assert stacked.shape == (small.model.info.layers, small.model.info.heads, size, size)
    assert len(both["tokens"]) == size
    with pytest.raises(SpecError, match="layer 9 does not exist"):
        analysis.circuitsvis(trace, 9)


def saved(folder: Path, model, layers: int = 3, width: int = 32, **config) -> dict:
    """A folder as tuned-lens saves it, with random translators."""
    generator = torch.Generator().manual_seed(1)
    state = {}
    for row in range(layers):
        state[f"{row}.weight"] = torch.randn(width, width, generator=generator) * 0.1
        state[f"{row}.bias"] = torch.randn(width, generator=generator)
    folder.mkdir(exist_ok=True)
    torch.save(state, folder / "params.pt")
    whole = {"base_model_name_or_path": "base", "d_model": width, "num_hidden_layers": layers,
             "bias": True, "lens_type": "linear_tuned_lens", **config}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(whole))
    return state


def test_a_tuned_lens_decodes_as_its_formula_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRATASCOPE_DATA_DIR", str(tmp_path / "data"))
    model = analysis.load_model(tiny.tiny_llama(7), tiny.tiny_tokenizer())
    layers, width = model.info.layers, model.info.d_model
    state = saved(tmp_path / "lens", model, layers, width)
    trace = analysis.trace(model, (4, 9, 30, 7))
    with pytest.raises(SpecError, match="no learned lens"):
        analysis.decode(model, trace, decoder="learned")
    info = import_tuned_lens(model, tmp_path / "lens")
    assert info.path.is_file()
    grid = analysis.decode(model, trace, decoder="learned", k=5)
    hf = model.hf
    for row in range(layers):
        h = torch.from_numpy(np.array(trace.resid[row]))
        weight, bias = (state[f"{row}.{name}"].half().float() for name in ("weight", "bias"))
        logits = hf.lm_head(hf.model.norm(h + h @ weight.T + bias))
        probs, ids = logits.softmax(-1).topk(5)
        np.testing.assert_array_equal(grid.token_ids[row], ids.numpy())
        np.testing.assert_allclose(grid.probs[row], probs.numpy(), atol=1e-5)
    np.testing.assert_allclose(grid.probs[-1, :, 0], np.exp(
        trace.logits - np.logaddexp.reduce(trace.logits, -1, keepdims=True)).max(-1), atol=1e-5
    )  # fmt: skip


def test_a_folder_that_is_no_tuned_lens_of_the_model_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, llama: Case
) -> None:
    monkeypatch.setenv("STRATASCOPE_DATA_DIR", str(tmp_path / "data"))
    with pytest.raises(StoreError, match=r"no config\.json"):
        import_tuned_lens(llama.model, tmp_path)
    saved(tmp_path / "narrow", llama.model, llama.model.info.layers, 8)
    with pytest.raises(SpecError, match="has 3 layers and width 32"):
        import_tuned_lens(llama.model, tmp_path / "narrow")
    saved(tmp_path / "other", llama.model, lens_type="mlp")
    with pytest.raises(StoreError, match="type 'mlp'"):
        import_tuned_lens(llama.model, tmp_path / "other")
    saved(tmp_path / "code", llama.model)
    torch.save({"0.weight": Path()}, tmp_path / "code" / "params.pt")
    with pytest.raises(StoreError, match=r"no params\.pt"):
        import_tuned_lens(llama.model, tmp_path / "code")
    assert not (tmp_path / "data").exists()


REFERENCE = "spaces/owner/lenses/lens/model"


def cached(home: Path, model) -> dict:
    """A hub cache with a lens in a folder of a space, as huggingface_hub writes it."""
    commit = "c0ffee" + "0" * 34
    repository = home / "spaces--owner--lenses"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    folder = repository / "snapshots" / commit / "lens" / "model"
    folder.mkdir(parents=True)
    return saved(folder, model, model.info.layers, model.info.d_model)


def test_a_tuned_lens_comes_from_the_hub_s_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import huggingface_hub.constants

    from dash_app.cli import main

    monkeypatch.setenv("STRATASCOPE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tiny.save(tiny.tiny_llama(7), tmp_path / "model")
    model = analysis.load_model(str(folder))
    with pytest.raises(ModelLoadError, match=r"not in this machine's hub cache, and the hub can't"):
        import_tuned_lens(model, REFERENCE)
    state = cached(tmp_path / "hub", model)
    lens = load_lens(import_tuned_lens(model, REFERENCE))
    for row, part in enumerate(lens.translators):
        torch.testing.assert_close(part.matrix, state[f"{row}.weight"].half().float())
        torch.testing.assert_close(part.bias, state[f"{row}.bias"].half().float())
    assert main(["lens", "import", str(folder), f"{REFERENCE}@main"]) == 0
    assert "full matrices" in capsys.readouterr().out
    for wrong in ("owner/lenses", "spaces/owner/lenses/lens/another", f"{REFERENCE}@v9"):
        assert main(["lens", "import", str(folder), wrong]) == 1
        assert f"There is no folder {wrong}" in capsys.readouterr().err
