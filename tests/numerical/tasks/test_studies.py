"""Reports through the service, common beginnings of prompts, and comparison of flows."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import analysis
from analysis import codec
from analysis.contract import jobs
from analysis.errors import PromptError, SpecError
from analysis.registry import technique_for
from analysis.store.memo import Memo
from analysis.tasks import (
    batch,
    carry_patching,
    failure_report,
    probes,
    suite_report,
    suites,
    sum_table,
)
from analysis.tasks.suite_files import as_lines
from analysis.tasks.suite_report import encoded_of, suite_of
from analysis.tasks.suite_specs import FailureSpec, SuiteSpec
from analysis.tasks.suites import Encoded, Suite, TaskPrompt, encode
from analysis.tasks.sum_specs import ContributionSpec, PatchSpec, ProbeSpec, ProjectionSpec
from analysis.tasks.sum_table import Component, affordable_components, component_named
from tests.numerical.conftest import Case
from tests.support import built

NAME = "addition-5digit"
WRONG = Suite(
    "x", "x",
    (TaskPrompt("12345+11111=", "023456"), TaskPrompt("12346+11111=", "023999")),
)  # fmt: skip


def ask(model: Any, spec: Any, memo: Memo | None = None) -> Any:
    """Compute as the worker does, through bytes."""
    technique = technique_for(spec)
    found = codec.decode(codec.encode(technique.load()(model, spec, memo, 256)))
    assert type(found) is technique.result
    return found


def begun(model: Any, count: int = 8) -> list[Encoded]:
    """Prompts that start alike: ten tokens, then three of their own."""
    head = built.ids(model, 10, 0)
    return [Encoded((*head, *built.ids(model, 3, seed)), 11, (3, -1)) for seed in range(count)]


def test_a_common_beginning_changes_no_outcome(small: Case) -> None:
    prompts = begun(small.model)
    ids = [prompt.token_ids for prompt in prompts]
    shared = list(batch.states(small.model, ids, whole=False, since=10))
    whole = list(batch.states(small.model, ids, whole=False))
    assert whole[0].first == 0
    for one, other in zip(shared, whole, strict=True):
        found, wanted = one.resid, other.resid[:, :, one.first :]
        scale = np.linalg.norm(wanted, axis=-1).max()
        assert np.linalg.norm(found - wanted, axis=-1).max() <= 2e-5 * scale
    together, alone = (batch.run_suite(small.model, prompts, most=most) for most in (None, 1))
    for one, other in zip(together, alone, strict=True):
        assert one.choices.tolist() == other.choices.tolist()
        np.testing.assert_allclose(one.right_probs, other.right_probs, rtol=1e-3, atol=1e-7)


def test_a_common_beginning_is_computed_once(gpt2: Case) -> None:
    ids = [prompt.token_ids for prompt in begun(gpt2.model)]
    found = batch.Prefix.shared(gpt2.model, ids, 10)
    assert found.length == 10
    assert next(batch.states(gpt2.model, ids, whole=False, since=10)).resid.shape[2] == 3
    assert batch.Prefix.shared(gpt2.model, ids[:7], 10).length == 0  # not worth a trial
    assert batch.Prefix.shared(gpt2.model, ids, 4).length == 0


def test_a_cache_with_different_states_is_not_used(
    gpt2: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [prompt.token_ids for prompt in begun(gpt2.model)]
    monkeypatch.setattr(batch.Prefix, "options", lambda self, size: {"use_cache": False})
    assert batch.Prefix.shared(gpt2.model, ids, 10).length == 0


def test_common_tokens_are_counted() -> None:
    assert batch.common_length([(1, 2, 3, 4), (1, 2, 5, 6)], 4) == 2
    assert (
        batch.common_length([(1, 2, 3), (1, 2, 3)], 9) == 2
    )  # the last token is each prompt's own
    assert batch.common_length([(1, 2, 3), (1, 2, 3)], 1) == 1
    assert batch.common_length([], 5) == 0


def test_no_pair_of_sums_is_repeated(adder: Any) -> None:
    table = sum_table.random_sums(adder, 300, 0, 5, padded=True)
    assert len({(int(a), int(b)) for a, b in zip(table.a, table.b, strict=True)}) == 300
    assert table.own == tuple(range(len(table.places)))
    assert table.texts[0] == f"{table.a[0]:05d}+{table.b[0]:05d}="


def test_probes_at_some_positions_equal_those_at_all(adder: Any) -> None:
    table = sum_table.random_sums(adder, 300, 2, 5, padded=True)
    wanted = (Component("row", 1), Component("head", 0, 0))
    every = probes.report(adder, table, wanted)
    some = probes.report(adder, table, wanted, places=range(11, 18))
    np.testing.assert_array_equal(some.accuracy, every.accuracy[:, :, 11:18])
    assert some.places == every.places[11:18]
    written = [every.places[place] for place in every.written]
    assert written[:4] == ["answer2", "answer3", "answer4", "answer5"]
    assert [some.places[place] for place in some.written] == written
    assert every.values[:, 0].tolist() == table.carry[: len(every.values), 1].tolist()


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ((11, 12), r"positions 1\d.* predict digits that are probed for. Add these"),
        ((), "No place is chosen"),
        (range(11, 19), r"Place 18 does not exist\. Use 0 to 17"),
    ],
)
def test_positions_without_a_report_are_refused_with_a_hint(
    adder: Any, places: Any, said: str
) -> None:
    table = sum_table.random_sums(adder, 300, 2, 5, padded=True)
    with pytest.raises(SpecError, match=said):
        probes.report(adder, table, (Component("row", 1),), places=places)


def test_patching_at_the_written_position_equals_that_part_of_patching_everywhere(
    adder: Any,
) -> None:
    wanted = (Component("row", 1), Component("head", 0, 0))
    every, part = (
        carry_patching.report(
            adder, 5, pairs=8, components=wanted, columns=(2,), positions=positions
        )
        for positions in ("all", "written")
    )
    place = int(part.positions[0])
    kept = [place, -1]
    np.testing.assert_array_equal(part.effect[..., kept], every.effect[..., kept])
    assert np.isnan(part.effect[..., :place]).all()
    a, b = (int(x) for x in part.receivers[0].removesuffix("=").split("+"))
    c, d = (int(x) for x in part.donors[0].removesuffix("=").split("+"))
    assert ((a + b) // 100 + 1) % 10 == (c + d) // 100 % 10


def test_emergence_by_digit_sums_to_the_whole(adder: Any) -> None:
    found = suite_report.report(adder, suites.build("addition", 40, 2, padded=True))
    assert [one.name for one in found.by_digit] == [f"answer{n}: right" for n in range(6)]
    assert sum(one.count for one in found.by_digit) == found.curves[0].count
    rows = np.concatenate([one.rows for one in found.by_digit])
    assert sorted(rows.tolist()) == sorted(found.curves[0].rows.tolist())
    mixed = suite_report.report(adder, WRONG)
    assert [one.name for one in mixed.by_digit if "wrong" in one.name] == ["token 3: wrong"]


def test_flows_are_compared_link_by_link(adder: Any) -> None:
    one, other = (analysis.trace(adder, f"{a}+11111=02") for a in (12345, 92346))
    found = failure_report.compare(adder, one, other)
    assert found is not None
    graphs = [analysis.flow(adder, trace, method="proximity") for trace in (one, other)]
    for flows, mass, graph in zip(
        (found.right_links, found.wrong_links), (found.right, found.wrong), graphs, strict=True
    ):
        for node in graph.nodes:
            if node.kind == "block":
                assert mass[node.row, node.pos] == pytest.approx(node.flow, abs=1e-6)
        for n, kind in enumerate(found.kinds):
            own = [
                link.flow
                for link in graph.links
                if link.kind == kind
                and (link.layer, link.source_pos, link.target_pos)
                == (found.layers[n], found.sources[n], found.targets[n])
                and (-1 if link.head is None else link.head) == found.heads[n]
                and not link.target.startswith("mlp")
            ]
            assert flows[n] == pytest.approx(sum(own), abs=1e-6)
        assert flows.max() <= 1.0
    change = np.abs(found.right_links - found.wrong_links)
    assert (np.diff(change) <= 1e-7).all()
    np.testing.assert_allclose(
        found.distance, np.abs(found.right - found.wrong).sum(1) / 2, atol=1e-6
    )
    assert found.distance[-1] == 0.0  # both start at the same place


def test_the_flow_of_a_run_equals_itself(small: Case) -> None:
    trace = analysis.trace(small.model, built.ids(small.model, 5))
    found = failure_report.compare(small.model, trace, trace)
    assert found is not None
    assert not found.distance.any()
    np.testing.assert_array_equal(found.right_links, found.wrong_links)


def test_a_failure_has_its_prompts_and_flows(adder: Any) -> None:
    (pair,) = failure_report.report(adder, WRONG).pairs
    assert pair.flows is not None
    assert pair.flows.right.shape == pair.rows.shape
    assert pair.right_tokens[:5] == tuple("12345")
    assert pair.wrong_prompt is not None
    assert (pair.wrong_prompt.answer, pair.wrong_prompt.written) == ("023999", "0234")


def test_the_service_computes_each_report(adder: Any) -> None:
    made = ask(adder, ContributionSpec(NAME, sums=6))
    assert (made.length, len(made.prompts), made.carry.shape) == (6, 6, (6, 6))
    assert made.positions.tolist() == [16, 15, 14, 13, 12, 11]
    found = ask(adder, ProjectionSpec(NAME, "head 0.0", sums=30))
    assert (found.place, found.position, len(found.prompts)) == ("answer2", 15, 30)
    assert ask(adder, ProjectionSpec(NAME, "row 0", "b3", sums=9)).place == "b3"
    assert ask(adder, PatchSpec(NAME, pairs=1)).requested == 1  # one pair: no statement
    assert np.isnan(ask(adder, PatchSpec(NAME, pairs=1)).effect).all()
    fitted = ask(adder, ProbeSpec(NAME, sums=60))
    assert fitted.accuracy.shape == (10, len(affordable_components(adder)), 18)


def test_a_custom_list_runs_and_its_failures_are_reported(adder: Any) -> None:
    spec = SuiteSpec(NAME, "own", content=as_lines(WRONG), title="mine")
    memo = Memo(None, 1 << 20)
    found = ask(adder, spec, memo)
    assert (found.title, found.right.tolist()) == ("mine", [1, 0])
    report = ask(adder, FailureSpec(spec), memo)
    memo.close()
    assert (report.right, report.wrong, len(report.pairs)) == (1, 1, 1)
    assert len(suite_of(adder, SuiteSpec(NAME, "own", 1, content=as_lines(WRONG))).prompts) == 1


def test_invalid_requests_are_refused(adder: Any, gpt2: Case) -> None:
    for spec in (
        ProjectionSpec(NAME, "head 9.9", sums=9),
        ProjectionSpec(NAME, "row 1", "x9", sums=9),
    ):
        with pytest.raises(SpecError):
            ask(adder, spec)
    with pytest.raises(SpecError, match="no component named 'mlp 7'"):
        component_named(adder, "mlp 7")
    with pytest.raises(PromptError, match="Prompt 2 has 18 tokens"):
        encoded_of(adder, Suite("x", "x", (TaskPrompt("1+", "2"), WRONG.prompts[0])), 17)
    with pytest.raises(PromptError, match="Prompt 1: "):
        encoded_of(adder, Suite("x", "x", (TaskPrompt("", "2"),)), 17)


def merging(model: Any) -> Any:
    """The model with a tokenizer that merges digits, as GPT-2's does."""
    rng = np.random.default_rng(0)
    raw = Tokenizer(models.BPE(unk_token="?"))  # noqa: S106 - no password
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    texts = [one.text + one.answer for one in suites.build("addition", 200, 3, 3).prompts]
    texts += [str(number) for number in rng.integers(0, 1000, 500)]
    raw.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=200, special_tokens=["?"]))
    return dataclasses.replace(model, tokenizer=PreTrainedTokenizerFast(tokenizer_object=raw))


def test_suites_run_on_any_tokenizer_and_reports_by_digit_state_their_needs(gpt2: Case) -> None:
    model = merging(gpt2.model)
    found = ask(model, SuiteSpec("m", "addition", 6, digits=3))
    assert len(found.right) == 6
    assert found.emergence.by_digit
    with pytest.raises(SpecError, match="one token for each digit"):
        ask(model, ContributionSpec("m", 3, 6))


@pytest.mark.parametrize(
    "spec",
    [
        ContributionSpec(NAME, sums=8),
        ProbeSpec(NAME, sums=60),
        PatchSpec(NAME, pairs=6),
        FailureSpec(SuiteSpec(NAME, "own", content=as_lines(WRONG))),
    ],
    ids=lambda spec: type(spec).__name__,
)
def test_a_report_yields_to_clicks_between_its_chunks(adder: Any, spec: Any) -> None:
    pauses: list[float] = []
    with jobs.listening(None, lambda: pauses.append(1)):
        ask(adder, spec)
    assert len(pauses) >= 6


@pytest.mark.full
@pytest.mark.real
def test_sums_of_a_language_model_are_analysed_from_the_question_on(smollm: Case) -> None:
    model = smollm.model
    table = sum_table.random_sums(model, 60, 0, 2, padded=False)
    names = [table.places[place] for place in table.own]
    assert names[0] == "a1"
    assert {"a0", "plus", "b1", "b0", "answer2", "answer1", "answer0"} <= set(names)
    asked = [encode(model.tokenizer, one) for one in suites.build("addition", 8, 0, 2).prompts]
    together, alone = (batch.run_suite(model, asked, most=most) for most in (None, 1))
    for one, other in zip(together, alone, strict=True):
        assert one.choices.tolist() == other.choices.tolist()
        np.testing.assert_allclose(one.right_probs, other.right_probs, rtol=1e-3, atol=1e-6)
