"""A click on a cell of a patching sweep makes an edit with the value of that cell."""

from __future__ import annotations

import numpy as np
import pytest

import analysis
from analysis.tracing.edits import parse_all
from dash_app.state.selection import Selection
from dash_app.views.compare.actions import pick
from tests.numerical.conftest import Case

CLEAN, CORRUPTED, ANSWER, FOIL = "abcd", "abed", "x", "y"


@pytest.mark.parametrize("axes", ["state", "head", "part", "head_position"])
@pytest.mark.parametrize("way", ["denoise", "noise"])
def test_the_edit_of_a_cell_gives_the_cells_value(small: Case, axes: str, way: str) -> None:
    model = small.model
    found = analysis.sweep(
        model, CLEAN, CORRUPTED, answer=ANSWER, foil=FOIL, axes=axes, direction=way, layer=1
    )
    shown = Selection(
        model="m", prompt="p", clean=CLEAN, corrupted=CORRUPTED, answer=ANSWER, against=FOIL,
        axes=axes, way=way, inside=1,
    )  # fmt: skip
    places = np.argwhere(np.abs(found.effect) > 1e-3)
    assert len(places)
    for place in places[:: max(1, len(places) // 4)].tolist():
        partner = int(found.partners[place[-1]]) if found.names[-1] == "position" else -1
        opened = pick({"at": place, "partner": partner, "layer": found.layer}, shown, None)
        edits = parse_all(opened.edits)
        assert len(edits) == 1
        logits = analysis.trace(model, opened.prompt, interventions=edits).logits[-1]
        value = logits[found.answer.id] - logits[found.foil.id]
        assert value == pytest.approx(found.raw[tuple(place)], abs=1e-5)
