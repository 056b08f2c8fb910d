"""Neurons, other prompts' components and held patterns against hooks made with torch alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import analysis
from analysis.errors import SpecError
from analysis.model.attention_hooks import mixed_values
from analysis.tracing.intervention_hooks import applied
from analysis.tracing.interventions import (
    Ablate,
    HoldPatterns,
    Inject,
    KnockOut,
    PatchPrompt,
    SteerPrompts,
)
from tests.numerical.conftest import Case
from tests.support import built, zoo

IDS = (5, 9, 33, 2, 8, 41, 17)
OTHER = (4, 30, 6, 7, 11, 12, 13)
SHORT = OTHER[:3]
Hook = Callable[[Tensor], None]


@pytest.fixture(scope="module")
def gpt_neox() -> Case:
    """Parallel blocks, LayerNorm, partly rotary, untied."""
    model = built.understood(zoo.make("gpt_neox"), "gpt_neox")
    return Case(model, analysis.trace(model, IDS))


@pytest.fixture(params=["gpt2", "llama", "gpt_neox"])
def model(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param).model


def parts(model: Any, layer: int) -> dict[str, Any]:
    """The modules of a block, by their names in the three architectures."""
    hf = model.hf
    if model.info.architecture == "gpt2":
        block = hf.transformer.h[layer]
        found = block.attn, block.attn.c_proj, block.mlp, block.mlp.c_proj
    elif model.info.architecture == "gpt_neox":
        block = hf.gpt_neox.layers[layer]
        found = block.attention, block.attention.dense, block.mlp, block.mlp.dense_4h_to_h
    else:
        block = hf.model.layers[layer]
        found = block.self_attn, block.self_attn.o_proj, block.mlp, block.mlp.down_proj
    return dict(zip(("block", "attention", "heads", "mlp", "down"), (block, *found), strict=True))


def first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def editing(module: Any, edit: Hook, *, before: bool = False) -> Iterator[None]:
    """A hook of torch alone that edits states [batch, pos, d] in place."""

    def after_call(_module: Any, _inputs: Any, output: Any) -> None:
        edit(first(output))

    def before_call(_module: Any, inputs: Any) -> Any:
        changed = inputs[0].clone()
        edit(changed)
        return (changed, *inputs[1:])

    add = module.register_forward_pre_hook if before else module.register_forward_hook
    handle = add(before_call if before else after_call)
    try:
        yield
    finally:
        handle.remove()


def run(model: Any, *sequences: tuple[int, ...]) -> np.ndarray:
    """[n, pos, vocab] logits of the model itself, whatever hooks it has."""
    with torch.no_grad():
        logits = model.hf(torch.tensor(sequences), use_cache=False).logits
    return np.asarray(logits.float())


def states(model: Any, module: Any, ids: tuple[int, ...], *, before: bool) -> Tensor:
    """[pos, d] what a module reads or returns."""
    kept: list[Tensor] = []
    with editing(module, lambda state: kept.append(state[0].clone()), before=before):
        run(model, ids)
    return kept[0]


#: Component, its module, whether its input is edited, and its number inside the layer.
COMPONENTS: dict[str, tuple[str, bool, dict[str, int]]] = {
    "attention_output": ("attention", False, {}),
    "mlp_output": ("mlp", False, {}),
    "head_output": ("heads", True, {"head": 2}),
    "neuron": ("down", True, {"neuron": 5}),
}


#: Options of an ablation, the positions that change, and their new values.
Replacement = tuple[dict[str, Any], Any, Callable[[Tensor], Any]]


def replacements(part: slice, other: Tensor, short: Tensor) -> list[Replacement]:
    """Each value at one, several or all positions; ``other`` and ``short`` are [pos, part]."""
    resample = {"value": "resample"}
    at_end = {"pos": 5, "prompt": SHORT, "source_pos": -1}
    return [
        ({}, slice(None), lambda _state: 0.0),
        ({"pos": 3, "value": "mean"}, [3], lambda state: state[0][:, part].mean(0)),
        ({**resample, "pos": (1, 4), "prompt": OTHER}, [1, 4], lambda _state: other[[1, 4]]),
        ({**resample, **at_end}, [5], lambda _state: short[-1]),
        ({**resample, "prompt": SHORT}, [0, 1, 2], lambda _state: short),
    ]


@pytest.mark.parametrize("component", COMPONENTS)
def test_replacing_a_component_equals_a_hook(model: Any, component: str) -> None:
    """Zero, mean and another prompt's value; one, several and all positions; alone, in a batch."""
    name, before, unit = COMPONENTS[component]
    width = model.info.d_head
    part = {"head": slice(2 * width, 3 * width), "neuron": slice(5, 6)}.get(
        next(iter(unit), ""), slice(None)
    )
    module = parts(model, 1)[name]
    cases = replacements(
        part, *(states(model, module, ids, before=before)[:, part] for ids in (OTHER, SHORT))
    )
    plain, wanted, edits = run(model, IDS)[0], [], []
    for options, where, value in cases:

        def edit(state: Tensor, where: Any = where, value: Any = value) -> None:
            new = value(state)
            state[0, where, part] = new

        with editing(module, edit, before=before):
            wanted.append(run(model, IDS)[0])
        edits.append(Ablate(component, 1, **unit, **options))
        found = analysis.trace(model, IDS, [edits[-1]])
        np.testing.assert_allclose(found.logits, wanted[-1], atol=1e-5)
        assert np.abs(found.logits - plain).max() > 1e-5
    with applied(model, [[edit] for edit in edits], len(IDS)):
        batch = run(model, *[IDS] * len(edits))
    np.testing.assert_allclose(batch, wanted, atol=1e-5)
    window = analysis.decode(
        model, analysis.trace(model, IDS, [edits[2]]), rows=[-1], positions=[4]
    )
    assert window.token_ids[0, 0, 0] == wanted[2][4].argmax()
    assert np.array_equal(run(model, IDS)[0], plain)


def test_steering_by_two_prompts_equals_a_hook(model: Any) -> None:
    block = parts(model, 1)["block"]
    towards, away = (states(model, block, ids, before=False) for ids in (OTHER, SHORT))

    def edit(state: Tensor) -> None:
        state[0, 3] += -2.5 * (towards[-1] - away[0])

    with editing(block, edit):
        wanted = run(model, IDS)[0]
    found = analysis.trace(model, IDS, [SteerPrompts(2, 3, OTHER, SHORT, -2.5, away_pos=0)])
    np.testing.assert_allclose(found.logits, wanted, atol=1e-5)


def patterns(model: Any, ids: tuple[int, ...]) -> dict[int, Tensor]:
    trace = analysis.trace(model, ids)
    return {n: torch.from_numpy(trace.pattern_of(n).copy()) for n in range(model.info.layers)}


@contextmanager
def frozen(model: Any, held: dict[int, Tensor]) -> Iterator[None]:
    """Each output projection reads the held pattern times the pass's own values."""
    values: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[..., None]:
        def hook(_module: Any, _inputs: Any, output: Tensor) -> None:
            """Keep the values [batch, kv_head, pos, d_head]."""
            info = model.info
            if info.architecture == "gpt2":
                output = output.split(info.d_model, dim=-1)[2]
            if info.architecture == "gpt_neox":
                each = output.view(*output.shape[:2], info.heads, 3, info.d_head)
                output = each[:, :, :, 2].flatten(2)
            values[layer] = output.view(*output.shape[:2], -1, info.d_head).transpose(1, 2)

        return hook

    def put(layer: int) -> Hook:
        def edit(state: Tensor) -> None:
            mixed = mixed_values(values[layer], held[layer].expand(len(state), -1, -1, -1))
            assert mixed is not None
            state[...] = mixed.flatten(2)

        return edit

    with ExitStack() as stack:
        for layer in held:
            modules = parts(model, layer)
            names = {"gpt2": "c_attn", "gpt_neox": "query_key_value"}
            source = getattr(modules["attention"], names.get(model.info.architecture, "v_proj"))
            stack.callback(source.register_forward_hook(keep(layer)).remove)
            stack.enter_context(editing(modules["heads"], put(layer), before=True))
        yield


EDIT = Ablate("mlp_output", 0, pos=2)


def test_held_patterns_equal_hooks(model: Any) -> None:
    """Without edits the run is the baseline; with them, values change and patterns do not."""
    plain = analysis.trace(model, IDS)
    held = patterns(model, IDS)
    alone = analysis.trace(model, IDS, [HoldPatterns()])
    assert np.abs(alone.logits - plain.logits).max() <= 1e-6

    def zero(state: Tensor) -> None:
        state[0, 2] = 0.0

    with frozen(model, held), editing(parts(model, 0)["mlp"], zero):
        wanted = run(model, IDS)[0]
    free = analysis.trace(model, IDS, [EDIT])
    found = analysis.trace(model, IDS, [EDIT, HoldPatterns()])
    np.testing.assert_allclose(found.logits, wanted, atol=1e-5)
    assert np.abs(found.logits - free.logits).max() > 1e-5
    for layer in held:
        np.testing.assert_allclose(found.pattern_of(layer), held[layer], atol=1e-6)
    sums = analysis.head_output(model, found, 1).sum(0) + analysis.attention_bias(model, found, 1)
    np.testing.assert_allclose(sums, found.attn_out[1], atol=1e-5)
    sets = [[EDIT], [EDIT, HoldPatterns()], [HoldPatterns()], []]
    with applied(model, sets, len(IDS)):
        batch = run(model, *[IDS] * len(sets))
    for row, wanted_row in zip(batch, (free, found, plain, plain), strict=True):
        np.testing.assert_allclose(row, wanted_row.logits, atol=1e-5)


def test_held_patterns_are_held_while_generating(model: Any) -> None:
    edits, ids = [EDIT, HoldPatterns()], IDS[:4]
    wanted = ids
    for _ in range(3):
        logits = analysis.trace(model, wanted, edits).logits
        wanted = (*wanted, int(logits[-1].argmax()))
    assert analysis.generate(model, ids, 3, interventions=edits) == wanted


def test_a_cut_edge_gives_its_weight_to_the_others_of_the_held_pattern(model: Any) -> None:
    plain = patterns(model, IDS)
    edits = [EDIT, KnockOut(1, 0, 6, 2), KnockOut(2, None, 3, 0), HoldPatterns()]
    found = analysis.trace(model, IDS, edits)
    row = plain[1][0, 6].clone()
    row[2] = 0.0
    np.testing.assert_allclose(found.pattern_of(1)[0, 6], row / row.sum(), atol=1e-6)
    np.testing.assert_allclose(found.pattern_of(1)[1:], plain[1][1:], atol=1e-6)
    alone = analysis.trace(model, IDS, [KnockOut(0, 1, 6, 2)])
    held = analysis.trace(model, IDS, [KnockOut(0, 1, 6, 2), HoldPatterns()])
    np.testing.assert_allclose(held.pattern_of(0), alone.pattern_of(0), atol=1e-6)
    everything = [KnockOut(0, 1, 2, key) for key in range(3)]
    empty = analysis.trace(model, IDS, [*everything, HoldPatterns()])
    assert not empty.pattern_of(0)[1, 2].any()
    assert (0, 1, 2) in empty.empty_queries


@pytest.mark.parametrize(
    ("kind", "error"),
    [("gemma2", ""), ("gpt_oss", ""), ("bloom", ""), ("mamba", "no attention")],
)
def test_other_architectures_hold_their_patterns_or_refuse(kind: str, error: str) -> None:
    model = built.understood(zoo.make(kind), kind)
    if error:
        with pytest.raises(SpecError, match=error):
            analysis.trace(model, IDS, [HoldPatterns()])
        return
    plain = analysis.trace(model, IDS)
    held = analysis.trace(model, IDS, [HoldPatterns()])
    assert np.abs(held.logits - plain.logits).max() <= 1e-6
    changed = analysis.trace(model, IDS, [Inject(1, 1, 3), HoldPatterns()])
    for layer in range(model.info.layers):
        np.testing.assert_allclose(changed.pattern_of(layer), plain.pattern_of(layer), atol=1e-6)
    assert np.abs(changed.logits - plain.logits).max() > 1e-4


def test_readings_of_an_edited_run_still_add_up(model: Any) -> None:
    edits = [
        Ablate("head_output", 1, head=1, pos=4, value="resample", prompt=OTHER),
        Ablate("neuron", 1, neuron=3),
        PatchPrompt(1, 2, OTHER),
        HoldPatterns(),
    ]
    trace = analysis.trace(model, IDS, edits)
    assert analysis.ledger.check_run(model, trace, analysis.ledger.LedgerSpec(4)).passed


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ablate("neuron", 1, neuron=10**6), "neuron 1000000 does not exist"),
        (lambda: Ablate("neuron", 1), "needs a neuron"),
        (lambda: Ablate("mlp", 1, neuron=3), "A neuron was given"),
        (lambda: Ablate("mlp", 1, pos=5, value="resample", prompt=SHORT), "has no position 5"),
        (
            lambda: Ablate("mlp", 1, pos=5, value="resample", prompt=SHORT, source_pos=3),
            "Position 3 does not exist",
        ),
        (lambda: Ablate("mlp", 1, value="resample"), "The other prompt is empty"),
        (lambda: Ablate("mlp", 1, prompt="a"), "for the value 'zero'"),
        (lambda: SteerPrompts(1, 1, "a", ""), "The other prompt is empty"),
    ],
)
def test_edits_that_do_not_fit_are_refused(llama: Case, make: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message) as error:
        analysis.trace(llama.model, IDS, [make()])
    assert error.value.hint


def test_neurons_of_experts_are_refused() -> None:
    model = built.understood(zoo.make("mixtral"), "mixtral")
    with pytest.raises(SpecError, match="no single down projection"):
        analysis.trace(model, IDS, [Ablate("neuron", 0, neuron=1)])
