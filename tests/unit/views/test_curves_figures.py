"""Curves over the rows, and the strip of all positions."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from analysis.trajectory.specs import Emergence, Steps, StepsSpec
from dash_app.state.options import CURVES
from dash_app.views.curves.emergence_figure import strip
from dash_app.views.curves.figure import OF_THE_ROW, curves, mark_lines, step_words
from tests.support import fake_results, synthetic


def steps(*tokens: int, **changes: Any) -> Steps:
    made = fake_results.steps(16, StepsSpec(13, tokens or (5, 6)))
    return dataclasses.replace(made, **changes)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("quantity", CURVES)
def test_curves_are_a_valid_plotly_figure_with_the_numbers(theme: str, quantity: str) -> None:
    made = steps()
    figure = curves(made, quantity=quantity, theme=theme, row=4)  # type: ignore[arg-type]
    go.Figure(figure)
    lines = [trace for trace in figure["data"] if trace["mode"] == "lines+markers"]
    assert len(lines) == (1 if quantity in OF_THE_ROW else 2)
    given = {
        "probability": made.probs[:, -1],
        "log_probability": made.log_probs[:, -1],
        "rank": made.ranks[:, -1] + 1,
        "entropy": made.entropy,
        "kl": made.kl_to_final,
    }[quantity]
    assert np.array_equal(lines[-1]["y"], given)
    low, high = sorted(figure["layout"]["yaxis"]["range"])
    drawn = np.log10(given) if quantity == "rank" else given
    assert low <= drawn.min() <= drawn.max() <= high


@pytest.mark.parametrize("layers", [12, 24, 60])
def test_rows_are_named_by_their_numbers(layers: int) -> None:
    made = steps()
    rows = np.arange(layers + 1)
    longer = {
        name: np.resize(getattr(made, name), (layers + 1, *getattr(made, name).shape[1:]))
        for name in ("probs", "log_probs", "ranks", "entropy", "kl_to_final")
    }
    axis = curves(
        dataclasses.replace(made, rows=rows, **longer), quantity="rank", theme="light"
    )["layout"]  # fmt: skip
    ticks = dict(zip(axis["xaxis"]["tickvals"], axis["xaxis"]["ticktext"], strict=True))
    assert ticks.pop(0) == "emb."
    assert 4 <= len(ticks) <= 16
    assert all(text == str(row - 1) for row, text in ticks.items())
    low, high = axis["xaxis"]["range"]
    assert (low, high) == (-0.5, layers + 0.5)
    values = dict(zip(axis["yaxis"]["tickvals"], axis["yaxis"]["ticktext"], strict=True))
    assert min(values) == 1
    assert all(text == f"{value:,}" for value, text in values.items())
    assert 10 * max(values) > longer["ranks"].max() + 1


def test_the_largest_step_is_marked_and_named() -> None:
    made = steps()
    diamonds = curves(made, quantity="rank", theme="light")["data"][1::2]
    assert [trace["x"] for trace in diamonds] == [[10], [10]]
    assert step_words(made.largest[0]) == "layer 9, attention, head 3 (+2.50 nats)"
    mlp = dataclasses.replace(made.largest[0], component="mlp", step=-1.0)
    assert step_words(mlp) == "layer 9, MLP (−1.00 nats)"


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({}, [(7, "first"), (8, "stays"), (9, "emerges")]),
        ({"first_top1": (8, 1), "emergence": (None, 1)}, [(8, "first · stays")]),
        ({"first_top1": (None, 1), "emergence": (None, 1), "saturation": (None, 1)}, []),
    ],
)
def test_marks_name_each_row_once(changes: dict[str, Any], lines: list[tuple[int, str]]) -> None:
    assert mark_lines(steps(**changes)) == lines


def emergence(causal: bool) -> Emergence:
    rows = np.zeros((13, 9))
    return Emergence(
        np.zeros(9, np.int64), 0.5, (7, None, *(3,) * 7), (None,) * 9, (9,) * 9,
        (4,) * 9 if causal else None, rows.astype(np.float32), rows.astype(np.int64),
    )  # fmt: skip


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_strip_shows_rows_never_and_not_measured(theme: Any) -> None:
    run = synthetic.run_result(12, 9)
    figure = strip(emergence(False), run, tuple(range(9)), pos=2, theme=theme)
    go.Figure(figure)
    cells, *numbers, words = figure["data"]
    written = {
        (x, y): text
        for trace in numbers
        for x, y, text in zip(trace["x"], trace["y"], trace["text"], strict=True)
    }
    assert [written.get((at, 0)) for at in range(3)] == ["6", None, "2"]
    assert (cells["zmin"], cells["zmax"]) == (0, 12)
    said = dict(zip(zip(words["x"], words["y"], strict=True), words["text"], strict=True))
    assert said[1, 0] == "never"
    assert said[4, 1] == "never"
    assert said[0, 3] == "–"
    assert len(said) == 1 + 9 + 9
    assert "not measured" in cells["customdata"][3][0]
    assert figure["layout"]["meta"]["values"][0][:2] == [7, None]
    assert figure["layout"]["shapes"][0]["x0"] == 1.5


def test_the_strip_shows_a_window_with_its_own_positions() -> None:
    run = synthetic.run_result(12, 9)
    figure = strip(emergence(True), run, (3, 8), pos=5, theme="light")
    assert figure["layout"]["meta"]["positions"] == [3, 8]
    assert [row[3] for row in np.asarray(figure["data"][0]["z"]).T] == [4, 4]
    assert not figure["layout"]["shapes"][0]["visible"]
