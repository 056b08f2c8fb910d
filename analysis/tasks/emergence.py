"""At which row answers emerge, right and wrong ones, and whether that means anything.

Two controls. *An answer of the same frequency*: another prompt's answer token from the same
place of the answer is followed in this prompt, so it is as frequent over the suite as the right
ones. *Shuffled prompts*: the right token is followed after a prompt with its tokens in another
order, so that a token which the answer's form alone suggests is found out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from analysis.models.handle import Model
from analysis.results.base import Ints
from analysis.results.tasks import EmergenceCurve, EmergenceReport, Outcome, Share
from analysis.rows import first_row, staying_row
from analysis.store import Memo
from analysis.tasks import outcomes
from analysis.tasks.prompts import Encoded, Suite, encode
from analysis.tasks.spec import Measure
from analysis.tasks.statistics import curve, share

Cell = tuple[int, int | None]

#: Digits of a label that is sorted as a number.
_LONGEST_NUMBER = 100


def report(
    model: Model,
    suite: Suite,
    memo: Memo | None = None,
    *,
    measure: Measure = "saturation",
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
    found = outcomes.run(model, with_equal_foils(encoded, seed), memo, label="Running prompts")
    control = outcomes.run(model, shuffled(encoded, seed), memo, label="Running shuffled prompts")
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
    names: list[list[str]], found: Sequence[Outcome], measure: Measure, last: int, seed: int
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
    found: Sequence[Outcome], control: Sequence[Outcome], measure: Measure, last: int, seed: int
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
    found: Iterable[Outcome], followed: str, measure: Measure, hit: bool | None = None
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
