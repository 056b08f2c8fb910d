"""The pane Components: what is computed when, the picture of each size, and its caption."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from analysis.errors import SpecError
from analysis.experiments.component_specs import ComponentGraphSpec
from dash_app.state.selection import Selection
from dash_app.views import components
from dash_app.views.compare.layout import PAIRS
from dash_app.views.components.figure import components_caption, components_figure
from tests.support import fake_results
from tests.support.fake_service import FakeService

PAIR = PAIRS[0]


@pytest.fixture
def opened() -> Selection:
    return Selection(
        model="smollm2-135m-instruct", prompt="x", attempt=1, page="compare", clean=PAIR.clean,
        corrupted=PAIR.corrupted, answer=PAIR.answer, against=PAIR.foil, panes=("components",),
    )  # fmt: skip


def no_job(_start: float, _end: float) -> None:
    return None


def drawn(service: FakeService, chosen: Selection, ready: Any = None) -> Any:
    return components.draw(service, None, chosen, "light", ready)


def test_the_edges_are_drawn_before_the_curve(service: FakeService, opened: Selection) -> None:
    closed = opened.model_copy(update={"panes": ()})
    assert drawn(service, closed).complete
    assert not drawn(service, opened).complete
    seen: list[Any] = []

    def pass_on(_part: dict[str, Any]) -> None:
        seen.append(drawn(service, opened))

    components.compute(service, opened, no_job, hand_over=pass_on)
    assert [one.complete for one in seen] == [False]
    assert "Its faithfulness follows." in seen[0].values[1]
    done = drawn(service, opened)
    assert done.complete
    assert len(done.values[0]["data"]) > len(seen[0].values[0]["data"])
    assert (
        "With all other edges cut, 10 edges keep 40 %; random graphs of that size keep 4 %."
        in done.values[1]
    )
    again = service.calls.count("component_graph")
    for size in (10, 300):  # a move of the slider computes nothing
        assert drawn(service, opened.model_copy(update={"circuit": size})).complete
    assert service.calls.count("component_graph") == again == 2


def test_a_refusal_is_shown(service: FakeService, opened: Selection) -> None:
    service.fail["component_graph"] = SpecError("The prompts have 5 and 6 tokens.", "Shorten one.")
    ended = components.compute(service, opened, no_job, hand_over=lambda _part: None)
    shown = drawn(service, opened, ended)
    assert shown.complete
    assert "5 and 6 tokens" in str(shown.values[0])


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_picture_has_the_edges_of_the_size(theme: Any) -> None:
    graph = fake_results.component_graph(ComponentGraphSpec("m", "a", "b"))
    for most in (30, 100):
        figure = components_figure(graph, most, theme)
        nodes = next(one for one in figure["data"] if one["mode"] == "markers+text")
        count = graph.count(most)
        parts = set(zip(graph.edge_sender[:count], graph.edge_pos[:count], strict=True))
        assert len(nodes["x"]) == len(parts) + 1  # and the answer
        assert (
            max(nodes["y"])
            == nodes["y"][[n.startswith("<b>answer") for n in nodes["hovertext"]].index(True)]
        )
        hover = next(one for one in figure["data"] if one["mode"] == "markers")
        assert len(set(hover["hovertext"])) == count
        lines = [one for one in figure["data"] if one["mode"] == "lines" and "yaxis" not in one]
        assert sum(one["x"].count(None) for one in lines) == len(hover["x"])


def test_a_size_without_a_whole_path_is_named() -> None:
    graph = fake_results.component_graph(ComponentGraphSpec("m", "a", "b"))
    first = int(graph.edge_size.min())
    assert first > 1
    assert f"The smallest has {first}." in components_caption(graph, first - 1)
    assert components_figure(graph, first - 1, "light")["data"]
    assert np.isfinite(graph.area)
