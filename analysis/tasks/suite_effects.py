"""Causal checks of flow graphs over a suite: correlations by method, and effects by role.

Importable without torch: the computation imports what it needs when it runs.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.contract import jobs
from analysis.contract.choices import about, check_choices, one_of
from analysis.contract.sheets import COUNT, HEAD, LAYER, LOGITS, NUMBER, TEXT, Row, Sheet
from analysis.contract.specs import Floats, Ints, Result, Spec, check_shape
from analysis.errors import SpecError
from analysis.flow_graph.options import FLOW_METHODS
from analysis.flow_graph.results import LINK_KINDS, CausalComparison
from analysis.flow_graph.specs import CausalSpec, ComparisonSpec, FlowSpec
from analysis.tasks.suite_specs import MODEL, SEED, SuiteSpec, check_count
from analysis.tasks.suites import Encoded
from analysis.tracing.interventions import ABLATION_VALUES

if TYPE_CHECKING:
    from analysis.model.handle import Model
    from analysis.store.memo import Memo

#: Most prompts, and most links that are cut for each method and prompt.
MAX_CHECKED, MAX_CUTS = 500, 200


@dataclass(frozen=True, slots=True)
class SuiteEffects(Result):
    """How well flow methods predict cuts over a suite, and the effects of cuts by role.

    A role is what a position is in its prompt: a named part ("a3", "subject"), "first token",
    "last token" (which predicts the answer) or "other". Cuts of one prompt with the same kind,
    layer, head and roles are summed. Intervals are 95 % intervals of the median, from the order of
    the values; NaN for fewer than six prompts.

    Attributes:
        title: The suite's title.
        prompts: [prompt] those that were checked.
        methods: [method] their names.
        correlations: [method, prompt] Spearman's, of drawn flow and absolute effect; NaN if
            undefined.
        median, low, high: [method] of the correlations over prompts.
        kind, layer, head: [role] of the cut; kinds as in ``LINK_KINDS``. The head is -1 for all
            heads together, and for MLPs.
        sources, targets: [role] roles of the positions that the link joins.
        count: [role] prompts in which such a link was cut.
        effect, effect_low, effect_high: [role] median effect over these prompts, in logits: the
            target with nothing cut minus the target with the link cut.
        flow: [method, role] median flow that each method draws there; absolute values.
        skipped: Prompts whose answer has no such token.
    """

    title: str
    prompts: tuple[str, ...]
    methods: tuple[str, ...]
    correlations: Floats
    median: Floats
    low: Floats
    high: Floats
    kind: Ints
    layer: Ints
    head: Ints
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    count: Ints
    effect: Floats
    effect_low: Floats
    effect_high: Floats
    flow: Floats
    skipped: int = 0

    def __post_init__(self) -> None:
        check_shape("correlations", self.correlations, (len(self.methods), len(self.prompts)))
        for name in ("median", "low", "high"):
            check_shape(name, getattr(self, name), (len(self.methods),))
        for name in ("kind", "layer", "head", "count", "effect", "effect_low", "effect_high"):
            check_shape(name, getattr(self, name), (len(self.sources),))
        check_shape("flow", self.flow, (len(self.methods), len(self.sources)))

    @property
    def order(self) -> Ints:
        """[role] the roles, the one with the largest median effect first."""
        return np.argsort(-np.abs(self.effect), kind="stable")

    def name(self, at: int) -> str:
        """A role in words: "attention 3 from subject to last token", "MLP 2 at last token"."""
        layer, head = int(self.layer[at]), int(self.head[at])
        if LINK_KINDS[self.kind[at]] == "mlp":
            return f"MLP {layer} at {self.targets[at]}"
        part = f"attention {layer}" if head < 0 else f"head {layer}.{head}"
        return f"{part} from {self.sources[at]} to {self.targets[at]}"


@dataclass(frozen=True, slots=True)
class SuiteEffectSpec(Spec[SuiteEffects]):
    """Cut links in each prompt of a suite: which method predicts the effects, and their roles."""

    model: str = field(metadata=MODEL)
    suite: str = field(metadata=about('A built-in suite\'s name, or "own" for an uploaded list.'))
    size: int = field(default=20, metadata=about("How many prompts."))
    seed: int = field(default=0, metadata=SEED)
    digits: int = field(
        default=3,
        metadata=about("Digits of each operand; a model trained on sums keeps its own number."),
    )
    answer: int = field(
        default=0, metadata=about("Which token of the right answer is explained; 0 is the first.")
    )
    methods: tuple[str, ...] = field(
        default=("effect", "proximity"), metadata=one_of(FLOW_METHODS, "The methods to compare.")
    )
    limit: int = field(
        default=20, metadata=about("Links of each method that are cut in each prompt.")
    )
    value: str = field(
        default="zero", metadata=one_of(ABLATION_VALUES, "What replaces the output of a cut MLP.")
    )
    per_head: bool = field(
        default=False,
        metadata=about("Cut the links of each head on their own; else heads are cut together."),
    )
    content: str = field(default="", metadata=about("An uploaded list as JSON lines; else empty."))
    title: str = field(default="", metadata=about("The title of an uploaded list."))

    def __post_init__(self) -> None:
        check_choices(self)
        check_count("A suite of {} prompts can't be checked.", self.size, MAX_CHECKED)
        check_count("{} links can't be cut in each prompt.", self.limit, MAX_CUTS)
        if not self.methods:
            raise SpecError("There is no method to compare.", "Name at least one.")
        if self.answer < 0:
            raise SpecError("Tokens of the answer count from 0.", "Use 0 for the first.")
        self.of_suite()

    def of_suite(self) -> SuiteSpec:
        """The suite itself.

        Raises:
            SpecError: If it has no prompts.
        """
        return SuiteSpec(
            self.model, self.suite, self.size, self.seed, self.digits, content=self.content,
            title=self.title,
        )  # fmt: skip


def _methods(found: SuiteEffects) -> Iterator[Row]:
    """For each method its median over prompts, then each prompt."""
    for at, name in enumerate(found.methods):
        known = int(np.isfinite(found.correlations[at]).sum())
        yield name, "all", known, found.median[at], found.low[at], found.high[at]
        for prompt, one in zip(found.prompts, found.correlations[at], strict=True):
            yield name, prompt, 1, one, None, None


def _roles(found: SuiteEffects) -> Iterator[Row]:
    """For each role and method the measured effect, and the flow that the method draws."""
    for at in found.order.tolist():
        head = int(found.head[at])
        where = (int(found.layer[at]), None if head < 0 else head)
        measured = (found.effect[at], found.effect_low[at], found.effect_high[at])
        for number, method in enumerate(found.methods):
            yield (
                found.name(at), LINK_KINDS[found.kind[at]], *where, found.sources[at],
                found.targets[at], int(found.count[at]), *measured, method, found.flow[number, at],
            )  # fmt: skip


#: The tables of the result; the first is the main one.
SHEETS: dict[type[Any], tuple[Sheet, ...]] = {
    SuiteEffects: (
        Sheet(
            "roles",
            {"role": TEXT, "kind": TEXT, "layer": LAYER, "head": HEAD, "source": TEXT,
             "target": TEXT, "prompts": COUNT, "effect": LOGITS, "low": LOGITS, "high": LOGITS,
             "method": TEXT, "flow": NUMBER},
            _roles,
        ),
        Sheet(
            "methods",
            {"method": TEXT, "prompt": TEXT, "prompts": COUNT, "correlation": NUMBER,
             "low": NUMBER, "high": NUMBER},
            _methods,
        ),
    ),
}  # fmt: skip

#: Kind, layer and head of a cut, and the roles of its source and its target.
Role = tuple[int, int, int, str, str]


def median(values: Sequence[float]) -> tuple[float, float, float]:
    """The median of numbers with its 95 % interval, which is two of the numbers themselves.

    The chance that fewer than ``k`` of ``n`` values lie below the true median is binomial with one
    half. The interval leaves out at most 2.5 % on each side. It assumes no distribution.

    Args:
        values: Numbers; NaN is left out.

    Returns:
        Median, low and high; all NaN for no values, low and high NaN for fewer than six.
    """
    known = sorted(one for one in map(float, values) if not math.isnan(one))
    count, nan = len(known), float("nan")
    if not count:
        return nan, nan, nan
    middle = float(np.median(known))
    below, tail = 0, math.comb(count, 0) / 2**count
    while tail <= 0.025:
        below += 1
        tail += math.comb(count, below) / 2**count
    return (middle, known[below - 1], known[count - below]) if below else (middle, nan, nan)


@dataclass
class _Found:
    """What the prompts give, one after another."""

    correlations: list[np.ndarray] = field(default_factory=list)
    effects: dict[Role, list[float]] = field(default_factory=lambda: defaultdict(list))
    flows: dict[Role, list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))

    def add(self, check: CausalComparison, roles: Sequence[str]) -> None:
        """One prompt; cuts of the same role are summed."""
        self.correlations.append(check.correlations)
        effect: dict[Role, float] = defaultdict(float)
        flow: dict[Role, np.ndarray] = {}
        columns = (check.kind, check.layer, check.head, check.source_pos, check.target_pos)
        for cut, (kind, layer, head, source, target) in enumerate(zip(*columns, strict=True)):
            role = (int(kind), int(layer), int(head), roles[source], roles[target])
            effect[role] += float(check.effect[cut])
            flow[role] = flow.get(role, 0.0) + check.flow[:, cut].astype(np.float64)
        for role, value in effect.items():
            self.effects[role].append(value)
            self.flows[role].append(flow[role])


def compute(
    model: Model, spec: SuiteEffectSpec, _memo: Memo | None = None, longest: int | None = None
) -> SuiteEffects:
    """The checks of a spec, a technique of ``analysis.registry``; see ``suite_effects``."""
    from analysis.tasks.suite_report import encoded_of, suite_of

    suite = suite_of(model, spec.of_suite())
    encoded = encoded_of(model, suite, longest)
    chosen = [n for n, one in enumerate(encoded) if spec.answer < len(one.foil_ids)]
    if not chosen:
        raise SpecError(
            f"No answer of the suite has a token {spec.answer}.", "Explain an earlier token."
        )
    found = _Found()
    for done, number in enumerate(chosen):
        jobs.step(done, len(chosen), "Checking prompts")
        jobs.pause()
        with jobs.part(done, len(chosen), "Checking prompts"):
            check = _checked(model, encoded[number], spec)
        found.add(check, roles_of(encoded[number], encoded[number].start + spec.answer))
    jobs.step(len(chosen), len(chosen), "Checking prompts")
    prompts = tuple(suite.prompts[number].text for number in chosen)
    return _result(suite.title, prompts, check.methods, found, len(encoded) - len(chosen))


def _checked(model: Model, prompt: Encoded, spec: SuiteEffectSpec) -> CausalComparison:
    """The comparison of one prompt: the right token's logit, minus the foil's if it has one."""
    from analysis.flow_graph import causal_check
    from analysis.tracing.capture import trace

    size = prompt.start + spec.answer
    foil = prompt.foil_ids[spec.answer]
    causal = CausalSpec(
        FlowSpec(exact=True), token=prompt.token_ids[size], foil=None if foil < 0 else foil,
        value=spec.value, limit=spec.limit,
    )  # fmt: skip
    run = trace(model, prompt.token_ids[:size])
    return causal_check.compare(model, run, ComparisonSpec(causal, spec.methods, spec.per_head))


def roles_of(prompt: Encoded, size: int) -> list[str]:
    """[pos] the role of each of the first ``size`` positions.

    A position in several parts has the first one's name.
    """
    roles = ["other"] * size
    roles[0] = "first token"
    roles[-1] = "last token"
    named: set[int] = set()
    for name, places in prompt.places.items():
        for place in places:
            if place < size - 1 and place not in named:
                roles[place] = name
                named.add(place)
    return roles


def _result(
    title: str, prompts: tuple[str, ...], methods: tuple[str, ...], found: _Found, skipped: int
) -> SuiteEffects:
    correlations = np.stack(found.correlations, 1)
    middle = np.array([median(row) for row in correlations], np.float32)
    roles = sorted(found.effects)
    effects = np.array([median(found.effects[role]) for role in roles], np.float32)
    flows = [np.median(np.stack(found.flows[role]), 0) for role in roles]
    numbers = np.array([role[:3] for role in roles], np.int64).reshape(-1, 3)
    effects = effects.reshape(-1, 3)
    return SuiteEffects(
        title, prompts, methods, correlations, middle[:, 0], middle[:, 1], middle[:, 2],
        numbers[:, 0], numbers[:, 1], numbers[:, 2],
        tuple(role[3] for role in roles), tuple(role[4] for role in roles),
        np.array([len(found.effects[role]) for role in roles], np.int64),
        effects[:, 0], effects[:, 1], effects[:, 2],
        np.array(flows, np.float32).reshape(-1, len(methods)).T, skipped,
    )  # fmt: skip


def suite_effects(
    model: Any,
    suite: str,
    *,
    size: int = 20,
    seed: int = 0,
    digits: int = 3,
    answer: int = 0,
    methods: Sequence[str] = ("effect", "proximity"),
    limit: int = 20,
    value: str = "zero",
    per_head: bool = False,
) -> SuiteEffects:
    """Cut links in each prompt of a suite: which method predicts the effects, and their roles.

    In each prompt the strongest links of each method are cut on their own, and the change of the
    right token's logit (minus the foil's, where the suite has foils) is measured, as in the causal
    check of one prompt. Rank correlations and effects are medians over prompts.

    Args:
        model: From ``load_model``.
        suite: One of ``analysis.tasks.suites.NAMES``.
        size: Number of prompts, 1 to 500.
        seed: The seed of the suite.
        digits: Digits of each operand in suites of sums.
        answer: Which token of the right answer is explained. The tokens before it are part of the
            prompt.
        methods: Names of flow methods.
        limit: Links of each method that are cut in each prompt, 1 to 200.
        value: What replaces a cut MLP: "zero" or "mean".
        per_head: Whether the links of each head are cut on their own.

    Returns:
        A SuiteEffects.

    Raises:
        SpecError: If there is no such suite or method, or no answer has such a token.
        CancelledError: If the caller's progress listener stops the work.
    """
    return compute(
        model,
        SuiteEffectSpec(
            model.info.name, suite, size, seed, digits, answer, tuple(methods), limit, value,
            per_head,
        ),
    )  # fmt: skip
