"""The memory of a trace: estimated before the work, refused with both figures, and reduced."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import analysis
from analysis.attribution.direct import Target
from analysis.contract.arguments import checked
from analysis.errors import NotEnoughMemoryError, SpecError
from analysis.flow_graph import gradients
from analysis.flow_graph.gradients import saved_bytes
from analysis.ledger import LedgerSpec, check_run
from analysis.model import memory
from analysis.model.handle import Model
from analysis.tracing import storage
from analysis.tracing.capture import fitting_trace
from analysis.tracing.storage import PatternStore
from tests.numerical.conftest import Case
from tests.support import built, tiny

FIGURES = r"needs about [\d.]+ GB.*[\d.]+ GB are free"


@pytest.fixture(scope="module")
def long() -> Model:
    """A model with 3 layers of 4 heads that reads 8,192 tokens."""
    config = LlamaConfig(
        vocab_size=tiny.vocab_size(), hidden_size=32, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=8192,
        tie_word_embeddings=False, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return built.understood(tiny.randomise(LlamaForCausalLM(config), 0), "long")


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the free memory in bytes, and counts small work too."""

    def set_free(size: float) -> None:
        monkeypatch.setattr(memory, "free", lambda _device="cpu": int(size))
        monkeypatch.setattr(storage, "_SMALL", 0)

    return set_free


def arrays(states: analysis.Trace) -> list[Any]:
    layers = range(len(states.attn_out))
    return [states.resid, states.logits, *(states.pattern_of(layer) for layer in layers)]


def test_a_trace_that_does_not_fit_is_refused_with_both_figures_before_any_work(
    long: Model, free: Callable[[float], None]
) -> None:
    free(0.5e9)
    passes: list[Any] = []
    handle = long.hf.register_forward_pre_hook(lambda *_: passes.append(1))
    with pytest.raises(NotEnoughMemoryError, match=FIGURES) as caught:
        analysis.trace(long, [1] * 6000)
    handle.remove()
    assert not passes
    needed = float(re.findall(r"about ([\d.]+) GB", caught.value.message)[0])
    assert needed > 3 * 4 * 6000**2 * 4 / 1e9  # the patterns alone
    assert "0.5 GB are free" in caught.value.message


def test_what_a_refusal_offers_fits(long: Model, free: Callable[[float], None]) -> None:
    ids = built.ids(long, 400)
    whole = analysis.trace(long, ids)
    need = {
        name: storage.bytes_needed(long, 400, store)
        for name, store in {
            "all": PatternStore(), "half": PatternStore("float16"),
            "two": PatternStore(layers=(0, 1)), "disk": PatternStore(on_disk=True),
        }.items()
    }  # fmt: skip
    assert need["disk"] < need["half"] < need["two"] < need["all"]
    free(need["two"])
    with pytest.raises(NotEnoughMemoryError) as caught:
        analysis.trace(long, ids)
    for offered in ("pattern_dtype='float16'", "patterns_on_disk=True", "at most 2 layers"):
        assert offered in caught.value.hint
    np.testing.assert_array_equal(
        analysis.trace(long, ids, pattern_layers=[0, -2]).logits, whole.logits
    )
    analysis.trace(long, ids, pattern_dtype="float16")
    analysis.trace(long, ids, patterns_on_disk=True)
    free(need["half"])
    with pytest.raises(NotEnoughMemoryError, match=r"at most 1 layer "):
        analysis.trace(long, ids, pattern_layers=[0, 1])


def test_a_shorter_prompt_is_offered_if_nothing_else_fits(
    long: Model, free: Callable[[float], None]
) -> None:
    free(30e6)
    with pytest.raises(NotEnoughMemoryError, match=r"Use at most [\d,]+ tokens") as caught:
        analysis.trace(long, [1] * 6000)
    most = int(re.findall(r"at most ([\d,]+) tokens", caught.value.hint)[0].replace(",", ""))
    assert len(analysis.trace(long, [1] * most).tokens) == most


def test_patterns_on_disk_are_the_same_numbers(small: Case) -> None:
    ids = small.trace.token_ids
    mapped = analysis.trace(small.model, ids, patterns_on_disk=True)
    for one, other in zip(arrays(mapped), arrays(small.trace), strict=True):
        np.testing.assert_array_equal(one, other)
    assert mapped.nbytes == small.trace.nbytes - small.trace.pattern.nbytes
    assert check_run(small.model, mapped, LedgerSpec()).passed
    graphs = [
        analysis.flow(small.model, states, method="proximity") for states in (mapped, small.trace)
    ]
    np.testing.assert_array_equal(graphs[0].link_share, graphs[1].link_share)


def test_patterns_in_16_bits_have_the_stated_error(small: Case) -> None:
    half = analysis.trace(small.model, small.trace.token_ids, pattern_dtype="float16")
    assert half.pattern_error == 2.0**-11
    exact, rounded = small.trace.pattern, half.pattern.astype(np.float64)
    assert (np.abs(rounded - exact) <= np.maximum(2.0**-11 * exact, 3e-8)).all()
    assert np.abs(rounded - exact).max() > 0
    np.testing.assert_array_equal(half.logits, small.trace.logits)
    ledger = check_run(small.model, half, LedgerSpec())
    assert ledger.passed
    assert "16 bits" in next(entry.note for entry in ledger.entries if entry.number == 4)
    assert max(entry.tolerance for entry in ledger.entries if entry.number in (4, 5)) <= 1e-3


def test_only_the_patterns_asked_for_are_kept(small: Case) -> None:
    some = analysis.trace(small.model, small.trace.token_ids, pattern_layers=[-1])
    np.testing.assert_array_equal(some.pattern_of(2), small.trace.pattern_of(2))
    np.testing.assert_array_equal(
        analysis.head_output(small.model, some, 2),
        analysis.head_output(small.model, small.trace, 2),
    )
    grids = [analysis.decode(small.model, states) for states in (some, small.trace)]
    np.testing.assert_array_equal(grids[0].probs, grids[1].probs)
    for reading in (analysis.attribute, analysis.flow):
        with pytest.raises(SpecError, match=r"pattern of layer \d was not kept.*pattern_layers"):
            reading(small.model, some)
    ledger = check_run(small.model, some, LedgerSpec())
    assert ledger.passed
    assert "patterns of 2 layers were not kept" in ledger.entries[3].note
    with pytest.raises(SpecError, match="Layer 7 does not exist"):
        analysis.trace(small.model, small.trace.token_ids, pattern_layers=[7])
    with pytest.raises(SpecError, match="no pattern dtype 'int8'"):
        analysis.trace(small.model, small.trace.token_ids, pattern_dtype="int8")


def test_a_run_of_the_page_keeps_its_patterns_on_disk_if_memory_is_short(
    long: Model, free: Callable[[float], None]
) -> None:
    ids = built.ids(long, 400)
    whole = analysis.trace(long, ids)
    free(storage.bytes_needed(long, 400, PatternStore(on_disk=True)))
    states = fitting_trace(long, ids)
    assert states.nbytes < whole.nbytes - whole.pattern.nbytes // 2
    for one, other in zip(arrays(states), arrays(whole), strict=True):
        np.testing.assert_array_equal(one, other)
    free(1e6)
    with pytest.raises(NotEnoughMemoryError, match=r"1\.0 MB.* are free\. Shorten"):
        fitting_trace(long, ids)


def test_every_forward_pass_is_estimated(long: Model, free: Callable[[float], None]) -> None:
    free(0.2e9)
    with pytest.raises(NotEnoughMemoryError, match="A forward pass of 6,000 tokens " + FIGURES):
        analysis.generate(long, [1] * 6000, 1)


def test_a_graph_with_more_links_than_fit_is_refused_with_both_figures(
    long: Model, free: Callable[[float], None]
) -> None:
    states = analysis.trace(long, built.ids(long, 300))
    links = len(analysis.flow(long, states, method="proximity").link_share)
    free(40 * links)
    with pytest.raises(NotEnoughMemoryError, match=r"300 positions .* [GM]B; .* are free.*budget"):
        analysis.flow(long, states, method="proximity")
    for options in ({"budget": 40}, {"threshold": 0.1}, {"top_k": 3}):
        found = analysis.flow(long, states, method="proximity", **options)  # type: ignore[arg-type]
        assert found.link_share.size


def test_a_signed_flow_that_does_not_fit_is_refused_with_both_figures(
    small: Case, free: Callable[[float], None]
) -> None:
    free(1e3)
    with pytest.raises(NotEnoughMemoryError, match="signed flow from 9 positions needs up to") as (
        caught
    ):
        analysis.flow(small.model, small.trace, method="signed")
    assert "0.0 MB are free" in caught.value.message
    assert "earlier position" in caught.value.hint


def test_a_backward_pass_that_does_not_fit_is_refused_with_both_figures(
    long: Model, free: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradients, "RECOMPUTE_ABOVE", 300)
    states = analysis.trace(long, built.ids(long, 300))
    saved: dict[int, int] = {}
    own = {part.data_ptr() for part in long.hf.parameters()}

    def count(state: torch.Tensor) -> torch.Tensor:
        if state.untyped_storage().data_ptr() not in own:
            saved[state.untyped_storage().data_ptr()] = state.untyped_storage().nbytes()
        return state

    hook = long.hf.model.layers[0].register_forward_pre_hook(
        lambda _module, args: (args[0].detach().requires_grad_().clone(), *args[1:])
    )
    with torch.autograd.graph.saved_tensors_hooks(count, lambda state: state):
        kept = long.hf(torch.tensor([states.token_ids]), use_cache=False, logits_to_keep=1).logits
    hook.remove()
    assert kept.requires_grad
    assert saved_bytes(long, states, 300) == pytest.approx(sum(saved.values()), rel=0.01)
    free(storage.pass_bytes(long, 1, 300) + 0.9 * sum(saved.values()))
    with pytest.raises(NotEnoughMemoryError, match=r"backward pass of 300 tokens .* are free"):
        analysis.flow(long, states, method="effect", budget=300)


def test_a_long_backward_pass_saves_the_scores_of_one_layer_at_a_time(
    long: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = analysis.trace(long, built.ids(long, 300))
    sizes = {True: saved_bytes(long, states, 300)}
    squares: dict[bool, dict[int, int]] = {True: {}, False: {}}
    for again in (True, False):
        monkeypatch.setattr(gradients, "RECOMPUTE_ABOVE", 0 if again else 300)

        def count(state: torch.Tensor, kept: dict[int, int] = squares[again]) -> torch.Tensor:
            if state.numel() >= 4 * 300**2:
                kept[state.data_ptr()] = state.nbytes
            return state

        with torch.autograd.graph.saved_tensors_hooks(count, lambda state: state):
            gradients.gradients(long, states, Target(299, 5))
    sizes[False] = saved_bytes(long, states, 300)
    assert not squares[True]
    assert len(squares[False]) >= long.info.layers
    of_two_layers = 2 / 3 * sum(squares[False].values())
    assert sizes[False] - sizes[True] == pytest.approx(of_two_layers, rel=0.02)


def test_a_full_disk_is_refused_with_both_figures(
    long: Model, free: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    free(4e9)

    class Usage:
        free = 10**6

    monkeypatch.setattr(storage.shutil, "disk_usage", lambda _folder: Usage)
    with pytest.raises(NotEnoughMemoryError, match=r"GB of disk; .* 1\.0 MB of disk are free"):
        analysis.trace(long, [1] * 6000, patterns_on_disk=True)


@pytest.mark.parametrize(
    "error", [MemoryError("Unable to allocate 268. GiB"), RuntimeError("can't allocate memory: 9")]
)
def test_memory_that_runs_out_all_the_same_gives_a_typed_error(error: Exception) -> None:
    def work() -> None:
        raise error

    with pytest.raises(NotEnoughMemoryError, match=r"work ran out of memory: .* GB are free"):
        checked(work)()


def test_another_runtime_error_stays_what_it_is() -> None:
    def work() -> None:
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        checked(work)()


@pytest.mark.real
def test_6000_tokens_of_the_default_model_are_refused_with_both_figures(
    smollm: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free", lambda _device="cpu": int(16e9))
    with pytest.raises(NotEnoughMemoryError, match=FIGURES) as caught:
        analysis.trace(smollm.model, [100] * 6000)
    assert float(re.findall(r"about ([\d.]+) GB", caught.value.message)[0]) > 38.8
    assert "pattern_layers with at most" in caught.value.hint
