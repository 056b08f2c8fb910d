"""A service that returns made-up results of the right shape at once. No model, no torch."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from analysis.attribution.specs import Attribution
from analysis.contract.ledger import Ledger, LedgerEntry, LedgerSpec, ModelLedgerSpec
from analysis.contract.specs import ModelInfo
from analysis.errors import AnalysisError, PromptError, SpecError
from analysis.experiments.component_specs import ComponentGraph, ComponentGraphSpec
from analysis.experiments.specs import PromptComparison, PromptSpec, Sweep, SweepSpec
from analysis.flow_graph.results import (
    LINK_KINDS,
    NODE_KINDS,
    CausalCheck,
    CausalComparison,
    Graph,
    LinkReading,
    Neurons,
)
from analysis.flow_graph.specs import CausalSpec, ComparisonSpec, FlowSpec, LinkSpec, NeuronSpec
from analysis.lens.results import Grid
from analysis.lens.specs import LensSpec
from analysis.registry import technique_for
from analysis.tasks.neuron_text_specs import NeuronTexts, NeuronTextSpec
from analysis.tracing.specs import (
    Answer,
    AnswerSpec,
    PatternResult,
    PatternSpec,
    RunResult,
    RunSpec,
    TraceSpec,
)
from analysis.trajectory.specs import Emergence, EmergenceSpec, Story, StorySpec
from tests.support import fake_results
from tests.support.fake_results import HEADS, LAYERS, VOCAB, WORDS, token


class FakeService:
    """A fake ``analysis.service.Service``. ``calls`` counts; ``fail`` is the next call's error."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.problem = ""
        self.fail: dict[str, Exception] = {}
        self.memo: dict[Any, Any] = {}

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name in self.fail:
            raise self.fail[name]

    def model_info(self, name: str, job: Any = None) -> ModelInfo:
        self._called("model_info")
        sizes = (LAYERS, HEADS, 2, 48, 8, VOCAB, 512, 1_000_000)
        return ModelInfo(
            name, "fake", *sizes, True, False, "RMSNorm", "float32", "cpu", "made up", "1", "f" * 32
        )

    def peek(self, subject: Any, spec: Any) -> Any:
        """Memoised results of one process."""
        self.calls.append("peek")
        return self.memo.get((subject, spec))

    def version(self, model: str) -> str:
        """Made-up results stay."""
        return model

    def run(self, spec: RunSpec, job: Any = None) -> RunResult:
        self._called("run")
        words = re.findall(r"\s*\S+", spec.text)
        if len(words) > 256:
            raise PromptError(f"The prompt has {len(words)} tokens.", "Use at most 256.")
        ids = [WORDS.index(word) if word in WORDS else 10 + len(word) % 30 for word in words]
        ids += [(5 + step) % VOCAB for step in range(spec.new_tokens)]
        size = len(ids)
        rng = np.random.default_rng(size)
        top = np.stack([rng.permutation(VOCAB)[:5] for _ in range(size)]).astype(np.int64)
        top[len(words) - 1, 0] = 5
        probs = np.sort(rng.dirichlet(np.ones(8) * 0.5, size))[:, ::-1][:, :5].astype(np.float32)
        following = rng.random(size).astype(np.float32)
        following[-1] = np.nan
        rank = np.append(rng.integers(0, 9, size - 1), -1).astype(np.int64)
        return RunResult(
            self.model_info(spec.model),
            tuple(token(number) for number in ids),
            len(words),
            top,
            probs,
            following,
            rank,
            rng.random(size).astype(np.float32),
            tuple(token(number) for number in range(VOCAB)),
        )

    def ask(self, subject: Any, spec: Any, job: Any = None) -> Any:
        """The memo's result, or a made-up one; ``fail`` comes before both."""
        if (subject, spec) not in self.memo or technique_for(spec).name in self.fail:
            self.memo[subject, spec] = self._made(subject, spec, job)
        return self.memo[subject, spec]

    def _made(self, subject: Any, spec: Any, job: Any) -> Any:
        """A method named like the technique, or ``fake_results``."""
        technique = technique_for(spec)
        name = technique.name
        if name == "info":
            return self.model_info(subject, job)
        if technique.subject in ("prompt", "study"):
            return getattr(self, name)(spec, job)
        if hasattr(self, name):
            return getattr(self, name)(subject, spec, job)
        self._called(name)
        sizes = (len(subject.token_ids),) if technique.subject == "trace" else ()
        found = fake_results.MADE[name](*sizes, spec)
        self.memo[subject, spec] = found
        return found

    def sweep(self, spec: SweepSpec, job: Any = None) -> Sweep:
        self._called("sweep")
        return fake_results.sweep(spec)

    def neuron_texts(self, spec: NeuronTextSpec, job: Any = None) -> NeuronTexts:
        self._called("neuron_texts")
        self.memo[spec.model, spec] = fake_results.neuron_texts(spec)
        return self.memo[spec.model, spec]

    def component_graph(self, spec: ComponentGraphSpec, job: Any = None) -> ComponentGraph:
        self._called("component_graph")
        return fake_results.component_graph(spec)

    def compare_prompts(self, spec: PromptSpec, job: Any = None) -> PromptComparison:
        self._called("compare_prompts")
        return fake_results.compared(spec)

    def decode(self, trace: TraceSpec, spec: LensSpec, job: Any = None) -> Grid:
        self._called("decode")
        size = len(trace.token_ids)
        positions = np.array(range(size) if spec.positions is None else spec.positions, np.int64)
        rows = np.arange(LAYERS + (spec.component == "block_output"))
        shape = (len(rows), len(positions))
        rng = np.random.default_rng(len(trace.token_ids))
        ids = np.argsort(rng.random((*shape, VOCAB)))[..., : spec.k].astype(np.int64)
        sure = (rows / LAYERS)[:, None, None] ** 2
        probs = (sure * 0.8 ** np.arange(1, spec.k + 1) * 0.9).astype(np.float32)
        probs = np.broadcast_to(probs, ids.shape).copy()
        ids[-1, :, 0] = 5
        wide = (*shape, len(spec.target))
        rising = (
            np.broadcast_to(sure, wide)
            * np.linspace(1, 0.3, max(len(spec.target), 1))[: len(spec.target)]
        )
        if spec.similarity != "dot":
            probs = np.full_like(probs, np.nan)
        found = self.memo[trace, spec] = Grid(
            rows,
            positions,
            ids,
            probs,
            np.log(np.nan_to_num(probs, nan=0.5) + 1e-9),
            (3 * (1 - sure[..., 0]) + rng.random(shape) * 0.2).astype(np.float32),
            (5 * (1 - sure[..., 0]) * np.ones(shape)).astype(np.float32),
            np.array(spec.target, dtype=np.int64),
            rising.astype(np.float32),
            np.broadcast_to(((1 - sure) * 30).astype(np.int64), wide).copy(),
            np.zeros(shape, dtype=np.int64),
            np.full(ids.shape, np.nan, dtype=np.float32),
            False,
            tuple(token(number) for number in range(VOCAB)),
            spec.component,
            spec.decoder,
            spec.norm,
            spec.similarity,
        )
        return found

    def pattern(self, trace: TraceSpec, spec: PatternSpec, job: Any = None) -> PatternResult:
        self._called("pattern")
        size = len(trace.token_ids)
        rng = np.random.default_rng(spec.layer)
        weights = np.tril(rng.random((HEADS, size, size)) ** 4 + 0.01)
        weights = (weights / weights.sum(-1, keepdims=True)).astype(np.float32)
        norm = (rng.random((HEADS, size)) + 0.1).astype(np.float32)
        nothing = np.zeros((HEADS, size), dtype=np.float32)
        return PatternResult(spec.layer, weights, nothing, norm, norm / norm.sum(0))

    def answer(self, trace: TraceSpec, spec: AnswerSpec, job: Any = None) -> Answer:
        self._called("answer")
        return Answer(tuple(token(5 + len(trace.edits)) for _ in range(spec.new_tokens)), "length")

    def flow(self, trace: TraceSpec, spec: FlowSpec, job: Any = None) -> Graph:
        self._called("flow")
        if spec.method == "signed":
            return self._signed(trace, spec)
        if spec.method == "effect":
            return self._effects(trace, spec)
        roots = (spec.position,) if isinstance(spec.position, int) else spec.position
        row, pos = spec.row % (LAYERS + 1), roots[0] % len(trace.token_ids)
        block, residual = NODE_KINDS.index("block"), LINK_KINDS.index("residual")
        depths = np.arange(row, -1, -1)
        count, flows = len(depths), 0.9 ** np.arange(len(depths))
        links = np.arange(count - 1)
        graph = Graph(
            pos,
            row,
            spec.method,
            np.full(count, block),
            depths,
            np.full(count, pos),
            flows.astype(np.float32),
            np.full(count - 1, residual),
            depths[1:],
            np.full(count - 1, -1),
            links + 1,
            links,
            np.full(count - 1, 0.9, dtype=np.float32),
            flows[1:].astype(np.float32),
            float(1 - flows[-1]),
            0.0,
            np.array([], dtype=np.int64),
            roots=(pos,),
        )
        self.memo[trace, spec] = graph
        return graph

    def _effects(self, trace: TraceSpec, spec: FlowSpec) -> Graph:
        """An attention edge (-2, estimated) and an MLP (+1 estimated, +3 measured)."""
        assert isinstance(spec.position, int)
        pos, token_id = spec.position, 5 if spec.token is None else spec.token
        shares = np.array([-2.0, 3.0 if spec.exact else 1.0], np.float32)
        graph = Graph(
            pos, LAYERS, "effect",
            np.array([NODE_KINDS.index(kind) for kind in ("block", "mid", "mlp")]),
            np.array([LAYERS - 1, LAYERS - 1, LAYERS - 1]),
            np.array([0, pos, pos]), np.zeros(3, np.float32),
            np.array([LINK_KINDS.index(kind) for kind in ("attention", "mlp")]),
            np.full(2, LAYERS - 1), np.array([2 if spec.per_head else -1, -1]),
            np.array([0, 2]), np.array([1, 1]), shares, shares, 0.25, 0.0,
            np.zeros(0, np.int64), roots=(pos,), token=token_id,
            foil=-1 if spec.foil is None else spec.foil, logit=5.0,
            link_measured=np.array([False, spec.exact]), baseline=spec.baseline,
        )  # fmt: skip
        self.memo[trace, spec] = graph
        return graph

    def _signed(self, trace: TraceSpec, spec: FlowSpec) -> Graph:
        """Two paths of the last layer into the root: +3 by head 2, -1 by the MLP."""
        assert isinstance(spec.position, int)
        pos, token_id = spec.position, 5 if spec.token is None else spec.token
        shares = np.array([3.0, -1.0], np.float32)
        graph = Graph(
            pos, LAYERS, "signed",
            np.array([NODE_KINDS.index(kind) for kind in ("block", "block", "mlp")]),
            np.array([LAYERS, LAYERS - 1, LAYERS - 1]),
            np.array([pos, 0, pos]),
            np.array([2.0, 3.0, -1.0], np.float32),
            np.array([LINK_KINDS.index(kind) for kind in ("attention", "mlp")]),
            np.full(2, LAYERS - 1), np.array([2, -1]), np.array([1, 2]), np.array([0, 0]),
            shares, shares, 0.0, 0.0, np.array([], dtype=np.int64),
            roots=(pos,), token=token_id, foil=-1 if spec.foil is None else spec.foil, logit=2.0,
        )  # fmt: skip
        self.memo[trace, spec] = graph
        return graph

    def causal(self, trace: TraceSpec, spec: CausalSpec, job: Any = None) -> CausalCheck:
        self._called("causal")
        assert isinstance(spec.flow.position, int)
        numbers = np.arange(4)
        check = CausalCheck(
            spec.flow.method, spec.flow.position, 5, -1, 2.0,
            np.array([LINK_KINDS.index(k) for k in ("attention", "mlp", "attention", "mlp")]),
            numbers, np.array([2, -1, 1, -1]), np.zeros(4, np.int64), np.zeros(4, np.int64),
            np.linspace(0.1, 0.4, 4), np.linspace(0.1, 0.4, 4), np.array([0.2, -0.3, 0.1, 0.5]),
            0.4, 7, 3, 2,
        )  # fmt: skip
        self.memo[trace, spec] = check
        return check

    def comparison(
        self, trace: TraceSpec, spec: ComparisonSpec, job: Any = None
    ) -> CausalComparison:
        self._called("comparison")
        count, none = len(spec.methods), np.zeros(3, np.int64)
        values = np.linspace(0.1, 0.9, count)
        values[-1] = np.nan
        compared = CausalComparison(
            spec.methods, values, none, none, none - 1, none, none, np.zeros((count, 3)),
            np.ones(3), 4, 5, -1, 2.0,
        )  # fmt: skip
        self.memo[trace, spec] = compared
        return compared

    def link(self, trace: TraceSpec, spec: LinkSpec, job: Any = None) -> LinkReading:
        self._called("link")
        if spec.layer >= LAYERS:
            raise SpecError(f"Layer {spec.layer} does not exist.", "Use a lower one.")
        ids, logits = np.arange(spec.k), np.linspace(3, 1, spec.k)
        head = -1 if spec.head is None else spec.head
        return LinkReading(
            spec.kind, spec.layer, head, spec.source_pos, spec.target_pos, 4.5, 0.3,
            ids, logits, ids + 20, -logits, 1.5, 0.25, tuple(token(n) for n in range(VOCAB)),
        )  # fmt: skip

    def neurons(self, trace: TraceSpec, spec: NeuronSpec, job: Any = None) -> Neurons:
        self._called("neurons")
        values = np.linspace(2, 1, spec.k)
        ids = np.zeros((spec.k, spec.tokens), np.int64) + 6
        return Neurons(
            spec.layer, spec.position, 5, -1, spec.by, np.arange(spec.k) + 700, values, values,
            values, ids, ids * 0.5, 4.25, 0.0, 3072, (token(6),),
        )  # fmt: skip

    def emergence(self, trace: TraceSpec, spec: EmergenceSpec, job: Any = None) -> Emergence:
        self._called("emergence")
        size = len(trace.token_ids)
        shape = (LAYERS + 1, size)
        return Emergence(
            np.full(size, 5),
            spec.tau,
            (7,) * size,
            (9,) * size,
            (8,) * size,
            (None,) * size,
            np.zeros(shape, dtype=np.float32),
            np.zeros(shape, dtype=np.int64),
        )

    def story(self, trace: TraceSpec, spec: StorySpec, job: Any = None) -> Story:
        self._called("story")
        position = spec.position % len(trace.token_ids)
        parts = Attribution(
            position,
            5,
            None,
            0.1,
            np.zeros((LAYERS, HEADS), dtype=np.float32),
            np.zeros(LAYERS, dtype=np.float32),
            np.zeros(LAYERS, dtype=np.float32),
            0.0,
            0.1,
        )
        source = max(position - 1, 0)
        return Story(position, token(5), 0.62, 7, 9, 8, 10, 3, 2.1, source, parts)

    def ledger(self, name: str, spec: ModelLedgerSpec, job: Any = None) -> Ledger:
        self._called("ledger")
        return Ledger((LedgerEntry(1, "capture changes no logit", 0.0, 1e-4),), "float32", True)

    def run_ledger(self, trace: TraceSpec, spec: LedgerSpec, job: Any = None) -> Ledger:
        self._called("run_ledger")
        entry = LedgerEntry(7, "flow in = flow out", 2e-6, 1e-5, "hidden 3.0% of the flow")
        return Ledger((entry,), "float32", True)


def refuse(message: str = "The model file is cut off.", hint: str = "Fetch it again.") -> Exception:
    """An error the page must put into words."""
    return AnalysisError(message, hint)
