"""The model worker's real work, paused at a step so that a test can kill or cancel it there.

The file at HELD_AT names the step: a unique number, the amount done, and a label. The first work
that reaches the step reports ``HELD`` and waits while the file is unchanged. ``COMPUTED`` is a step
after the result, for work without steps.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from analysis.contract import jobs
from analysis.worker import engine
from analysis.worker.messages import Answer, Limits, Request

HELD = "held"
COMPUTED = "computed"

_step = jobs.step
_held_before: set[str] = set()


def perform(request: Request, limits: Limits) -> Answer:
    jobs.step = step  # in the worker only: a test that imports this module is not paused
    answer = engine.perform(request, limits)
    if said().endswith(COMPUTED):  # do not check for a cancel where the real worker does not
        jobs.step(1, 1, COMPUTED)
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
