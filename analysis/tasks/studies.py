"""In the worker: from what is asked of many prompts to its report, by the kind of request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from analysis.errors import SpecError
from analysis.models.handle import Model
from analysis.results.failures import FailureReport
from analysis.results.sums import ContributionReport, PatchReport, ProbeReport, Projection
from analysis.store import Memo
from analysis.tasks import columns, contributions, failure, patching, probes, suite_report
from analysis.tasks.columns import Table
from analysis.tasks.components import affordable, named
from analysis.tasks.spec import (
    ContributionSpec,
    FailureSpec,
    PatchSpec,
    ProbeSpec,
    ProjectionSpec,
)

#: Fewer different sums than this can't be split into some to fit on and others to judge by.
FEWEST = 40


def table(model: Model, digits: int, count: int, seed: int) -> Table:
    """Sums as the model reads them: the trained adder's own digits go ahead.

    Raises:
        SpecError: If the model does not read and write one token for each digit.
    """
    own = columns.operand_digits(model)
    return columns.drawn(model, count, seed, own or digits, padded=own is not None)


def contribute(
    model: Model, spec: ContributionSpec, memo: Memo | None = None, longest: int | None = None
) -> ContributionReport:
    """What writes each digit."""
    return contributions.report(model, table(model, spec.digits, spec.sums, spec.seed))


def probe(
    model: Model, spec: ProbeSpec, memo: Memo | None = None, longest: int | None = None
) -> ProbeReport:
    """Where carries and digit sums can be read; a large model's rows, a small one's every part."""
    sums = table(model, spec.digits, spec.sums, spec.seed)
    if len(sums.a) < FEWEST:
        raise SpecError(f"There are only {len(sums.a)} such sums.", "Use more digits.")
    every = affordable(model)
    heads = any(component.kind == "head" for component in every)
    wanted = every if heads else tuple(one for one in every if one.kind == "row")
    return probes.report(model, sums, wanted, places=sums.own, seed=spec.seed)


def project(
    model: Model, spec: ProjectionSpec, memo: Memo | None = None, longest: int | None = None
) -> Projection:
    """States of one component on their two main axes.

    Raises:
        SpecError: If there is no such component, place or column.
    """
    sums = table(model, spec.digits, spec.sums, spec.seed)
    column = min(spec.column, sums.digits)
    place = sums.answers[column] - 1
    if spec.place:
        if spec.place not in sums.places:
            raise SpecError(
                f"These sums have no place called {spec.place!r}.",
                f"Choose one of: {', '.join(sums.places[p] for p in sums.own)}.",
            )
        place = sums.places.index(spec.place)
    return probes.projection(model, sums, named(model, spec.component), place, column)


def patch(
    model: Model, spec: PatchSpec, memo: Memo | None = None, longest: int | None = None
) -> PatchReport:
    """Which component hands a carry over."""
    own = columns.operand_digits(model)
    return patching.report(
        model,
        own or spec.digits,
        pairs=spec.pairs,
        seed=spec.seed,
        padded=own is not None,
        travels=spec.travels,
        wanted=affordable(model),
        positions=spec.positions,
    )


def fail(
    model: Model, spec: FailureSpec, memo: Memo | None = None, longest: int | None = None
) -> FailureReport:
    """Wrong answers of a suite beside right ones."""
    suite = suite_report.drawn(model, spec.suite)
    encoded = suite_report.encoded_of(model, suite, longest)
    return failure.report(model, suite, memo, most=spec.most, encoded=encoded)


#: (model, spec, memo of finished prompts, longest prompt in tokens) -> report.
STUDIES: dict[str, Callable[[Model, Any, Memo | None, int | None], Any]] = {
    "suite": suite_report.compute,
    "contributions": contribute,
    "probes": probe,
    "projection": project,
    "patching": patch,
    "failure": fail,
}
