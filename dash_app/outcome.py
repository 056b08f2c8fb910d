"""How a job of a view ended, as its store keeps it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from analysis.errors import CancelledError
from dash_app.errors import Trouble, explain


def attempt(work: Callable[[], Any]) -> dict[str, Any] | None:
    """Do a job's work: ``{"done": what it returns}``, or ``failure``; None if it was cancelled."""
    try:
        return {"done": work()}
    except CancelledError:
        return None
    except Exception as error:  # noqa: BLE001 - said where the result would be
        return failure(error)


def failure(error: BaseException) -> dict[str, Any]:
    """What a store keeps of an error: no more than JSON can carry."""
    problem = explain(error)
    return {"trouble": [problem.message, problem.hint, problem.request]}


def trouble_in(stored: Mapping[str, Any] | None) -> Trouble | None:
    """What went wrong, if something did."""
    wrong = (stored or {}).get("trouble")
    return Trouble(*wrong) if wrong else None
