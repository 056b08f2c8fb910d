"""Edits as text: short forms, sentences, calls, and the states that they can reach."""

from __future__ import annotations

import itertools
from typing import get_args

import numpy as np
import pytest

from analysis.contract.specs import cache_key
from analysis.errors import AnalysisError, SpecError
from analysis.lens.specs import LensSpec
from analysis.tracing.edits import code, describe, edited_cells, parse, reachable, to_text
from analysis.tracing.interventions import (
    Ablate,
    HoldPatterns,
    Inject,
    KnockOut,
    PatchPrompt,
    RunEdit,
    SteerDirection,
    SteerPrompts,
    SteerTokens,
)
from analysis.tracing.specs import TraceSpec

#: An edit, its short form, and its sentence.
EXAMPLES = [
    (
        Ablate("head_output", 24, head=3),
        "ablate:head_output:24:3:all:zero",
        "Head 3 of layer 24 is set to zero at all positions.",
    ),
    (
        Ablate("mlp_output", 2, pos=(1, 4), value="mean"),
        "ablate:mlp_output:2:all:1+4:mean",
        "The MLP output of layer 2 is set to its mean over the positions at positions 1 and 4.",
    ),
    (
        KnockOut(24, 3, 4, 0),
        "cut:24:3:4:0",
        "In layer 24 at position 4, head 3 does not read position 0.",
    ),
    (
        KnockOut(24, None, 4, 0),
        "cut:24:all:4:0",
        "In layer 24 at position 4, no head reads position 0.",
    ),
    (
        Inject(12, 4, " a:b,c", mode="main_component"),
        "inject:12:4: a%3Ab%2Cc:main_component",
        "The main component of the state after layer 11 at position 4 turns into ' a:b,c'.",
    ),
    (
        Inject(0, None, 77),
        "inject:0:all:#77:replace",
        "The embedding at all positions becomes the input embedding of token 77.",
    ),
    (
        PatchPrompt(12, 4, "The capital of England is"),
        "patch:12:4:The capital of England is:-1",
        "The state after layer 11 at position 4 is replaced by that of “The capital of England"
        " is” at its last token.",
    ),
    (
        PatchPrompt(1, 0, (5, 6), source_pos=0),
        "patch:1:0:#5+6:0",
        "The state after layer 0 at position 0 is replaced by that of “token ids 5 6” at"
        " position 0.",
    ),
    (
        SteerTokens(12, 4, " London", "#1", strength=-1.5),
        "steer:12:4: London:%231:-1.5",
        "The state after layer 11 at position 4 moves towards ' London' and away from '#1', with"
        " strength -1.5.",
    ),
    (
        Ablate("neuron", 2, neuron=1027, pos=4),
        "ablate:neuron:2:1027:4:zero",
        "Neuron 1027 of layer 2 is set to zero at position 4.",
    ),
    (
        Ablate("head_output", 2, head=3, pos=4, value="resample", prompt="a: b", source_pos=-1),
        "ablate:head_output:2:3:4:resample:a%3A b:-1",
        "Head 3 of layer 2 at position 4 is replaced by that of “a: b” at its last token.",
    ),
    (
        Ablate("attention_output", 2, value="resample", prompt=(5, 6)),
        "ablate:attention_output:2:all:all:resample:#5+6:same",
        "The attention output of layer 2 is replaced by that of “token ids 5 6”, at each position"
        " that both prompts have.",
    ),
    (
        Ablate("mlp_output", 2, pos=(1, 2), value="resample", prompt="a b"),
        "ablate:mlp_output:2:all:1+2:resample:a b:same",
        "The MLP output of layer 2 at positions 1 and 2 is replaced by that of “a b” at the same"
        " positions.",
    ),
    (
        SteerPrompts(12, 4, "I love", (5, 6), strength=2.0, away_pos=0),
        "steer_prompts:12:4:I love:#5+6:2.0:-1:0",
        "The state after layer 11 at position 4 moves towards “I love” at its last token and away"
        " from “token ids 5 6” at position 0, with strength 2.",
    ),
    (
        SteerDirection(12, None, "carry.1", strength=-2.0),
        "steer_direction:12:all:carry.1:-2.0",
        "The state after layer 11 at all positions moves along the saved direction carry.1, with"
        " strength -2.",
    ),
    (
        HoldPatterns(),
        "hold",
        "All attention patterns are held at those of the baseline.",
    ),
]


@pytest.mark.parametrize(("edit", "text", "sentence"), EXAMPLES)
def test_an_edit_has_a_short_form_a_sentence_and_a_call(
    edit: RunEdit, text: str, sentence: str
) -> None:
    assert to_text(edit) == text
    assert parse(text) == edit
    assert "," not in text
    assert describe(edit) == sentence
    names = {kind.__name__: kind for kind in get_args(RunEdit)}
    assert eval(code(edit), names) == edit  # noqa: S307 - of the examples above


def test_every_kind_has_an_example() -> None:
    assert {type(edit) for edit, _, _ in EXAMPLES} == set(get_args(RunEdit))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ablate",
        "ablate:head_output",
        "ablate:head_output:x:3",
        "cut:1:2:3",
        "cut:1:2:3:4:5",
        "inject:1:2:",
        "inject:1:2:a:upside_down",
        "inject:1:2:#",
        "inject:1:2:%FF",
        "patch:1:2:",
        "patch:1:2:" + "x" * 2001,
        "patch:" + "x" * 9000,
        "steer:1:2:a:b:nan",
        "steer:1:2:a:b:1e9",
        "steer:1:2:a:b:inf",
        "ablate:head_output:1",
        "ablate:neuron:1:all",
        "ablate:mlp_output:1:all:2:resample",
        "ablate:mlp_output:1:all:2:resample:a:last",
        "ablate:mlp_output:1:all:2:zero:a",
        "hold:1",
        "steer_prompts:1:2:a",
        "steer_prompts:1:2:a:b:1e9",
        "ablate:nothing:1:all",
        "ablate:mlp_output:1:2:3:zero",
        "ablate:mlp_output:1:all:" + "9" * 5000,
        "__import__('os')",
    ],
)
def test_anything_else_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(AnalysisError) as error:
        parse(text)
    assert error.value.message
    assert error.value.hint


def test_two_runs_share_a_result_only_if_their_edits_are_equal() -> None:
    tokens = (1, 2, 3)
    runs = [TraceSpec("m", tokens), *(TraceSpec("m", tokens, (edit,)) for edit, _, _ in EXAMPLES)]
    keys = [cache_key("weights", run, LensSpec()) for run in runs]
    assert len(set(keys)) == len(runs)
    same = TraceSpec("m", list(tokens), [parse(EXAMPLES[0][1])])  # type: ignore[arg-type]
    assert cache_key("weights", same, LensSpec()) == keys[1]
    both = [edit for edit, _, _ in EXAMPLES[:2]]
    orders = [TraceSpec("m", tokens, tuple(order)) for order in itertools.permutations(both)]
    assert len({cache_key("weights", run, LensSpec()) for run in orders}) == 2


def test_a_run_has_a_limited_number_of_edits() -> None:
    edit = EXAMPLES[0][0]
    assert TraceSpec("m", (1,), (edit,) * 32).edits == (edit,) * 32
    with pytest.raises(SpecError, match="33 edits; at most 32"):
        TraceSpec("m", (1,), (edit,) * 33)
    with pytest.raises(SpecError):
        TraceSpec("m", (1,), ("ablate",))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("edit", "cells"),
    [
        (Ablate("mlp_output", 1, pos=2), {(2, 2)}),
        (Ablate("head_output", 2, head=0), {(3, 0), (3, 1), (3, 2), (3, 3)}),
        (KnockOut(0, 1, 3, 1), {(1, 3)}),
        (Inject(0, (0, -1), "a"), {(0, 0), (0, 3)}),
        (PatchPrompt(-1, 1, "a"), {(3, 1)}),
        (Ablate("neuron", 0, neuron=5, pos=1), {(1, 1)}),
        (SteerPrompts(2, 1, "a", "b"), {(2, 1)}),
        (HoldPatterns(), set()),
        (SteerTokens(9, 1, "a", "b"), set()),
        (Ablate("mlp_output", 3, pos=2), set()),
        (Inject(1, 9, "a"), set()),
        (Inject(1, -9, "a"), set()),
    ],
)
def test_an_edit_changes_these_states(edit: RunEdit, cells: set[tuple[int, int]]) -> None:
    found = edited_cells(edit, 4, 4)
    assert set(map(tuple, np.argwhere(found).tolist())) == cells


def test_an_edit_reaches_what_a_walk_through_the_model_reaches() -> None:
    edited = np.random.default_rng(0).random((6, 7)) < 0.06
    assert edited.any()
    wanted = edited.copy()
    for row, pos in np.ndindex(edited.shape):  # each state depends on the row below, up to itself
        if row > 0:
            wanted[row, pos] |= wanted[row - 1, : pos + 1].any()
    assert np.array_equal(reachable(edited), wanted)
