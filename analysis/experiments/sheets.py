"""The tables of the results of experiments, for data frames, files and the command line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from analysis.contract.sheets import (
    FLAG,
    HEAD,
    LAYER,
    NATS,
    NUMBER,
    POSITION,
    PROBABILITY,
    ROW,
    TEXT,
    TOKEN,
    Columns,
    Row,
    Sheet,
    texts_of,
)
from analysis.experiments.specs import PARTS, PromptComparison, Sweep

_UNITS = {"row": ROW, "layer": LAYER, "head": HEAD, "position": POSITION, "part": TEXT}


def sweep_columns(sweep: Sweep) -> Columns:
    """The axes of a sweep, the text of a position's token, and the values."""
    axes = {name: _UNITS[name] for name in sweep.names}
    text = {"text": TEXT} if "position" in axes else {}
    return {**axes, **text, "metric": NUMBER, "effect": NUMBER, "measured": FLAG}


def sweep_cells(sweep: Sweep) -> Iterator[Row]:
    """One row for each cell that has a value, the largest effects first."""
    places = np.argwhere(~np.isnan(sweep.effect))
    order = np.argsort(-np.abs(sweep.effect[tuple(places.T)]), kind="stable")
    for place in map(tuple, places[order].tolist()):
        named: list[Any] = [
            PARTS[index] if name == "part" else index
            for name, index in zip(sweep.names, place, strict=True)
        ]
        if "position" in sweep.names:
            named.append(sweep.patched[place[sweep.names.index("position")]].text)
        yield *named, sweep.raw[place], sweep.effect[place], bool(sweep.measured[place])


def compared_states(found: PromptComparison) -> Iterator[Row]:
    """One row for each row of states and pair of positions."""
    texts = texts_of(found)
    for row in range(len(found.kl)):
        for pair, (i, j) in enumerate(found.pairs.tolist()):
            a, b = int(found.a_top[row, pair]), int(found.b_top[row, pair])
            apart = found.kl[row, pair], found.kl_back[row, pair]
            yield row, i, j, *apart, a, texts[a], b, texts[b]


def followed_tokens(found: PromptComparison) -> Iterator[Row]:
    """One row for each state and token that is followed."""
    texts = texts_of(found)
    for row in range(len(found.kl)):
        for pair, (i, j) in enumerate(found.pairs.tolist()):
            for number, token in enumerate(found.followed):
                probs = found.a_probs[row, pair, number], found.b_probs[row, pair, number]
                yield row, i, j, token, texts[token], *probs


def _facts(result: Any) -> Iterator[Row]:
    """Every number and text of a result, and its answer and foil, by name.

    ``passes`` is left out: it is what the sweep cost, which depends on how it was divided.
    """
    for name in result.__dataclass_fields__:
        value = getattr(result, name)
        if name == "passes":
            continue
        if isinstance(value, str | int | float):
            yield name, value
        elif name in ("answer", "foil"):
            yield name, value.text


_FACTS = Sheet("facts", {"name": TEXT, "value": TEXT}, _facts)
_PAIR = {"row": ROW, "a_pos": POSITION, "b_pos": POSITION}
#: The tables of each result; the first is the main one.
SHEETS: dict[type[Any], tuple[Sheet, ...]] = {
    Sweep: (Sheet("cells", sweep_columns, sweep_cells), _FACTS),
    PromptComparison: (
        Sheet(
            "states",
            {**_PAIR, "kl": NATS, "kl_back": NATS, "a_top": TOKEN, "a_top_text": TEXT,
             "b_top": TOKEN, "b_top_text": TEXT},
            compared_states,
        ),
        Sheet(
            "followed",
            {**_PAIR, "id": TOKEN, "text": TEXT, "a_prob": PROBABILITY, "b_prob": PROBABILITY},
            followed_tokens,
        ),
    ),
}  # fmt: skip
