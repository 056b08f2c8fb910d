"""Run a suite on a model, and report on it."""

from __future__ import annotations

import numpy as np

from analysis.errors import PromptError
from analysis.model.handle import Model
from analysis.store.memo import Memo
from analysis.tasks import emergence_report, suite_files, suites
from analysis.tasks.outcomes import run_suite
from analysis.tasks.prompts import Encoded, Suite, encode
from analysis.tasks.results import Outcome, SuiteReport
from analysis.tasks.specs import OWN, SuiteSpec
from analysis.tasks.sum_table import operand_digits
from analysis.trajectory.emergence import first_row, staying_row

#: By which label accuracy is split, of those that a suite has: the first found.
SPLIT = ("chain", "borrows", "relation", "gap")
MOST_GROUPS = range(1, 25)


def compute(
    model: Model, spec: SuiteSpec, memo: Memo | None = None, longest: int | None = None
) -> SuiteReport:
    """Run the suite and its controls.

    Args:
        model: From ``analysis.load_model``.
        spec: Which suite.
        memo: Where finished prompts are kept.
        longest: Tokens of prompt and answer that are read at most; None: as many as the model has.

    Raises:
        SpecError: If there is no such suite.
        PromptError: If a prompt is too long.
        CancelledError: If the caller's progress listener stops the work.
    """
    suite = drawn(model, spec)
    encoded = encoded_of(model, suite, longest)
    label = "digits" if spec.suite == "addition-lengths" else split_label(suite)
    kept = memo or Memo(None, 0)
    found = emergence_report.report(
        model, suite, kept, measure=spec.measure, label=label, seed=spec.seed
    )
    runs = run_suite(model, emergence_report.with_equal_foils(encoded, spec.seed), kept)
    return SuiteReport(
        suite.title,
        tuple(prompt.text for prompt in suite.prompts),
        tuple(prompt.answer for prompt in suite.prompts),
        tuple(written(model, run) for run in runs),
        tuple(len(run.right_ids) for run in runs),
        np.array([emergence_report.finished(model, run) for run in runs], np.int64),
        np.array([_row(run, spec) for run in runs], np.float32),
        found,
        tuple(f"{label} {prompt.label(label)}" if label else "" for prompt in suite.prompts),
    )


def split_label(suite: Suite) -> str:
    """The label by whose values accuracy is split: the first that has few of them; or none."""
    names = [name for name, _ in suite.prompts[0].labels]
    values = {name: {prompt.label(name) for prompt in suite.prompts} for name in names}
    fitting = [name for name in (*SPLIT, *names) if len(values.get(name, ())) in MOST_GROUPS]
    return fitting[0] if fitting else ""


def drawn(model: Model, spec: SuiteSpec) -> Suite:
    """The suite that is asked for, sums written as the model reads them."""
    if spec.suite == OWN:
        own = suite_files.parse(spec.content.encode(), "jsonl", spec.title or "A list of one's own")
        return Suite(OWN, own.title, own.prompts[: spec.size])
    digits = operand_digits(model)
    return suites.build(
        spec.suite, spec.size, spec.seed, digits or spec.digits, padded=digits is not None
    )


def encoded_of(model: Model, suite: Suite, longest: int | None) -> list[Encoded]:
    """The prompts as tokens.

    Raises:
        PromptError: If one is too long, or gives no tokens, by its place in the list.
    """
    made = []
    for place, prompt in enumerate(suite.prompts, 1):
        try:
            made.append(encode(model.tokenizer, prompt))
        except PromptError as error:
            raise PromptError(f"Prompt {place}: {error.message}", error.hint) from error
        count = len(made[-1].token_ids)
        if longest is not None and count > longest:
            raise PromptError(
                f"Prompt {place} has {count} tokens with its answer; this server reads at most "
                f"{longest}.",
                "Shorten it, or raise STRATASCOPE_MAX_PROMPT_TOKENS.",
            )
    return made


def written(model: Model, run: Outcome) -> str:
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
