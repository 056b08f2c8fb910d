"""Parts of a model that depend on the attention's name, or begin beyond the load-time probes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CONFIG_MAPPING, AttentionInterface, AutoModelForCausalLM

import analysis
from analysis import ledger
from analysis.contract.ledger import LedgerSpec
from analysis.interventions import Ablate
from tests.support import built, zoo
from tests.support.tiny import randomise

_SPARSE: dict[str, Any] = {
    **zoo.CONFIGS["deepseek_v3"],
    "index_topk": 8,
    "index_n_heads": 2,
    "index_head_dim": 8,
    "max_position_embeddings": 256,
}
#: Model type -> what begins at 8 tokens: a sparse index, a window, chunks.
KINDS: dict[str, dict[str, Any]] = {
    "deepseek_v32": _SPARSE,
    "glm_moe_dsa": _SPARSE,
    "mistral": {**zoo.CONFIGS["mistral"], "sliding_window": 8, "max_position_embeddings": 256},
    "cohere2": {**zoo.CONFIGS["cohere2"], "sliding_window": 8, "max_position_embeddings": 256},
    "llama": {
        **zoo.CONFIGS["llama"],
        "max_position_embeddings": 8,
        "rope_parameters": {"rope_type": "dynamic", "factor": 32.0, "rope_theta": 10000.0},
    },
    "phi3": {
        **zoo.CONFIGS["phi3"],
        "max_position_embeddings": 256,
        "original_max_position_embeddings": 8,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0] * 4,
            "long_factor": [2.0] * 4,
            "original_max_position_embeddings": 8,
        },
    },
}


def untouched(kind: str, seed: int = 0) -> Any:
    """A small random model as transformers makes it, with its own choice of attention."""
    torch.manual_seed(seed)
    return randomise(AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**KINDS[kind])), seed)


@pytest.mark.parametrize("size", [5, 40, 200])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_equal_the_original_models(kind: str, size: int) -> None:
    ids = torch.randint(0, 96, (1, size), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        wanted = untouched(kind)(input_ids=ids, use_cache=False).logits[0].numpy()
    model = built.understood(untouched(kind), kind)
    trace = analysis.trace(model, tuple(ids[0].tolist()))
    error = np.linalg.norm(trace.logits - wanted) / np.linalg.norm(wanted)
    assert error < 1e-4
    entries = ledger.check_run(model, trace, LedgerSpec()).entries
    assert [entry.number for entry in entries] == [1, 2, 3, 4, 5, 6, 7]
    assert all(entry.passed for entry in entries)


def test_the_untouched_model_runs_once_for_each_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    model = built.understood(untouched("mistral"), "mistral")
    passes: list[tuple[int, ...]] = []
    plain = ledger.plain_logits
    monkeypatch.setattr(
        ledger, "plain_logits", lambda model, ids: passes.append(ids) or plain(model, ids)
    )
    ids = built.ids(model, 12)
    for position in (-1, 3):
        trace = analysis.trace(model, [number % 96 for number in ids])
        assert ledger.check_run(model, trace, LedgerSpec(position)).passed
    assert len(passes) == 1
    broken = replace(trace, logits=trace.logits[::-1].copy(), scratch={})
    assert not ledger.check_run(model, broken, LedgerSpec()).passed
    edited = analysis.trace(model, trace.token_ids, [Ablate("mlp_output", 1)])
    for _ in range(2):
        entry = ledger.check_run(model, edited, LedgerSpec()).entries[0]
        assert (entry.number, entry.passed) == (1, True)
        assert "without interventions" in entry.note
    assert len(passes) == 2


def test_transformers_attention_is_only_replaced_during_an_observed_pass() -> None:
    model = built.understood(untouched("mistral"), "mistral")
    assert "eager" not in AttentionInterface()
    seen: list[bool] = []
    handle = model.hf.register_forward_hook(lambda *_: seen.append("eager" in AttentionInterface()))
    analysis.trace(model, [1, 2, 3])
    built.plain_logits(model, (1, 2, 3))
    handle.remove()
    assert seen == [True, False]
    assert model.hf.config._attn_implementation == "eager"
