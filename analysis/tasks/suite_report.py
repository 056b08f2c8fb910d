"""A whole suite on one model, as the page shows it."""

from __future__ import annotations

import numpy as np

from analysis.models.handle import Model
from analysis.results.tasks import Outcome, SuiteReport
from analysis.rows import first_row, staying_row
from analysis.store import Memo
from analysis.tasks import emergence, outcomes, suites
from analysis.tasks.columns import operand_digits
from analysis.tasks.prompts import encode
from analysis.tasks.spec import SuiteSpec

#: By which label accuracy is split, of those that a suite has: the first found.
SPLIT = ("chain", "borrows", "relation", "gap")


def compute(model: Model, spec: SuiteSpec, memo: Memo | None = None) -> SuiteReport:
    """Run the suite and its controls.

    Raises:
        SpecError: If there is no such suite.
        CancelledError: If the caller's progress listener stops the work.
    """
    own = operand_digits(model)
    suite = suites.build(
        spec.suite, spec.size, spec.seed, own or spec.digits, padded=own is not None
    )
    names = [name for name, _ in suite.prompts[0].labels]
    label = "digits" if spec.suite == "addition-lengths" else ""
    label = label or next((name for name in SPLIT if name in names), "")
    found = emergence.report(model, suite, memo, measure=spec.measure, label=label, seed=spec.seed)
    kept = memo or Memo(None, 0)
    encoded = [encode(model.tokenizer, prompt) for prompt in suite.prompts]
    encoded = emergence.with_equal_foils(encoded, spec.seed)
    runs = outcomes.run(model, encoded, kept)
    return SuiteReport(
        suite.title,
        tuple(prompt.text for prompt in suite.prompts),
        tuple(prompt.answer for prompt in suite.prompts),
        tuple(_written(model, run) for run in runs),
        tuple(len(run.right_ids) for run in runs),
        np.array([emergence.finished(model, run) for run in runs], np.int64),
        np.array([_row(run, spec) for run in runs], np.float32),
        found,
    )


def _written(model: Model, run: Outcome) -> str:
    """What the model says, up to and with its first wrong token."""
    stop = run.hits.index(False) + 1 if not run.right else len(run.choices)
    text: str = model.tokenizer.decode(run.choices[:stop].tolist())
    return text


def _row(run: Outcome, spec: SuiteSpec) -> float:
    """Mean row at which the model's choices come up, up to its first wrong one."""
    find = staying_row if spec.measure == "saturation" else first_row
    stop = run.hits.index(False) + 1 if not run.right else len(run.hits)
    rows = [find(run.choice_ranks[:, token] == 0) for token in range(stop)]
    known = [row for row in rows if row is not None]
    return float(np.mean(known)) if known else float("nan")
