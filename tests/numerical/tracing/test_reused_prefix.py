"""A trace that goes on from a known prefix has the states of a whole pass."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import analysis
from analysis import codec
from analysis.errors import SpecError
from analysis.lens import grid as lens_grid
from analysis.lens.specs import LensSpec
from analysis.model import handle
from analysis.model.handle import Model
from analysis.tracing import storage
from analysis.tracing.capture import Trace
from analysis.tracing.interventions import Ablate
from analysis.tracing.prefix import CHECKED
from analysis.tracing.specs import RunSpec, TraceSpec
from analysis.trajectory.specs import EmergenceSpec
from analysis.worker.engine import Engine
from analysis.worker.messages import Limits, Request
from tests.numerical.conftest import Case
from tests.support import built, zoo

#: Kinds whose passes must go on; each of another family, or with another mask or cache.
GOING_ON = (
    "gpt2", "gpt_neox", "opt", "phi", "llama", "mistral", "mixtral", "qwen3_moe", "gemma2",
    "gemma3_text", "olmo2", "cohere2", "granite_swa", "gpt_oss", "deepseek_v3",
)  # fmt: skip
#: Kinds that take the whole pass: no attention interface, or more states than keys and values.
WHOLE = ("gptj", "bloom", "falcon", "jamba")
#: Run by ``make check``.
USUAL = ("gpt2", "gpt_neox", "llama", "mixtral", "gemma2", "deepseek_v3", "gptj", "jamba")
KINDS = [
    kind if kind in USUAL else pytest.param(kind, marks=pytest.mark.full) for kind in zoo.CONFIGS
]
#: The prefix is longer than every sliding window of the zoo.
KNOWN, LENGTH = 17, 24


@contextmanager
def passes(model: Model) -> Iterator[list[int]]:
    """The number of tokens of each pass inside the block."""
    seen: list[int] = []

    def count(_module: Any, _args: Any, options: dict[str, Any]) -> None:
        seen.append(options["input_ids"].shape[1])

    handle = model.hf.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def arrays(states: Trace) -> dict[str, Any]:
    """Every array of a trace by name; the axis of positions is the last but one."""
    layers = range(len(states.attn_out))
    found = {
        "resid": states.resid, "attn_out": states.attn_out, "mlp_out": states.mlp_out,
        "logits": states.logits, **states.other_out,
    }  # fmt: skip
    for layer in layers:
        found[f"pattern {layer}"] = states.pattern_of(layer)
        found[f"value {layer}"] = states.value_of(layer)
        if layer in states.keys:
            found[f"key {layer}"] = states.keys[layer].numpy()
        if layer in states.gates:
            found[f"gate {layer}"] = states.gates[layer].swapaxes(0, 1)
    return found


def assert_same_states(found: Trace, wanted: Trace, limit: float = 2e-5) -> None:
    """Every array is the same, up to rounding of each vector."""
    assert found.token_ids == wanted.token_ids
    one, other = arrays(found), arrays(wanted)
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert array.shape == other[name].shape, name
        np.testing.assert_array_equal(np.isnan(array), np.isnan(other[name]))
        if not array.size:
            continue
        one_array, wanted_array = np.nan_to_num(array), np.nan_to_num(other[name])
        size = np.linalg.norm(wanted_array, axis=-1, keepdims=True)
        error = np.abs(one_array - wanted_array) / np.maximum(size, 1e-3 * size.max() + 1e-30)
        assert error.max() < limit, name


def prefix_of(states: Trace, count: int) -> dict[str, Any]:
    """The arrays of the first positions; of a pattern, the weights among them."""
    return {
        name: array[..., :count, :count] if "pattern" in name else array[..., :count, :]
        for name, array in arrays(states).items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_longer_prompt_has_the_states_of_a_whole_pass(kind: str) -> None:
    model = built.understood(zoo.make(kind), kind)
    ids = tuple(number % 90 + 3 for number in built.ids(model, LENGTH))
    before = analysis.trace(model, ids[:KNOWN])
    with passes(model) as seen:
        longer = analysis.trace(model, ids, after=before)
    assert_same_states(longer, analysis.trace(model, ids))
    assert longer.reused in (0, KNOWN)
    assert longer.reused or kind not in GOING_ON
    if longer.reused:
        assert kind not in WHOLE
        assert seen == [LENGTH - KNOWN + CHECKED]
        assert longer.reuse_error < 2e-5
        taken, kept = prefix_of(longer, KNOWN), prefix_of(before, KNOWN)
        for name, array in taken.items():
            np.testing.assert_array_equal(array, kept[name], err_msg=name)


def test_it_goes_on_again_from_a_longer_shorter_equal_or_branching_prompt(small: Case) -> None:
    model, ids = small.model, built.ids(small.model, 40)
    states = analysis.trace(model, ids[:20])
    for length in (21, 22, 30):
        states = analysis.trace(model, ids[:length], after=states)
        assert states.reused == {21: 20, 22: 21, 30: 22}[length]
    branch = (*ids[:25], 3, 4)
    for prompt, known in ((ids[:30], 29), (ids[:10], 9), (branch, 25), ((1, *ids), 0)):
        found = analysis.trace(model, prompt, after=states)
        assert found.reused == known
        assert_same_states(found, analysis.trace(model, prompt))


def test_every_reading_of_a_reused_trace_is_that_of_a_whole_pass(small: Case) -> None:
    model, ids = small.model, built.ids(small.model, 24)
    found = analysis.trace(model, ids, after=analysis.trace(model, ids[:20]))
    wanted = analysis.trace(model, ids)
    assert found.reused == 20
    one, other = (analysis.attribute(model, states) for states in (found, wanted))
    np.testing.assert_allclose(one.heads, other.heads, atol=1e-4)
    graphs = [analysis.flow(model, states, threshold=0.01) for states in (found, wanted)]
    np.testing.assert_allclose(graphs[0].link_share, graphs[1].link_share, atol=1e-4)
    curves = [analysis.emergence(model, states) for states in (found, wanted)]
    np.testing.assert_allclose(curves[0].probs, curves[1].probs, atol=1e-5)
    assert curves[0].causal_commit == curves[1].causal_commit


@pytest.mark.parametrize(
    "options",
    [{"pattern_dtype": "float16"}, {"patterns_on_disk": True}, {"pattern_layers": [1, 2]}],
    ids=str,
)
def test_patterns_are_stored_as_they_are_wanted(small: Case, options: dict[str, Any]) -> None:
    model, ids = small.model, built.ids(small.model, 30)
    whole = analysis.trace(model, ids[:20])
    wanted = analysis.trace(model, ids, **options)
    for before in (whole, analysis.trace(model, ids[:20], **options)):
        found = analysis.trace(model, ids, after=before, **options)
        assert found.reused == 20
        np.testing.assert_allclose(found.pattern[1], wanted.pattern[1], atol=1e-3)
        assert found.pattern_error == wanted.pattern_error
        assert found.nbytes == wanted.nbytes
    plain = analysis.trace(model, ids, after=analysis.trace(model, ids[:20], **options))
    assert plain.reused == (20 if options == {"patterns_on_disk": True} else 0)
    assert_same_states(plain, analysis.trace(model, ids))


def test_interventions_take_the_whole_pass(small: Case) -> None:
    model, ids = small.model, built.ids(small.model, 24)
    edit = Ablate("mlp_output", 1)
    edited = analysis.trace(model, ids[:20], [edit])
    assert not edited.keys
    assert analysis.trace(model, ids, after=edited).reused == 0
    plain = analysis.trace(model, ids[:20])
    found = analysis.trace(model, ids, [edit], after=plain)
    assert found.reused == 0
    np.testing.assert_array_equal(found.logits, analysis.trace(model, ids, [edit]).logits)


def looking_ahead() -> Model:
    """A model whose first block adds the mean over all positions."""
    model = built.understood(zoo.make("llama"), "llama")

    def look_ahead(_module: Any, _args: Any, output: Any) -> Any:
        state = output[0] if isinstance(output, tuple) else output
        changed = state + 0.05 * state.mean(1, keepdim=True)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    model.stream.blocks[0].module.register_forward_hook(look_ahead)
    return model


def test_a_model_that_sees_later_positions_takes_the_whole_pass() -> None:
    """The states of a prefix change with what follows it, which the repeated positions show."""
    model = looking_ahead()
    ids = tuple(range(5, 29))
    before = analysis.trace(model, ids[:20])
    found, wanted = analysis.trace(model, ids, after=before), analysis.trace(model, ids)
    assert found.reused == 0
    np.testing.assert_array_equal(found.logits, wanted.logits)
    assert not model.goes_on


def test_a_model_that_fails_with_a_cache_takes_the_whole_pass(
    small: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ids = small.model, built.ids(small.model, 24)
    before, plain = analysis.trace(model, ids[:20]), model.hf.forward

    def forward(*args: Any, **options: Any) -> Any:
        if options.get("past_key_values") is not None:
            raise ValueError("no such cache")
        return plain(*args, **options)

    functools.update_wrapper(forward, plain)
    monkeypatch.setattr(model.hf, "forward", forward)
    monkeypatch.setattr(model, "went_wrong", False)  # and again after the test
    found = analysis.trace(model, ids, after=before)
    assert found.reused == 0
    assert not model.goes_on
    np.testing.assert_array_equal(found.logits, analysis.trace(model, ids).logits)


def test_a_trace_of_another_model_is_refused(gpt2: Case, llama: Case) -> None:
    with pytest.raises(SpecError, match="was made with"):
        analysis.trace(gpt2.model, gpt2.trace.token_ids, after=llama.trace)


@contextmanager
def decoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The number of cells of each call of the grid's product with the vocabulary."""
    counts: list[int] = []
    known = lens_grid.CellReader.vectors

    def vectors(self: Any, rows: Any, positions: Any) -> Any:
        counts.append(len(rows))
        return known(self, rows, positions)

    with monkeypatch.context() as patch:
        patch.setattr(lens_grid.CellReader, "vectors", vectors)
        yield counts


@pytest.mark.parametrize(
    "options",
    [
        {}, {"component": "mlp_output", "target": [3, 5]}, {"decoder": "linear", "k": 2},
        {"similarity": "cosine"}, {"component": "head_output", "head": 1},
        {"component": "source_output", "head": 1, "source": 21}, {"candidates": "subtraction"},
    ],
    ids=str,
)  # fmt: skip
def test_a_grid_takes_the_cells_of_the_prefix(
    llama: Case, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    model, ids = llama.model, built.ids(llama.model, 26)
    before = analysis.trace(model, ids[:24])
    rows = len(analysis.decode(model, before, **options).rows)
    found = analysis.trace(model, ids[:25], after=before)
    with decoded(monkeypatch) as cells:
        grid = analysis.decode(model, found, **options)
    new = 1 if options.get("candidates") is None else 2  # its vectors are read twice
    assert sum(cells) == new * rows
    wanted = analysis.decode(model, analysis.trace(model, ids[:25]), **options)
    np.testing.assert_array_equal(grid.token_ids, wanted.token_ids)
    for name in ("probs", "scores", "entropy", "kl_to_final", "target_probs", "explained"):
        np.testing.assert_allclose(getattr(grid, name), getattr(wanted, name), atol=2e-4)
    np.testing.assert_array_equal(grid.target_ranks, wanted.target_ranks)
    again = analysis.trace(model, ids, after=found)
    with decoded(monkeypatch) as cells:
        part = analysis.decode(model, again, rows=[1, 2], positions=[3, -1], **options)
    assert sum(cells) == new * 2
    np.testing.assert_array_equal(part.token_ids[:, 0], wanted.token_ids[1:3, 3])


def test_cells_that_can_depend_on_more_than_their_states_are_decoded_again(
    llama: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source counted from the end is another one in a longer prompt."""
    model, ids = llama.model, built.ids(llama.model, 25)
    before = analysis.trace(model, ids[:24])
    options: dict[str, Any] = {"component": "source_output", "head": 1, "source": -4}
    analysis.decode(model, before, **options)
    found = analysis.trace(model, ids, after=before)
    wanted = analysis.decode(model, analysis.trace(model, ids), **options)
    np.testing.assert_array_equal(
        analysis.decode(model, found, **options).token_ids, wanted.token_ids
    )


def test_a_column_of_a_reused_trace_is_known_to_the_next_one(
    llama: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page asks for one column first; the next prompt still has the columns before it."""
    model, ids = llama.model, built.ids(llama.model, 26)
    first = analysis.trace(model, ids[:24])
    rows = len(analysis.decode(model, first).rows)
    second = analysis.trace(model, ids[:25], after=first)
    analysis.decode(model, second, positions=[-1])
    third = analysis.trace(model, ids, after=second)
    with decoded(monkeypatch) as cells:
        grid = analysis.decode(model, third)
    assert sum(cells) == rows
    wanted = analysis.decode(model, analysis.trace(model, ids))
    np.testing.assert_array_equal(grid.token_ids, wanted.token_ids)


def test_the_worker_goes_on_from_the_prompts_it_knows(tiny_llama_dir: Path) -> None:
    engine, name = Engine(Limits()), str(tiny_llama_dir)
    ids = tuple(range(5, 30))

    def ask(kind: str, *specs: Any) -> Any:
        return codec.decode(engine.perform(Request(kind, name, "f", specs)).data)

    def answers(own: tuple[int, ...]) -> list[Any]:
        of = TraceSpec(name, own)
        return [
            ask("run", RunSpec(name, token_ids=own)), ask("decode", of, LensSpec()),
            ask("emergence", of, EmergenceSpec(causal=True)),
        ]  # fmt: skip

    answers(ids[:24])
    (model,) = (engine._models.get(key) for key in engine._models)
    assert model is not None
    with passes(model) as seen:
        found = answers(ids)
        assert seen[0] == 1 + CHECKED
        seen.clear()
        ask("run", RunSpec(name, token_ids=(*ids[:4], *ids[6:])))  # the prefix is too short
        assert seen == [23]
        seen.clear()
        ask("attribute", TraceSpec(name, ids, (Ablate("mlp_output", 1),)), _attribution())
        assert seen == [25]  # an edited run
    engine = Engine(Limits())
    for one, other in zip(found, answers(ids), strict=True):
        for field in ("token_ids", "top_ids", "ranks", "causal_commit"):
            np.testing.assert_array_equal(getattr(one, field, 0), getattr(other, field, 0))
        for field in ("top_probs", "probs", "entropy"):
            np.testing.assert_allclose(getattr(one, field, 0), getattr(other, field, 0), atol=1e-5)


def _attribution() -> Any:
    from analysis.attribution.specs import AttributionSpec

    return AttributionSpec()


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "deepseek_v3"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_long_prompt_in_blocks_has_the_states_of_one_pass(
    kind: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = built.understood(zoo.make(kind), kind)
    ids = tuple(number % 90 + 3 for number in built.ids(model, 50))
    wanted = analysis.trace(model, ids, pattern_dtype=dtype)
    monkeypatch.setattr(handle, "BLOCK", 16)
    with passes(model) as seen:
        found = analysis.trace(model, ids, pattern_dtype=dtype, patterns_on_disk=True)
    assert seen == [16, 16 + CHECKED, 16 + CHECKED, 2 + CHECKED]
    assert_same_states(found, wanted, 2e-5 if dtype == "float32" else 2e-3)
    assert found.reuse_error < 2e-5
    longer = analysis.trace(model, (*ids, 5), pattern_dtype=dtype, after=found)
    assert longer.reused == 50
    one, other = (analysis.flow(model, states, threshold=0.02) for states in (found, wanted))
    np.testing.assert_allclose(one.hidden_share, other.hidden_share, atol=1e-3)


def test_blocks_need_less_memory_than_one_pass(small: Case) -> None:
    whole = storage.bytes_needed(small.model, 6000, storage.PatternStore(on_disk=True))
    blocks = storage.PatternStore(on_disk=True, block=handle.BLOCK)
    assert storage.bytes_needed(small.model, 6000, blocks) < whole / 4
    assert small.model.block_of(512) == 0
    assert small.model.block_of(513) == handle.BLOCK


def test_a_model_that_sees_later_positions_is_not_run_in_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, ids = looking_ahead(), tuple(range(5, 45))
    wanted = analysis.trace(model, ids)
    monkeypatch.setattr(handle, "BLOCK", 16)
    found = analysis.trace(model, ids, patterns_on_disk=True)
    np.testing.assert_array_equal(found.logits, wanted.logits)
    assert not model.goes_on


@pytest.mark.real
def test_on_the_real_model_the_error_is_rounding(smollm: Case) -> None:
    ids = smollm.model.tokenizer("The capital of France is Paris, and the capital of Italy is")
    prompt = tuple(ids["input_ids"])
    before = analysis.trace(smollm.model, prompt[:-1])
    found = analysis.trace(smollm.model, prompt, after=before)
    assert found.reused == len(prompt) - 1
    assert found.reuse_error < 2e-5
    whole = torch.from_numpy(analysis.trace(smollm.model, prompt).logits[-1])
    error = (torch.from_numpy(found.logits[-1]) - whole).norm() / whole.norm()
    assert float(error) < 2e-5
