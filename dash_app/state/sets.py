"""Sets in the selection: pins, heads, edits, branches and the like.

A button of a set says which item to add or remove, not what the set becomes: a button that was
drawn before the last click would otherwise undo that click.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from analysis.tracing.interventions import MAX_EDITS
from dash_app.state.branches import MAX_BRANCHES
from dash_app.state.edited_run import switched
from dash_app.state.selection import IN, MAX_PINS, OUT, SHOWN, SWITCH, Selection

#: Puts an edit in another's place: "swap=edits:old,new".
SWAP = "swap"
VERBS = (IN, OUT, SWITCH, SWAP)

#: Fields that are sets, with the most items of each (None: no limit that a user can reach).
SETS = {
    "heads": None, "pins": MAX_PINS, "readers": None, "edits": MAX_EDITS,
    "branches": MAX_BRANCHES, "pairs": None,
}  # fmt: skip


def expand_sets(
    pairs: Sequence[tuple[str, str]], current: Selection
) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    """A button's target with each change of a set replaced by the whole new set.

    Returns:
        Pairs of names and texts for ``context.parse``, and the sets that are already full.
    """
    shown = dict(pairs).get(SHOWN, "none")
    plain = [pair for pair in pairs if pair[0] not in (*VERBS, SHOWN)]
    full = []
    for verb, text in pairs:
        name, _, item = text.partition(":")
        if verb not in VERBS or name not in SETS or not item:
            continue
        items = _changed(verb, item, _items(name, current, shown))
        if (SETS[name] or len(items)) < len(items):
            full.append(name)
        else:
            plain.append((name, ",".join(items) or "none"))
    return plain, tuple(full)


def _items(name: str, current: Selection, shown: str) -> list[str]:
    chosen: Any = getattr(current, name)
    if chosen == Selection.model_fields[name].default:
        return [] if shown == "none" else shown.split(",")
    return [str(item) for item in chosen]


def _changed(verb: str, item: str, items: list[str]) -> list[str]:
    if verb in (SWITCH, SWAP):
        old, _, new = item.partition(",")
        return [new or switched(old) if one == old else one for one in items]
    rest = [other for other in items if other != item]
    return rest if verb == OUT else ([*rest, item] if item not in items else items)
