"""Sets within a selection: what a button takes in or out, whatever else is in by then.

A button is drawn with the selection of its time. Were it to name the whole set, a click made
before the next drawing would undo the click before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from dash_app.state import MAX_PINS, Selection

#: Fields that are sets, with the most that each holds (None: no bound that a person can reach).
SETS: dict[str, int | None] = {"heads": None, "pins": MAX_PINS, "readers": None}
IN, OUT, SHOWN = "with", "without", "shown"


def toggle(name: str, item: object, shown: Sequence[object]) -> str:
    """What a button says that takes ``item`` into the set ``name``, or out where it is shown.

    ``shown`` is the set as it is drawn: the set itself, until a person has chosen one.
    """
    held = ",".join(map(str, shown)) or "none"
    return urlencode({OUT if item in shown else IN: f"{name}:{item}", SHOWN: held}, safe=":,")


def spelt_out(
    pairs: Sequence[tuple[str, str]], current: Selection
) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    """What a button says, with sets named whole as ``current`` has them and it changes them.

    Returns:
        Pairs of names and texts for ``state_address.parse``, and the sets that are full already.
    """
    shown = dict(pairs).get(SHOWN, "none")
    plain = [pair for pair in pairs if pair[0] not in (IN, OUT, SHOWN)]
    full = []
    for verb, text in pairs:
        name, _, item = text.partition(":")
        if verb not in (IN, OUT) or name not in SETS or not item:
            continue
        items = _changed(verb, item, _held(name, current, shown))
        if (SETS[name] or len(items)) < len(items):
            full.append(name)
        else:
            plain.append((name, ",".join(items) or "none"))
    return plain, tuple(full)


def _held(name: str, current: Selection, shown: str) -> list[str]:
    chosen: Any = getattr(current, name)
    if chosen == Selection.model_fields[name].default:
        return [] if shown == "none" else shown.split(",")
    return [str(item) for item in chosen]


def _changed(verb: str, item: str, held: list[str]) -> list[str]:
    rest = [other for other in held if other != item]
    return rest if verb == OUT else ([*rest, item] if item not in held else held)
