"""The model worker's real work, held at a step: what is killed or cancelled there is in its midst.

The file that HELD_AT names says which step: a number of its own, how much is done, and a label.
The first work that comes so far waits there, and tells ``HELD``, for as long as the file says so.
``COMPUTED`` lies between a result and the telling of it, for work that has no step of its own.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from analysis.contract import progress
from analysis.worker import engine
from analysis.worker.messages import Answer, Limits, Request

HELD = "held"
COMPUTED = "computed"

_step = progress.step
_held_before: set[str] = set()


def perform(request: Request, limits: Limits) -> Answer:
    progress.step = step  # in the worker alone: a test that takes a name from here is not held
    answer = engine.perform(request, limits)
    if said().endswith(COMPUTED):  # no look-out for a cancel where the real worker has none
        progress.step(1, 1, COMPUTED)
    return answer


def step(done: int, total: int, label: str) -> None:
    _step(done, total, label)
    order = said()
    _, least, where = [*order.split(" ", 2), "", ""][:3]
    if where != label or done < int(least) or order in _held_before:
        return
    _held_before.add(order)
    while said() == order:
        _step(done, total, HELD)
        time.sleep(0.01)


def said() -> str:
    try:
        return Path(os.environ["HELD_AT"]).read_text()
    except OSError:
        return ""
