"""What a view declares so that its numbers can be taken away (``dash_app/export.py``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.contract.specs import Spec
from dash_app.state.selection import Selection


@dataclass(frozen=True, slots=True)
class Export:
    """The numbers of a pane.

    Attributes:
        specs: The requests whose results the pane shows, the main one first; a function of the
            service, the run (a ``RunRef``) and the selection.
        drawing: The name of the drawing of its plotly figures; empty if it has none.
        hint: What to do first, if the results are missing.
        small: Whether the export computes what is missing: as little as a click computes.
        without_run: Whether the pane needs no run; ``specs`` then gets None for it.
        joined: Gives the result of a request that the page computes in parts, from a service.
    """

    specs: Callable[[Any, Any, Selection], Sequence[Spec[Any]]]
    drawing: str = ""
    hint: str = "Open the view and wait until it is drawn, then export it again."
    small: bool = False
    without_run: bool = False
    joined: Callable[[Any, Any], Any] | None = None
