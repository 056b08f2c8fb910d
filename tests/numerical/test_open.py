"""``analysis.open`` gives the objects behind a link, an exported file or a recipe."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import analysis
from analysis.errors import SpecError
from analysis.flow_graph.specs import FlowSpec
from analysis.lens.specs import LensSpec
from dash_app.pictures.documents import write
from dash_app.pictures.results import Drawn
from tests.numerical.conftest import Case

LINK = "http://host/?model=tiny-llama&prompt=the+capital&new=1"


def test_a_link_gives_model_trace_and_results(llama: Case) -> None:
    opened = analysis.open(LINK, "lens", model=llama.model)
    assert opened.model is llama.model
    grid = opened.results["decode"]
    again = analysis.decode(llama.model, opened.trace)
    np.testing.assert_allclose(grid.probs, again.probs, atol=1e-6)
    assert "".join(token.text for token in opened.trace.tokens).startswith("the capital")
    assert opened.recipe.view == "lens"
    assert "decode: Grid" in opened._repr_html_()


def test_a_recipe_and_a_picture_give_the_same_objects(llama: Case, tmp_path: Path) -> None:
    made = analysis.recipe(llama.model, llama.trace, LensSpec(), FlowSpec(-1))
    wanted = analysis.decode(llama.model, llama.trace)
    write(Drawn("Title", "", (), made.as_json()), tmp_path / "it.svg")
    (tmp_path / "it.json").write_text(json.dumps(made.as_json()))
    for source in (made, tmp_path / "it.svg", str(tmp_path / "it.json")):
        opened = analysis.open(source, model=llama.model)
        np.testing.assert_allclose(opened.results["decode"].probs, wanted.probs, atol=1e-6)
        assert list(opened.results) == ["decode", "flow"]
        assert opened.trace.token_ids == llama.trace.token_ids
        assert opened.drift == ()
        assert opened.recipe == made


@pytest.mark.parametrize(
    ("source", "view", "said"),
    [
        ("no link", "", "no numbers to export in ''|neither a link"),
        (LINK, "none", "no numbers to export in 'none'"),
    ],
)
def test_a_wrong_source_is_explained(llama: Case, source: str, view: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        analysis.open(source, view, model=llama.model)
