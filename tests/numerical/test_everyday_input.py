"""What users really give to the public functions: it is taken, or refused with a typed error."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import analysis
from analysis import interventions
from analysis.interventions import Ablate, Inject, KnockOut, Patch, Steer, SteerDirection
from analysis.lens.specs import LensSpec
from dash_app import notebook
from tests.numerical.conftest import Case

#: Public functions that need no other argument than a model and a trace.
READINGS = (
    "aggregation_report", "attribute", "colours", "decode", "disagreement", "embedding_report",
    "emergence", "flow",
    "largest_steps", "norm_report", "similarity_report", "steps", "weight_report",
)  # fmt: skip
#: Arguments that must be given, by function, as a user would give them.
REQUIRED: dict[str, dict[str, Any]] = {
    "align": {"a_ids": [1, 2, 3], "b_ids": [1, 3]},
    "attention_bias": {"layer": 0},
    "bertviz": {},
    "block": {"layer": 0},
    "carry_circuits": {"digits": 2},
    "circuits": {"layer": 0, "head": 1},
    "circuitsvis": {"layer": 0},
    "component_graph": {"clean": [1, 2, 3], "corrupted": [1, 4, 3], "curve": False},
    "compare": {"a": [1, 2, 3], "b": [1, 4, 3]},
    "compute": {"spec": LensSpec()},
    "head_output": {"layer": 0},
    "experts": {"layer": 1},
    "generate": {"prompt": [1, 2, 3], "max_new_tokens": 2},
    "import_tuned_lens": {"folder": "no-such-folder"},
    "known_circuit": {"name": "induction-by-hand"},
    "load_recipe": {"path": "no-such-file.safetensors"},
    "load_result": {"path": "no-such-file.safetensors"},
    "neuron_texts": {"layer": 1, "size": 2},
    "open": {"source": "no-such-file.json"},
    "probe_direction": {"target": "carry1", "row": 1},
    "promoted": {"component": "mlp_output", "layer": 1},
    "recipe": {},
    "save_direction": {"name": "a/b", "vector": [0.0]},
    "score_parts": {"layer": 1, "head": 0},
    "show": {"at": "no-such-file.json"},
    "state_circuits": {"layer": 1, "head": 0},
    "suite_effects": {"suite": "induction", "size": 2, "limit": 2, "methods": ["attention"]},
    "sweep": {"clean": [1, 2, 3], "corrupted": [1, 4, 3]},
    "tables": {"result": LensSpec()},
    "transformer_lens_cache": {},
    "trace": {"prompt": [1, 2, 3]},
    **{name: {} for name in READINGS},
}
#: Values that are right for some option.
USUAL = st.sampled_from(
    [
        "output", "input", "full", "none", "dot", "cosine", "top_k", "block_output", "head_output",
        "mlp_output", "kl", "norm", "proximity", "up", "zero", "mean", 0, 1, 2, -1, [0, 1], (0,),
        "e", [1, 2, 3], range(2),
    ]
)  # fmt: skip
NUMBERS = st.one_of(
    st.integers(-4, 12),
    st.sampled_from([10**9, -(10**30), 10**400, float("nan"), float("inf"), -0.0, 1e-320, 2.5]),
    st.sampled_from([np.int64(1), np.float32(0.5), np.bool_(True), np.array(1), np.uint8(2)]),
    st.sampled_from([torch.tensor(1), torch.tensor(0.5), torch.tensor([1, 2])]),
)
OTHERS = st.one_of(
    st.none(),
    st.booleans(),
    st.text(max_size=4),
    st.sampled_from(["\ud800", "", "  ", "Paris", " the", "fulll", b"bytes", 1j]),
    st.lists(st.integers(-3, 400), max_size=4),
    st.sampled_from([np.arange(3), np.zeros((1, 3), np.int32), np.array(["a"]), np.zeros((2, 2))]),
    st.sampled_from([torch.ones(1, 3, dtype=torch.long), torch.ones(32, dtype=torch.bfloat16)]),
    st.sampled_from([torch.ones(32).tolist(), {"input_ids": [[1, 2]]}, {"a": 1}, {1}, Path("x")]),
    st.builds(object),
    st.just([None]),
    st.just([[1], "a"]),
)
ANYTHING = st.one_of(USUAL, NUMBERS, OTHERS)
INTERVENTIONS: dict[Callable[..., Any], tuple[Any, ...]] = {
    Ablate: ("head_output", 0, 1, 2, "zero"),
    KnockOut: (0, 1, 2, 1),
    Patch: (1, 2, torch.zeros(32)),
    Inject: (1, 2, 5, "replace"),
    Steer: (1, 2, torch.zeros(32)),
    SteerDirection: (1, 2, "no-such-direction", 1.0),
}


class Quiet:
    """A case that is not printed with a failing example."""

    def __init__(self, case: Case) -> None:
        self.case = case


@pytest.fixture(scope="session")
def quiet(llama: Case) -> Iterator[Quiet]:
    yield Quiet(llama)
    notebook.close_all()


def call(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """The result; None if the arguments are refused with a typed error that can be displayed."""
    try:
        return function(*args, **options)
    except analysis.AnalysisError as error:
        refusal = str(error).encode()
    assert refusal
    return None


def option_names(name: str) -> list[str]:
    """The arguments of a public function, those of ``DecodeOptions`` included."""
    known = dict(inspect.signature(getattr(analysis, name)).parameters)
    known.pop("specs", None)  # can't be given by name
    more = LensSpec.__dataclass_fields__ if "options" in known else ()
    return sorted({*known, *more} - {"options", "model", "trace"})


def calls(name: str) -> st.SearchStrategy[tuple[str, list[tuple[str, Any]]]]:
    """A public function's name, and one to three of its arguments with any values."""
    options = option_names(name)
    names = st.sampled_from([*options * 4, *options, "model", "trace", "norms"])
    return st.tuples(st.just(name), st.lists(st.tuples(names, ANYTHING), min_size=1, max_size=3))


@example(drawn=("decode", [("k", 10**9)]))
@example(drawn=("flow", [("threshold", 10**400)]))
@example(drawn=("colours", [("rows", [])]))
@example(drawn=("embedding_report", [("seed", -1)]))
@settings(max_examples=300, derandomize=True)
@given(drawn=st.sampled_from(sorted(REQUIRED)).flatmap(calls))
def test_no_argument_of_a_public_function_raises_an_untyped_error(
    quiet: Quiet, drawn: tuple[str, list[tuple[str, Any]]]
) -> None:
    name, options = drawn
    function = getattr(analysis, name)
    known = inspect.signature(function).parameters
    subjects = {"model": quiet.case.model, "trace": quiet.case.trace}
    arguments: dict[str, Any] = {
        **{own: subject for own, subject in subjects.items() if own in known},
        **REQUIRED[name],
    }
    call(function, **{**arguments, **dict(options)})


PLACES = st.lists(st.tuples(st.integers(0, 4), ANYTHING), min_size=1, max_size=2)


@example(kind=KnockOut, places=[(1, None), (2, None)])
@example(kind=Steer, places=[(2, torch.ones(32, dtype=torch.complex64))])
@settings(max_examples=150, derandomize=True)
@given(kind=st.sampled_from(list(INTERVENTIONS)), places=PLACES)
def test_no_argument_of_an_intervention_raises_an_untyped_error(
    quiet: Quiet, kind: Callable[..., Any], places: list[tuple[int, Any]]
) -> None:
    arguments = list(INTERVENTIONS[kind])
    for place, value in places:
        arguments[place % len(arguments)] = value
    item = call(kind, *arguments)
    if item is not None:
        call(analysis.trace, quiet.case.model, [1, 2, 3, 4], [item])
        call(analysis.generate, quiet.case.model, [1, 2, 3, 4], 1, interventions=[item])


@settings(max_examples=60, derandomize=True)
@given(name=ANYTHING, dtype=ANYTHING, device=ANYTHING)
def test_no_name_of_a_model_raises_an_untyped_error(name: Any, dtype: Any, device: Any) -> None:
    call(analysis.load_model, name, dtype=dtype, device=device)


def test_every_public_function_is_tested() -> None:
    functions = {name for name in analysis.__all__ if inspect.isfunction(getattr(analysis, name))}
    assert functions == {*REQUIRED, "load_model"}
    assert set(interventions.__all__) >= {kind.__name__ for kind in INTERVENTIONS}


def test_a_target_may_be_text_an_id_or_a_numpy_integer(llama: Case) -> None:
    number = llama.model.tokenizer(" the", add_special_tokens=False)["input_ids"][0]
    grids = [
        analysis.decode(llama.model, llama.trace, target=target)
        for target in (" the", number, np.int64(number), torch.tensor(number))
    ]
    for grid in grids:
        assert grid.target_rank.ndim == 2
        assert np.array_equal(grid.target_rank, grids[0].target_rank)


def test_a_misspelt_option_is_refused_with_the_nearest_one(llama: Case) -> None:
    with pytest.raises(analysis.AnalysisError, match="Did you mean 'threshold'"):
        analysis.flow(llama.model, llama.trace, treshold=0.1)  # type: ignore[call-arg]
    with pytest.raises(analysis.AnalysisError, match="Did you mean 'decoder'"):
        analysis.decode(llama.model, llama.trace, decodr="input")  # type: ignore[call-arg]


def test_model_and_trace_in_the_wrong_order_are_refused_in_words(llama: Case) -> None:
    with pytest.raises(analysis.AnalysisError, match=r"result of analysis\.load_model"):
        analysis.decode(llama.trace, llama.model)  # type: ignore[arg-type]


def test_a_path_names_a_model(tmp_path: Path) -> None:
    with pytest.raises(analysis.AnalysisError, match="config"):
        analysis.load_model(tmp_path)


def test_a_vector_in_bfloat16_steers_like_the_same_in_float32(llama: Case) -> None:
    vector = torch.linspace(-1, 1, 32).bfloat16()
    steered = [
        analysis.trace(llama.model, [1, 2, 3], [Steer(1, -1, one)])
        for one in (vector, vector.float(), vector.float().numpy(), vector.tolist())
    ]
    assert all(np.array_equal(one.logits, steered[0].logits) for one in steered)


def test_an_intervention_may_be_given_without_a_list(llama: Case) -> None:
    item = Ablate("mlp", 1)
    alone, listed = (analysis.trace(llama.model, [1, 2, 3], given) for given in (item, [item]))
    assert np.array_equal(alone.logits, listed.logits)
