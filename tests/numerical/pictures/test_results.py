"""Every result of the registry has a picture: the page's figure, or its main table."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import numpy as np
import plotly.graph_objects as go
import pytest
from plotly.io.json import to_json_plotly

import analysis
from analysis.errors import SpecError
from analysis.flow_graph.specs import FlowSpec
from analysis.lens.specs import LensSpec
from analysis.registry import TECHNIQUES, Technique
from dash_app.page.theme import contrast
from dash_app.pictures import results
from dash_app.pictures.figures import PICTURES
from dash_app.pictures.flow_svg import FlowPicture
from tests.numerical.conftest import Case
from tests.numerical.export.test_results import result_of


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda one: one.name)
def test_every_result_has_pictures(technique: Technique, llama: Case) -> None:
    result = result_of(llama, technique)
    names = results.kinds(result)
    assert names
    for name in names:
        for theme in ("light", "dark"):
            made = results.plot(result, llama.trace.tokens, name, theme=theme)
            if isinstance(made, FlowPicture):
                ET.fromstring(made.svg())  # noqa: S314
                continue
            assert isinstance(made, go.Figure)  # plotly has validated it
            assert made.data
            assert made.layout.width
            assert made.layout.height


def test_pictures_are_of_results_in_the_registry() -> None:
    assert set(PICTURES) <= {one.result for one in TECHNIQUES}


def test_an_unknown_picture_or_option_is_refused(llama: Case) -> None:
    grid = analysis.decode(llama.model, llama.trace)
    with pytest.raises(SpecError, match="no picture 'pie'") as error:
        results.plot(grid, kind="pie")
    assert "heatmap" in error.value.hint
    with pytest.raises(SpecError, match="no option 'depth'") as error:
        results.plot(grid, depth=3)
    assert "colour" in error.value.hint
    with pytest.raises(SpecError, match="no table 'none'"):
        results.plot(analysis.attribute(llama.model, llama.trace), table="none")


def test_a_heatmap_has_the_tokens_and_probabilities(llama: Case) -> None:
    grid = analysis.decode(llama.model, llama.trace)
    made = results.plot(grid, llama.trace.tokens)
    np.testing.assert_array_equal(np.asarray(made.data[0].z), grid.probs[..., 0])
    texts = [text for trace in made.data[2:] for text in trace.text]
    assert len(texts) == grid.token_ids[..., 0].size
    ticks = " ".join(made.layout.xaxis.ticktext)
    assert len(made.layout.xaxis.ticktext) == len(llama.trace.tokens)
    assert ticks
    without = results.plot(grid)
    assert "[3]" in without.layout.xaxis.ticktext[3]
    by_entropy = results.plot(grid, colour="entropy")
    np.testing.assert_array_equal(np.asarray(by_entropy.data[0].z), grid.entropy)


def test_component_rows_are_layers(llama: Case) -> None:
    grid = analysis.decode(llama.model, llama.trace, component="mlp_output")
    made = results.plot(grid)
    assert len(made.layout.yaxis.ticktext) == len(grid.rows)
    assert "0" in made.layout.yaxis.ticktext[0]
    np.testing.assert_array_equal(np.asarray(made.data[0].z), grid.probs[..., 0])


def test_the_flow_has_a_path_for_each_link_and_no_script(llama: Case) -> None:
    graph = analysis.compute(
        llama.model, FlowSpec(-1, method="proximity", threshold=0.001), llama.trace
    )
    grid = analysis.compute(llama.model, LensSpec(), llama.trace)
    made = results.plot(graph, llama.trace.tokens, grid=grid)
    assert isinstance(made, FlowPicture)
    root = ET.fromstring(made.svg())  # noqa: S314
    name = "{http://www.w3.org/2000/svg}"
    links = [one for one in root.iter(f"{name}path") if "link" in one.get("class", "").split()]
    assert len(links) == len(made.picture["links"]) > 0
    assert all(one.find(f"{name}title") is not None for one in links)
    assert not list(root.iter(f"{name}script"))
    assert "http" not in made.svg().replace("http://www.w3.org/2000/svg", "")
    wide = results.plot(graph, size=(500, 300))
    assert 'width="500"' in wide.svg()
    assert contrast("#17202b", "#ffffff") > 4.5
    assert "prefers-color-scheme:dark" in wide.svg("auto")
    assert "var(" not in wide.svg("dark")


def test_two_pictures_in_one_page_do_not_share_styles(llama: Case) -> None:
    one, other = (
        results.plot(analysis.flow(llama.model, llama.trace, position=pos, method="proximity")).svg(
            "auto"
        )
        for pos in (-1, -2)
    )
    mark = one.partition('class="')[2].partition('"')[0]
    assert mark not in other


def test_figures_are_plain_json(llama: Case) -> None:
    grid = analysis.decode(llama.model, llama.trace)
    assert "heatmap" in to_json_plotly(results.figure(grid, llama.trace.tokens))
