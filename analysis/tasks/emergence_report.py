"""At which row answers emerge, right and wrong ones, with intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from analysis.contract.results import Ints
from analysis.model.handle import Model
from analysis.store.memo import Memo
from analysis.tasks import outcomes
from analysis.tasks.prompts import Encoded, Suite, encode
from analysis.tasks.results import EmergenceCurve, EmergenceReport, Outcome, Share
from analysis.trajectory.emergence import first_row, staying_row

DRAWS = 1000
#: With fewer prompts than this a bootstrap says nothing: no interval is given for their mean row.
FEW = 10
_Z = 1.959964


def share(name: str, hits: int, total: int) -> Share:
    """A share with its 95 % Wilson score interval (Wilson 1927); 0 to 1 for none."""
    if not total:
        return Share(name, 0, 0, 0.0, 1.0)
    return Share(name, hits, total, *_wilson(hits / total, total))


def _wilson(p: float, total: int) -> tuple[float, float]:
    z = _Z
    middle = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(p * (1 - p) / total + z * z / (4 * total**2))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def curve(name: str, rows: Any, prompts: Any, last_row: int, seed: int = 0) -> EmergenceCurve:
    """The distribution of emergence rows with intervals from 1,000 draws of prompts.

    Intervals of shares are no narrower than Wilson's with prompts counted; the mean row of fewer
    than ten prompts has none (NaN).

    Args:
        name: Which tokens.
        rows: [count] row of each; -1 for never.
        prompts: [count] prompt of each: tokens of one prompt are drawn together.
        last_row: The model's last row.
        seed: Of the draws.
    """
    rows, prompts = np.asarray(rows, np.int64), np.asarray(prompts, np.int64)
    nothing = np.full(last_row + 1, np.nan, np.float32)
    if not len(rows):
        nan = float("nan")
        return EmergenceCurve(name, 0, 0, nothing, nothing, nothing, nan, nan, nan, rows, prompts)
    _, unit = np.unique(prompts, return_inverse=True)
    hits = np.zeros((unit.max() + 1, last_row + 2))  # a prompt's tokens by row; the last: never
    np.add.at(hits, (unit, np.where(rows < 0, last_row + 1, rows)), 1)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(hits), np.full(len(hits), 1 / len(hits)), DRAWS)
    low, high = np.percentile(_by_row(weights @ hits), [2.5, 97.5], axis=0)
    whole = hits.sum(0, keepdims=True)
    low, high = _no_narrower(low, high, _by_row(whole)[0], len(hits))
    means = _means(weights @ hits) if len(hits) >= FEW else np.empty(0)
    mean_low, mean_high = (
        np.percentile(means, [2.5, 97.5]) if len(means) else (float("nan"), float("nan"))
    )
    own = _means(whole)
    return EmergenceCurve(
        name, len(rows), int((rows < 0).sum()), _by_row(whole)[0].astype(np.float32),
        low.astype(np.float32), high.astype(np.float32),
        float(own[0]) if len(own) else float("nan"), float(mean_low), float(mean_high),
        rows, prompts,
    )  # fmt: skip


def _no_narrower(low: Any, high: Any, shares: Any, prompts: int) -> tuple[Any, Any]:
    """Bootstrap intervals made no narrower than Wilson's over prompts.

    Where all or none of the tokens have come up every draw says the same, and the bootstrap would
    claim certainty.
    """
    wilson = [_wilson(float(p), prompts) for p in shares]
    return (
        np.minimum(low, [one for one, _ in wilson]),
        np.maximum(high, [one for _, one in wilson]),
    )


def _by_row(counts: Any) -> Any:
    return counts[:, :-1].cumsum(1) / counts.sum(1, keepdims=True)


def _means(counts: Any) -> Any:
    """Mean row of what comes up, of those draws where something does."""
    came = counts[:, :-1]
    came = came[came.sum(1) > 0]
    return came @ np.arange(came.shape[1]) / came.sum(1)


Cell = tuple[int, int | None]

#: Digits of a label that is sorted as a number.
_LONGEST_NUMBER = 100


def report(
    model: Model,
    suite: Suite,
    memo: Memo | None = None,
    *,
    measure: str = "saturation",
    label: str = "",
    seed: int = 0,
) -> EmergenceReport:
    """Run a suite and its controls, and compare when tokens come up.

    Args:
        model: From ``analysis.load_model``.
        suite: What is asked.
        memo: Where finished prompts are kept.
        measure: "saturation" (ranks first from this row on) or "first_top1" (first time).
        label: The label whose values accuracy is split by; empty: none.
        seed: Of shuffling and of the bootstrap.

    Raises:
        CancelledError: If the caller's progress listener stops the work.
    """
    encoded = [encode(model.tokenizer, prompt) for prompt in suite.prompts]
    found = outcomes.run_suite(
        model, with_equal_foils(encoded, seed), memo, label="Running prompts"
    )
    control = outcomes.run_suite(
        model, shuffled(encoded, seed), memo, label="Running shuffled prompts"
    )
    right = [finished(model, outcome) for outcome in found]
    return EmergenceReport(
        measure,
        share("all", sum(right), len(right)),
        by_label(suite, right, label) if label else (),
        _curves(found, control, measure, model.info.layers, seed),
        _by_digit(_named(encoded), found, measure, model.info.layers, seed),
    )


def _named(encoded: Sequence[Encoded]) -> list[list[str]]:
    """[prompt][answer token] its digit's name ("answer2"), or its place ("token 0")."""
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
    """Right and wrong answers, one place of the answer at a time, the last written first."""
    cells: dict[tuple[str, bool], list[Cell]] = {}
    find = staying_row if measure == "saturation" else first_row
    for place, outcome in enumerate(found):
        for hit in (True, False):
            for token in _tokens(outcome, hit):
                row = find(outcome.choice_ranks[:, token] == 0)
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


def finished(model: Model, outcome: Outcome) -> bool:
    """Whether the answer is right and, if it ends in a digit, no further digit follows."""
    if not outcome.right:
        return False
    tokenizer = model.tokenizer
    last = tokenizer.decode([outcome.token_ids[-1]])
    after = tokenizer.decode([int(outcome.choices[-1])])
    return not (last[-1:].isdigit() and after[:1].isdigit())


def by_label(suite: Suite, right: Sequence[bool], label: str) -> tuple[Share, ...]:
    """Accuracy of the prompts with each value of a label, values in order of first sight."""
    values = list(dict.fromkeys(prompt.label(label) for prompt in suite.prompts))
    values.sort(key=_place)
    made = []
    for value in values:
        own = [hit for hit, p in zip(right, suite.prompts, strict=True) if p.label(label) == value]
        made.append(share(f"{label} {value}", sum(own), len(own)))
    return tuple(made)


def _place(value: str) -> tuple[bool, int]:
    """Numbers in order, then all else; a superscript counts as a digit, but is no number."""
    is_number = value.isascii() and value.isdecimal() and len(value) <= _LONGEST_NUMBER
    return not is_number, int(value) if is_number else 0


def with_equal_foils(encoded: Sequence[Encoded], seed: int) -> list[Encoded]:
    """The prompts with other prompts' answer tokens, place by place, as the tokens also followed.

    Each place's tokens are handed round, so each is followed about as often as it is right.
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
    """The prompts with their tokens in another order, all but the first and last of them."""
    rng = np.random.default_rng([seed, 47])
    made = []
    for prompt in encoded:
        asked = list(prompt.token_ids[: prompt.start])
        asked[1:-1] = rng.permutation(asked[1:-1]).tolist()
        ids = (*asked, *prompt.token_ids[prompt.start :])
        made.append(replace(prompt, token_ids=ids, foil_ids=(-1,) * len(prompt.foil_ids)))
    return made


def _rows(
    found: Iterable[Outcome], followed: str, measure: str, hit: bool | None = None
) -> list[Cell]:
    """(prompt, row) for each answer token; wrong answers by their first wrong token only.

    What comes after a wrong token is read with the right one in its place: no answer of the
    model's own.
    """
    find = staying_row if measure == "saturation" else first_row
    cells: list[Cell] = []
    for place, outcome in enumerate(found):
        ranks: Ints = getattr(outcome, f"{followed}_ranks")
        cells += [
            (place, find(ranks[:, token] == 0))
            for token in _tokens(outcome, hit)
            if followed != "other" or outcome.other_ids[token] >= 0
        ]
    return cells


def _tokens(outcome: Outcome, hit: bool | None) -> list[int]:
    count = len(outcome.hits)
    if hit is None:
        return list(range(count))
    if outcome.right:
        return list(range(count)) if hit else []
    return [] if hit else [outcome.hits.index(False)]


def _flat(cells: list[Cell]) -> tuple[list[int], list[int]]:
    return [-1 if row is None else row for _, row in cells], [place for place, _ in cells]
