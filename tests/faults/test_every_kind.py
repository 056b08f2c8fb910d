"""Every technique, with its model worker killed or its request cancelled during the work."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import codec
from analysis.attribution.specs import AttributionSpec
from analysis.contract import jobs
from analysis.contract.jobs import Job, Priority, Progress
from analysis.contract.ledger import LedgerSpec, ModelLedgerSpec
from analysis.contract.specs import InfoSpec
from analysis.errors import CancelledError, WorkerStoppedError
from analysis.experiments.component_specs import ComponentGraphSpec
from analysis.experiments.specs import PromptSpec, SweepSpec
from analysis.flow_graph.specs import CausalSpec, ComparisonSpec, FlowSpec, LinkSpec, NeuronSpec
from analysis.inside_block.specs import AggregationSpec, BlockSpec, ExpertSpec, ScoreSpec
from analysis.lens.specs import ColourSpec, DisagreementSpec, LensSpec, PromotedSpec
from analysis.registry import TECHNIQUES, technique_for
from analysis.reports.specs import EmbeddingSpec, NormSpec, SimilaritySpec
from analysis.service import Service
from analysis.tasks.neuron_text_specs import NeuronTextSpec
from analysis.tasks.suite_effects import SuiteEffectSpec
from analysis.tasks.suite_files import as_lines
from analysis.tasks.suite_specs import OWN, FailureSpec, SuiteSpec
from analysis.tasks.suites import Suite, TaskPrompt
from analysis.tasks.sum_specs import (
    CarryCircuitSpec,
    ContributionSpec,
    PatchSpec,
    ProbeSpec,
    ProjectionSpec,
)
from analysis.tracing.specs import AnswerSpec, PatternSpec, RunSpec, TraceSpec
from analysis.trajectory.specs import EmergenceSpec, LargestStepSpec, StepsSpec, StorySpec
from analysis.weights.specs import CircuitSpec, StateCircuitSpec, WeightSpec
from analysis.worker.engine import Engine
from analysis.worker.messages import Limits, Request, ServiceSettings
from tests.support.held_work import COMPUTED, HELD
from tests.support.scaled import LIMIT_S, kill_the_worker, wait_for

MODEL = "addition-5digit"
RUN, CLICK = RunSpec(MODEL, "54321+12345=", new_tokens=6), RunSpec(MODEL, "11111+22222=")
ENDS: dict[str, type[CancelledError | WorkerStoppedError]] = {
    "killed": WorkerStoppedError,
    "cancelled": CancelledError,
}


def wrong_and_right(seed: int) -> SuiteSpec:
    """Sums; every second one has a wrong answer in the list."""
    asked = [
        TaskPrompt(f"{a}+11111=", f"{a + 11111 + number % 2:06d}")
        for number, a in enumerate(range(20000 + 100 * seed, 20006 + 100 * seed))
    ]
    content = as_lines(Suite("own", "own", tuple(asked)))
    return SuiteSpec(MODEL, OWN, len(asked), content=content, title="own")


@dataclass(frozen=True)
class Kind:
    """A request and the step during which it is interrupted.

    ``asked`` is a spec, or a function from a number to a spec: a suite's finished prompts are kept,
    so each interruption needs another suite. ``kept`` is a request made before, whose result must
    remain. ``prompts`` is the number of finished prompts that must remain.
    """

    asked: Any
    label: str = COMPUTED
    least: int = 1
    patient: bool = False
    kept: Any = None
    prompts: int = 0

    def spec(self, number: int) -> Any:
        """The spec of the ``number``-th request."""
        return self.asked(number) if callable(self.asked) else self.asked


BACK, ROWS, CUTS = "Following the flow back", "Following tokens", "Cutting links"
COLUMN, WHOLE = LensSpec(decoder="linear", positions=(11,)), LensSpec(decoder="linear")
KINDS = {
    "run": Kind(RUN, "Generating", 3),
    "info": Kind(InfoSpec()),
    "decode": Kind(WHOLE, "Decoding", kept=COLUMN),
    "pattern": Kind(PatternSpec(1)),
    "answer": Kind(AnswerSpec(6, prompt_length=12), "Generating", 3),
    "flow": Kind(FlowSpec(method="proximity"), BACK),
    "attribute": Kind(AttributionSpec(11)),
    "emergence": Kind(EmergenceSpec(causal=True), "Causal commit", patient=True,
                      kept=EmergenceSpec()),
    "story": Kind(StorySpec(11), ROWS),
    "run_ledger": Kind(LedgerSpec(11), BACK),
    "causal": Kind(CausalSpec(), CUTS, 20, patient=True, kept=FlowSpec()),
    "comparison": Kind(ComparisonSpec(), CUTS, 20, patient=True, kept=FlowSpec()),
    "link": Kind(LinkSpec("attention", 1, 0, 11, 0)),
    "neurons": Kind(NeuronSpec(1, 11)),
    "colours": Kind(ColourSpec(), "Contribution shares by vocabulary", 2),
    "promoted": Kind(PromotedSpec("mlp_output", 0, 11)),
    "disagreement": Kind(DisagreementSpec(("output", "input", "linear")), "Comparing decoders",
                         patient=True),
    "steps": Kind(StepsSpec(11, (3, 4)), ROWS),
    "largest_steps": Kind(LargestStepSpec(), ROWS),
    "similarity": Kind(SimilaritySpec(norm="none"), "Sweeping the state's length", 2,
                       patient=True, kept=LedgerSpec(11)),
    "block": Kind(BlockSpec(1, 11), "Opening the block"),
    "experts": Kind(ExpertSpec(1, 11)),
    "score_parts": Kind(ScoreSpec(1, 0, 11, 0), "Projecting parts"),
    "aggregation": Kind(AggregationSpec(), "Comparing with the states", patient=True),
    "state_circuits": Kind(StateCircuitSpec(1, 0), "Reading the vocabulary"),
    "circuits": Kind(CircuitSpec(1, 0), "Copying score"),
    "weights": Kind(WeightSpec(), "Reading heads", patient=True),
    "ledger": Kind(ModelLedgerSpec(), BACK),
    "embedding_report": Kind(EmbeddingSpec(), "Nearest embeddings", patient=True),
    "norm_report": Kind(NormSpec(), patient=True),
    "suite": Kind(lambda number: SuiteSpec(MODEL, "addition", 300, number), "Running prompts", 128,
                  prompts=128),
    "suite_effects": Kind(SuiteEffectSpec(MODEL, "addition", 6, limit=4), "Checking prompts", 2),
    "contributions": Kind(ContributionSpec(MODEL, sums=150), "Attributing digits"),
    "probes": Kind(ProbeSpec(MODEL, sums=40), "Fitting probes", 2),
    "projection": Kind(ProjectionSpec(MODEL, "row 1", sums=150), "Projecting states"),
    "carry_circuits": Kind(CarryCircuitSpec(MODEL), "Reading heads", 2),
    "neuron_texts": Kind(NeuronTextSpec(MODEL, 1, "addition-lengths"), "Running texts"),
    "patching": Kind(PatchSpec(MODEL, pairs=8), "Patching", 2),
    "sweep": Kind(SweepSpec(MODEL, "54328+12345=0666", "54321+12345=0666", "7", "6", axes="part"),
                  "Patching cells", 20),
    "component_graph": Kind(
        ComponentGraphSpec(MODEL, "54328+12345=0666", "54321+12345=0666", edges=10, measured=2,
                           draws=1), "Running graphs", 2, patient=True),
    "compare_prompts": Kind(PromptSpec(MODEL, "54321+12345=", "54321+22345="), "Comparing rows"),
    "failure": Kind(lambda number: FailureSpec(wrong_and_right(number)),
                    "Comparing right and wrong", prompts=6),
}  # fmt: skip


class Desk:
    """A service whose worker can be paused, its users, and the expected results."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.order, self.numbers = folder, folder / "held-at", itertools.count()
        settings = ServiceSettings(cache_dir=folder, function="tests.support.held_work:perform")
        self.service = Service(settings)
        self.pool = ThreadPoolExecutor(4)
        self.engine = Engine(Limits())
        result = self.right("run", RUN)[0]
        self.trace = TraceSpec(MODEL, result.token_ids)
        self.service.ask(MODEL, InfoSpec())  # from here on finished prompts are stored

    def close(self) -> None:
        """Stop."""
        self.order.unlink(missing_ok=True)
        self.service.close()
        self.pool.shutdown()

    def subject(self, spec: Any) -> Any:
        """The subject of a spec."""
        return self.trace if technique_for(spec).subject == "trace" else MODEL

    def specs(self, spec: Any) -> tuple[Any, ...]:
        """The specs that are sent to the worker."""
        return (self.trace, spec) if technique_for(spec).subject == "trace" else (spec,)

    def right(self, kind: str, spec: Any) -> tuple[Any, int]:
        """The result of an undisturbed engine, and its number of forward passes."""
        specs = self.specs(spec)
        answer = self.engine.perform(Request(kind, MODEL, "f", specs))
        return codec.decode(answer.data), answer.forwards

    def now(self, spec: Any, job: Job | None = None) -> Any:
        """Send a request as a view does, and wait for the result."""
        return self.service.ask(self.subject(spec), spec, job)

    def ask(self, spec: Any, user: str, kind: Kind) -> tuple[Future[Any], Job, list[Progress]]:
        """Send a request without waiting."""
        heard: list[Progress] = []
        priority = Priority.LONG if kind.patient else Priority.INTERACTIVE
        job = Job(user=user, priority=priority, on_progress=heard.append)
        return self.pool.submit(self.now, spec, job), job, heard

    def peek(self, spec: Any) -> Any:
        """The result in the memo."""
        return self.service.peek(self.subject(spec), spec)

    def hold(self, kind: Kind) -> None:
        """Pause the next computation that reaches this step."""
        self.order.write_text(f"{next(self.numbers)} {kind.least} {kind.label}")

    def release(self) -> None:
        """Pause no computation."""
        self.order.write_text("")

    def prompts(self) -> int:
        """How many finished prompts of suites are on disk."""
        with closing(sqlite3.connect(self.folder / "tasks" / "cache.db")) as entries:
            found: int = entries.execute("SELECT COUNT(*) FROM Cache").fetchone()[0]
        return found


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HELD_AT", str(folder / "held-at"))
        opened = Desk(folder)
        yield opened
        opened.close()


def assert_alike(found: Any, wanted: Any, where: str = "") -> None:
    """The same numbers, up to the rounding of batches of another size."""
    assert type(found) is type(wanted), where
    if isinstance(wanted, np.ndarray) and wanted.dtype.kind == "f":
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5, err_msg=where)
    elif isinstance(wanted, np.ndarray):
        np.testing.assert_array_equal(found, wanted, err_msg=where)
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=1e-4, abs=1e-5, nan_ok=True), where
    elif hasattr(wanted, "__dataclass_fields__"):
        for field in fields(wanted):
            name = field.name
            assert_alike(getattr(found, name), getattr(wanted, name), f"{where}.{name}")
    elif isinstance(wanted, tuple):
        assert len(found) == len(wanted), where
        for number, (one, other) in enumerate(zip(found, wanted, strict=True)):
            assert_alike(one, other, f"{where}[{number}]")
    else:
        assert found == wanted, where


def test_every_technique_has_a_case() -> None:
    assert set(KINDS) == {technique.name for technique in TECHNIQUES}


def interrupt(desk: Desk, how: str, kind: Kind, spec: Any) -> None:
    """Interrupt the work: its request fails, and another waiting request gets its result."""
    before = desk.prompts()
    desk.hold(kind)
    asked, job, heard = desk.ask(spec, "anna", kind)
    wait_for(lambda: any(one.label == HELD for one in heard))
    wait_for(lambda: desk.prompts() >= before + kind.prompts)
    click, _, waiting = desk.ask(CLICK, "ben", KINDS["run"])
    wait_for(lambda: waiting)
    if how == "cancelled":
        job.cancel()
    else:
        kill_the_worker(desk.service)
    with pytest.raises(ENDS[how]) as told:
        asked.result(LIMIT_S)
    if how == "killed":
        assert told.value.message == "The model worker stopped while it worked on this."
        assert told.value.hint == "Run it again."
        desk.release()  # no sooner: the cancel must take effect at the paused step
    assert_alike(click.result(LIMIT_S), desk.right("run", CLICK)[0])
    desk.release()


#: These take seconds each: long work, and every kill (a new worker has to start).
LONG = ("suite", "contributions", "probes", "patching")
CASES = [
    pytest.param(how, name, id=f"{name} {how}", marks=[pytest.mark.full] if late else [])
    for how in ENDS
    for name in KINDS
    for late in [how == "killed" or name in LONG]
]


@pytest.mark.parametrize(("how", "name"), CASES)
def test_an_interrupted_request_is_reported_and_leaves_no_wrong_result(
    desk: Desk, how: str, name: str
) -> None:
    kind = KINDS[name]
    spec = kind.spec(list(ENDS).index(how))
    desk.service._memo.clear()
    if kind.kept is not None:
        desk.now(kind.kept)
    pid = desk.service.status().worker_pid
    interrupt(desk, how, kind, spec)
    assert desk.peek(spec) is None
    assert kind.kept is None or desk.peek(kind.kept) is not None
    assert (desk.service.status().worker_pid == pid) == (how == "cancelled")
    passes = desk.service.status().forwards
    again = desk.now(spec)
    passes = desk.service.status().forwards - passes
    right, whole = desk.right(name, spec)
    assert_alike(again, right, name)
    assert_alike(desk.peek(spec), right, name)
    assert not kind.prompts or passes < whole


@pytest.mark.parametrize(
    "name", [name for name, kind in KINDS.items() if kind.patient and kind.label != COMPUTED]
)
def test_long_work_yields_to_clicks_at_every_stage(desk: Desk, name: str) -> None:
    kind, told = KINDS[name], []

    def step(done: int, total: int, label: str) -> None:
        told.append(label)

    with jobs.listening(step, lambda: told.append("pause")):
        desk.right(name, kind.asked)
    stopping = {label for label, after in itertools.pairwise(told) if after == "pause" != label}
    assert stopping == set(told) - {"pause"}


def test_forward_passes_of_a_click_are_not_counted_twice(desk: Desk) -> None:
    kind, clicks = KINDS["causal"], iter([True])

    def click() -> None:
        if next(clicks, False):
            answer = desk.engine.perform(Request("run", MODEL, "f", (CLICK,)))
            assert answer.forwards == 1

    alone = desk.right("causal", kind.asked)[1]
    with jobs.listening(None, click):
        assert desk.right("causal", kind.asked)[1] == alone
    assert next(clicks, None) is None
