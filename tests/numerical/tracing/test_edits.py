"""Edits of numbers and text against interventions made by hand, in Python and in the worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

import analysis
from analysis import codec
from analysis.errors import AnalysisError
from analysis.lens.specs import LensSpec
from analysis.tracing.edits import parse
from analysis.tracing.interventions import (
    HoldPatterns,
    Patch,
    PatchPrompt,
    RunEdit,
    Steer,
    SteerDirection,
    SteerTokens,
)
from analysis.tracing.specs import TraceSpec
from analysis.trajectory.specs import EmergenceSpec
from analysis.worker.engine import Engine
from analysis.worker.messages import Limits, Request
from tests.numerical.conftest import Case

IDS = (5, 9, 33, 2, 8)
EDITS = [
    "ablate:attention_output:1:all:all:mean",
    "ablate:mlp_output:0:all:2:zero",
    "ablate:head_output:1:2:all:zero",
    "cut:1:all:4:0",
    "inject:1:3:#7:replace",
    "inject:1:3:#7:main_component",
    "patch:1:4:#4+30+6:-1",
    "steer:2:4:#12:#13:2.5",
    "steer_prompts:2:4:#4+30+6:#5+6:2.5:-1:0",
    "ablate:neuron:1:7:3:mean",
    "ablate:neuron:1:7:all:zero",
    "ablate:head_output:1:2:4:resample:#4+30+6:-1",
    "ablate:attention_output:1:all:1:resample:#4+30+6:same",
    "hold",
]


def ended(model: Any, ids: tuple[int, ...], block: int, edit: Any) -> np.ndarray:
    """Logits with one block's output edited by a hook of torch alone."""

    def hook(_module: Any, _inputs: Any, output: Any) -> Any:
        states = output[0] if isinstance(output, tuple) else output
        edit(states[0])
        return output

    handle = model.hf.model.layers[block].register_forward_hook(hook)
    try:
        with torch.no_grad():
            return np.asarray(model.hf(torch.tensor([ids])).logits[0].float())
    finally:
        handle.remove()


def test_a_patch_from_another_prompt_equals_a_hook(llama: Case) -> None:
    kept: list[torch.Tensor] = []
    other = (4, 30, 6)
    ended(llama.model, other, 0, lambda states: kept.append(states[1].clone()))

    def put(states: torch.Tensor) -> None:
        states[4] = kept[0]

    wanted = ended(llama.model, IDS, 0, put)
    edit = PatchPrompt(1, 4, other, source_pos=1)
    found = analysis.trace(llama.model, IDS, interventions=[edit])
    assert np.abs(found.logits - wanted).max() < 1e-5
    by_trace = Patch(1, 4, analysis.trace(llama.model, other), source_pos=1)
    same = analysis.trace(llama.model, IDS, interventions=[by_trace])
    assert np.array_equal(found.logits, same.logits)


def test_steering_between_tokens_equals_a_hook(llama: Case) -> None:
    rows = llama.model.hf.get_input_embeddings().weight.detach()
    step = 2.5 * (rows[12] - rows[13])

    def add(states: torch.Tensor) -> None:
        states[3] += step

    wanted = ended(llama.model, IDS, 1, add)
    found = analysis.trace(llama.model, IDS, interventions=[SteerTokens(2, 3, 12, 13, 2.5)])
    assert np.abs(found.logits - wanted).max() < 1e-5
    same = analysis.trace(llama.model, IDS, interventions=[Steer(2, 3, step)])
    assert np.array_equal(found.logits, same.logits)


@pytest.mark.parametrize("text", EDITS)
def test_the_worker_gives_the_numbers_of_the_same_call_in_python(
    tiny_llama_dir: Path, text: str
) -> None:
    name = str(tiny_llama_dir)
    model = analysis.load_model(name)
    edit, last = parse(text), model.info.layers
    wanted = analysis.trace(model, IDS, interventions=[edit])
    plain = analysis.trace(model, IDS)
    if edit != HoldPatterns():  # alone, it changes nothing
        assert np.abs(wanted.logits - plain.logits).max() > 1e-6
    engine = Engine(Limits())
    spec = LensSpec(k=3, target=(7,))
    grids = [
        codec.decode(engine.perform(Request("decode", name, "f", (subject, spec))).data)
        for subject in (TraceSpec(name, IDS), TraceSpec(name, IDS, (edit,)))
    ]
    for grid, trace in zip(grids, (plain, wanted), strict=True):
        probs = np.exp(trace.logits - np.logaddexp.reduce(trace.logits, -1, keepdims=True))
        assert np.abs(grid.target_probs[last, :, 0] - probs[:, 7]).max() < 1e-6
        assert np.array_equal(grid.token_ids[last, :, 0], trace.logits.argmax(-1))
        assert np.array_equal(grid.probs, analysis.decode(model, trace, k=3, target=(7,)).probs)


def test_every_kind_is_compared() -> None:
    compared = {type(parse(text)) for text in EDITS}
    assert compared | {SteerDirection} == set(get_args(RunEdit))  # it needs a file: test_directions


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ablate:head_output:1:9:all:zero", "In layer 1, head 9 does not exist"),
        ("ablate:mlp_output:99:all:all:zero", "Layer 99 does not exist"),
        ("ablate:mlp_output:0:all:5:zero", "Position 5 does not exist"),
        ("cut:1:all:2:3", "Position 2 does not see position 3"),
        ("inject:9:0:#1:replace", "Row 9 does not exist"),
        ("inject:1:0:#99999:replace", "Token 99999 does not exist"),
        ("inject:1:0:the capital of:replace", "tokens"),
        ("patch:1:0:#4+5:7", "Position 7 does not exist"),
        ("patch:1:0:#99999:0", "99999"),
        ("ablate:neuron:1:99999:0:zero", "In layer 1, neuron 99999 does not exist"),
        ("ablate:mlp_output:1:all:4:resample:#4+5:same", "has no position 4"),
        ("steer:1:0:the capital of:#1:1.0", "tokens"),
    ],
)
def test_an_edit_that_does_not_fit_the_run_is_refused(
    tiny_llama_dir: Path, text: str, message: str
) -> None:
    name = str(tiny_llama_dir)
    subject = TraceSpec(name, IDS, (parse(text),))
    with pytest.raises(AnalysisError, match=message) as error:
        Engine(Limits()).perform(Request("decode", name, "f", (subject, LensSpec())))
    assert error.value.hint


def test_a_commit_row_of_an_edited_run_is_refused(tiny_llama_dir: Path) -> None:
    name = str(tiny_llama_dir)
    subject = TraceSpec(name, IDS, (parse(EDITS[0]),))
    request = Request("emergence", name, "f", (subject, EmergenceSpec(causal=True)))
    with pytest.raises(AnalysisError, match="without interventions"):
        Engine(Limits()).perform(request)


def test_edits_are_replayed_while_generating(llama: Case) -> None:
    edit = parse("ablate:mlp_output:0:all:2:zero")
    ids = analysis.generate(llama.model, IDS, 3, interventions=[edit])
    for end in range(len(IDS), len(ids)):
        logits = analysis.trace(llama.model, ids[:end], interventions=[edit]).logits
        assert ids[end] == int(logits[-1].argmax())
