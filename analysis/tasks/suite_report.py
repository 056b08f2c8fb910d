"""Run a suite on a model: accuracy, and the rows at which right and wrong answers emerge."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from analysis.contract.specs import Ints
from analysis.errors import PromptError
from analysis.model.handle import Model
from analysis.store.memo import Memo
from analysis.tasks import suite_files, suites
from analysis.tasks.batch import run_suite
from analysis.tasks.suite_specs import (
    OWN,
    EmergenceCurve,
    EmergenceReport,
    Outcome,
    Share,
    SuiteReport,
    SuiteSpec,
)
from analysis.tasks.suites import Encoded, Suite, encode
from analysis.tasks.sum_table import operand_digits
from analysis.trajectory.specs import MaybeRow
from analysis.trajectory.steps import first_row, staying_row

#: Bootstrap samples of an interval.
SAMPLES = 1000
#: With fewer prompts than this a bootstrap is meaningless, and the mean row has no interval.
MIN_PROMPTS = 10
_Z = 1.959964
#: Labels that accuracy is split by: the first of these that a suite has.
SPLIT = ("chain", "borrows", "relation", "gap")
GROUPS = range(1, 25)
#: Longest label that is sorted as a number.
_LONGEST_NUMBER = 100
#: Prompt and row of one answer token.
Cell = tuple[int, MaybeRow]


def share(name: str, hits: int, total: int) -> Share:
    """A share with its 95 % Wilson score interval (Wilson 1927); 0 to 1 for no prompts."""
    if not total:
        return Share(name, 0, 0, 0.0, 1.0)
    return Share(name, hits, total, *_wilson(hits / total, total))


def _wilson(p: float, total: int) -> tuple[float, float]:
    z = _Z
    middle = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(p * (1 - p) / total + z * z / (4 * total**2))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def curve(name: str, rows: Any, prompts: Any, last_row: int, seed: int = 0) -> EmergenceCurve:
    """The distribution of emergence rows, with bootstrap intervals over prompts.

    Intervals of shares are no narrower than Wilson's over prompts; the mean row of fewer than ten
    prompts has no interval (NaN).

    Args:
        name: The tokens, in words.
        rows: [count] row of each; -1 for never.
        prompts: [count] prompt of each: tokens of one prompt are resampled together.
        last_row: The model's last row.
        seed: The seed of the bootstrap.
    """
    rows, prompts = np.asarray(rows, np.int64), np.asarray(prompts, np.int64)
    nan = float("nan")
    if not len(rows):
        empty = np.full(last_row + 1, np.nan, np.float32)
        return EmergenceCurve(name, 0, 0, empty, empty, empty, nan, nan, nan, rows, prompts)
    _, unit = np.unique(prompts, return_inverse=True)
    hits = np.zeros((unit.max() + 1, last_row + 2))  # [prompt, row] tokens; the last row: never
    np.add.at(hits, (unit, np.where(rows < 0, last_row + 1, rows)), 1)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(hits), np.full(len(hits), 1 / len(hits)), SAMPLES)
    low, high = np.percentile(_by_row(weights @ hits), [2.5, 97.5], axis=0)
    whole = hits.sum(0, keepdims=True)
    low, high = _no_narrower(low, high, _by_row(whole)[0], len(hits))
    means = _means(weights @ hits) if len(hits) >= MIN_PROMPTS else np.empty(0)
    mean_low, mean_high = np.percentile(means, [2.5, 97.5]) if len(means) else (nan, nan)
    own = _means(whole)
    return EmergenceCurve(
        name, len(rows), int((rows < 0).sum()), _by_row(whole)[0].astype(np.float32),
        low.astype(np.float32), high.astype(np.float32),
        float(own[0]) if len(own) else nan, float(mean_low), float(mean_high), rows, prompts,
    )  # fmt: skip


def _no_narrower(low: Any, high: Any, shares: Any, prompts: int) -> tuple[Any, Any]:
    """Widen bootstrap intervals to at least Wilson's over prompts.

    If all or none of the tokens have emerged, all samples are equal and the bootstrap would claim
    certainty.
    """
    wilson = [_wilson(float(p), prompts) for p in shares]
    return (
        np.minimum(low, [one for one, _ in wilson]),
        np.maximum(high, [one for _, one in wilson]),
    )


def _by_row(counts: Any) -> Any:
    return counts[:, :-1].cumsum(1) / counts.sum(1, keepdims=True)


def _means(counts: Any) -> Any:
    """Mean row of the tokens that emerge, in each sample where one does."""
    emerged = counts[:, :-1]
    emerged = emerged[emerged.sum(1) > 0]
    return emerged @ np.arange(emerged.shape[1]) / emerged.sum(1)


def report(
    model: Model,
    suite: Suite,
    memo: Memo | None = None,
    *,
    measure: str = "saturation",
    label: str = "",
    seed: int = 0,
) -> EmergenceReport:
    """Run a suite and its controls, and compare when tokens emerge.

    Args:
        model: From ``analysis.load_model``.
        suite: The prompts.
        memo: Keeps finished prompts.
        measure: "saturation" (ranks first from this row on) or "first_top1" (first time).
        label: Split accuracy by the values of this label; empty: no split.
        seed: The seed of shuffling and of the bootstrap.

    Raises:
        CancelledError: If the caller's progress listener stops the work.
    """
    encoded = [encode(model.tokenizer, prompt) for prompt in suite.prompts]
    return _run(model, suite, encoded, memo, measure=measure, label=label, seed=seed)[1]


def _run(
    model: Model, suite: Suite, encoded: Sequence[Encoded], memo: Memo | None, *, measure: str,
    label: str, seed: int,
) -> tuple[list[Outcome], EmergenceReport]:  # fmt: skip
    """Outcomes of all prompts, and the report on them."""
    found = run_suite(model, with_equal_foils(encoded, seed), memo, label="Running prompts")
    control = run_suite(model, shuffled(encoded, seed), memo, label="Running shuffled prompts")
    right = [correct(model, outcome) for outcome in found]
    return found, EmergenceReport(
        measure,
        share("all", sum(right), len(right)),
        by_label(suite, right, label) if label else (),
        _curves(found, control, measure, model.info.layers, seed),
        _by_digit(_token_names(encoded), found, measure, model.info.layers, seed),
    )


def _token_names(encoded: Sequence[Encoded]) -> list[list[str]]:
    """[prompt][answer token] its digit's name ("answer2"), or its index ("token 0")."""
    made = []
    for prompt in encoded:
        digits = {
            place: name
            for name, places in prompt.places.items()
            if name.startswith("answer")
            for place in places
        }
        tokens = range(len(prompt.token_ids) - prompt.start)
        made.append([digits.get(prompt.start + k, f"token {k}") for k in tokens])
    return made


def _by_digit(
    names: list[list[str]], found: Sequence[Outcome], measure: str, last: int, seed: int
) -> tuple[EmergenceCurve, ...]:
    """Right and wrong answers for each place of the answer, the units first."""
    cells: dict[tuple[str, bool], list[Cell]] = {}
    for place, outcome in enumerate(found):
        for hit in (True, False):
            for token in _tokens(outcome, hit):
                row = _row_finder(measure)(outcome.choice_ranks[:, token] == 0)
                cells.setdefault((names[place][token], hit), []).append((place, row))
    order = sorted({name for name, _ in cells}, key=lambda name: (name[:5] != "answe", name))
    return tuple(
        curve(f"{name}: {'right' if hit else 'wrong'}", *_flat(cells[name, hit]), last, seed)
        for name in order
        for hit in (True, False)
        if (name, hit) in cells
    )


def _curves(
    found: Sequence[Outcome], control: Sequence[Outcome], measure: str, last: int, seed: int
) -> tuple[EmergenceCurve, ...]:
    cells = {
        "right answers": _rows(found, "choice", measure, hit=True),
        "wrong answers": _rows(found, "choice", measure, hit=False),
        "the right token where the answer is wrong": _rows(found, "right", measure, hit=False),
        "control: an answer of the same frequency": _rows(found, "other", measure),
        "control: shuffled prompts": _rows(control, "right", measure),
    }
    return tuple(curve(name, *_flat(rows), last, seed) for name, rows in cells.items())


def correct(model: Model, outcome: Outcome) -> bool:
    """Whether the answer is right and, if it ends in a digit, no further digit follows."""
    if not outcome.right:
        return False
    tokenizer = model.tokenizer
    last = tokenizer.decode([outcome.token_ids[-1]])
    after = tokenizer.decode([int(outcome.choices[-1])])
    return not (last[-1:].isdigit() and after[:1].isdigit())


def by_label(suite: Suite, right: Sequence[bool], label: str) -> tuple[Share, ...]:
    """Accuracy of the prompts with each value of a label; numbers first, in order."""
    values = list(dict.fromkeys(prompt.label(label) for prompt in suite.prompts))
    values.sort(key=_sort_key)
    made = []
    for value in values:
        own = [hit for hit, p in zip(right, suite.prompts, strict=True) if p.label(label) == value]
        made.append(share(f"{label} {value}", sum(own), len(own)))
    return tuple(made)


def _sort_key(value: str) -> tuple[bool, int]:
    """Numbers in order, then everything else. A superscript is a digit, but no number."""
    is_number = value.isascii() and value.isdecimal() and len(value) <= _LONGEST_NUMBER
    return not is_number, int(value) if is_number else 0


def with_equal_foils(encoded: Sequence[Encoded], seed: int) -> list[Encoded]:
    """The prompts with the answer tokens of other prompts as foils.

    The tokens of each place of the answer are permuted among the prompts, so each token is a foil
    about as often as it is right.
    """
    rng = np.random.default_rng([seed, 31])
    foils = [list(prompt.foil_ids) for prompt in encoded]
    for token in range(max((len(foil) for foil in foils), default=0)):
        having = [n for n, foil in enumerate(foils) if token < len(foil)]
        own = [encoded[n].token_ids[encoded[n].start + token] for n in having]
        given = rng.permutation(own)
        for n, mine, other in zip(having, own, given.tolist(), strict=True):
            foils[n][token] = other if other != mine else -1
    return [
        replace(prompt, foil_ids=tuple(foil)) for prompt, foil in zip(encoded, foils, strict=True)
    ]


def shuffled(encoded: Sequence[Encoded], seed: int) -> list[Encoded]:
    """The prompts with their tokens, except the first and the last, in random order."""
    rng = np.random.default_rng([seed, 47])
    made = []
    for prompt in encoded:
        mixed = list(prompt.token_ids[: prompt.start])
        mixed[1:-1] = rng.permutation(mixed[1:-1]).tolist()
        ids = (*mixed, *prompt.token_ids[prompt.start :])
        made.append(replace(prompt, token_ids=ids, foil_ids=(-1,) * len(prompt.foil_ids)))
    return made


def _rows(
    found: Iterable[Outcome], followed: str, measure: str, hit: bool | None = None
) -> list[Cell]:
    """(prompt, row) for each answer token; for wrong answers, the first wrong token only.

    The tokens after it are predicted with the right token in its place, so they are not the
    model's own answer.
    """
    find = _row_finder(measure)
    cells: list[Cell] = []
    for place, outcome in enumerate(found):
        ranks: Ints = getattr(outcome, f"{followed}_ranks")
        cells += [
            (place, find(ranks[:, token] == 0))
            for token in _tokens(outcome, hit)
            if followed != "other" or outcome.other_ids[token] >= 0
        ]
    return cells


def _row_finder(measure: str) -> Callable[[np.ndarray], MaybeRow]:
    return staying_row if measure == "saturation" else first_row


def _tokens(outcome: Outcome, hit: bool | None) -> list[int]:
    """Indices of the answer tokens that count: all, of a right answer, or the first wrong one."""
    count = len(outcome.hits)
    if hit is None:
        return list(range(count))
    if outcome.right:
        return list(range(count)) if hit else []
    return [] if hit else [outcome.hits.index(False)]


def _flat(cells: list[Cell]) -> tuple[list[int], list[int]]:
    return [-1 if row is None else row for _, row in cells], [place for place, _ in cells]


def compute(
    model: Model, spec: SuiteSpec, memo: Memo | None = None, longest: int | None = None
) -> SuiteReport:
    """Run the suite and its controls.

    Args:
        model: From ``analysis.load_model``.
        spec: The suite.
        memo: Keeps finished prompts.
        longest: Maximum number of tokens of prompt and answer; None: the model's own.

    Raises:
        SpecError: If there is no such suite.
        PromptError: If a prompt is too long.
        CancelledError: If the caller's progress listener stops the work.
    """
    suite = suite_of(model, spec)
    encoded = encoded_of(model, suite, longest)
    label = "digits" if spec.suite == "addition-lengths" else split_label(suite)
    runs, report = _run(
        model, suite, encoded, memo, measure=spec.measure, label=label, seed=spec.seed
    )
    return SuiteReport(
        suite.title,
        tuple(prompt.text for prompt in suite.prompts),
        tuple(prompt.answer for prompt in suite.prompts),
        tuple(written(model, run) for run in runs),
        tuple(len(run.right_ids) for run in runs),
        np.array([correct(model, run) for run in runs], np.int64),
        np.array([_mean_row(run, spec.measure) for run in runs], np.float32),
        report,
        tuple(f"{label} {prompt.label(label)}" if label else "" for prompt in suite.prompts),
    )


def split_label(suite: Suite) -> str:
    """The first label with few different values, by which accuracy is split; empty for none."""
    names = [name for name, _ in suite.prompts[0].labels]
    values = {name: {prompt.label(name) for prompt in suite.prompts} for name in names}
    fitting = [name for name in (*SPLIT, *names) if len(values.get(name, ())) in GROUPS]
    return fitting[0] if fitting else ""


def suite_of(model: Model, spec: SuiteSpec) -> Suite:
    """The suite of a spec; sums are written as the model reads them."""
    if spec.suite == OWN:
        own = suite_files.parse(spec.content.encode(), "jsonl", spec.title or "Uploaded list")
        return Suite(OWN, own.title, own.prompts[: spec.size])
    digits = operand_digits(model)
    return suites.build(
        spec.suite, spec.size, spec.seed, digits or spec.digits, padded=digits is not None
    )


def encoded_of(model: Model, suite: Suite, longest: int | None) -> list[Encoded]:
    """The prompts as tokens.

    Raises:
        PromptError: If one is too long or has no tokens; the message has its number.
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
                f"Prompt {place} has {count} tokens with its answer; this server allows {longest}.",
                "Shorten it, or raise STRATASCOPE_MAX_PROMPT_TOKENS.",
            )
    return made


def written(model: Model, run: Outcome) -> str:
    """The model's answer, up to and including its first wrong token."""
    stop = run.hits.index(False) + 1 if not run.right else len(run.choices)
    text: str = model.tokenizer.decode(run.choices[:stop].tolist())
    return text


def _mean_row(run: Outcome, measure: str) -> float:
    """Mean row at which the model's choices emerge, up to its first wrong one."""
    stop = run.hits.index(False) + 1 if not run.right else len(run.hits)
    rows = [_row_finder(measure)(run.choice_ranks[:, token] == 0) for token in range(stop)]
    known = [row for row in rows if row is not None]
    return float(np.mean(known)) if known else float("nan")
