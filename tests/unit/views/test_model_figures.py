"""The model's reports as pictures."""

from __future__ import annotations

import dataclasses

import numpy as np
import plotly.graph_objects as go
import pytest

from analysis.reports.specs import EmbeddingSpec, NormSpec, SimilaritySpec
from dash_app.views.model.figure import cosines, legend, norms, scales, similarity
from tests.support import fake_results


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_histogram_of_cosines_shows_the_counts(theme: str) -> None:
    report = fake_results.embedding_report(EmbeddingSpec())
    figure = cosines(report, theme)  # type: ignore[arg-type]
    go.Figure(figure)
    bars = figure["data"][0]
    assert np.array_equal(bars["y"], report.cosine_counts)
    assert np.allclose(bars["x"] - bars["width"] / 0.94 / 2, report.cosine_edges[:-1], atol=1e-6)
    said = " ".join(note["text"] for note in figure["layout"]["annotations"])
    assert "0.31" in said
    assert "0.02" in said


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_norms_are_drawn_channel_by_channel_and_layer_by_layer(theme: str) -> None:
    report = fake_results.norm_report(NormSpec())
    figure = scales(report, theme)  # type: ignore[arg-type]
    go.Figure(figure)
    assert len(figure["data"]) == 1  # no bias
    assert np.array_equal(figure["data"][0]["y"], np.sort(report.final_scale))
    biased = dataclasses.replace(report, final_bias=report.final_scale + 1)
    assert len(scales(biased, "light")["data"]) == 2
    layers = norms(report, theme)  # type: ignore[arg-type]
    go.Figure(layers)
    names = [name for name, _ in legend(layers)]
    assert names == ["input_layernorm", "post_attention_layernorm"]
    median = next(trace for trace in layers["data"] if trace.get("name") == "input_layernorm")
    assert np.array_equal(median["x"], np.arange(12))
    assert median["y"][0] == report.others[0].scale[2]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_agreement_is_drawn_against_the_norm_with_its_counts(theme: str) -> None:
    report = fake_results.similarity(9, SimilaritySpec())
    figure = similarity(report, theme)  # type: ignore[arg-type]
    go.Figure(figure)
    cells, bins, swept = figure["data"]
    assert np.array_equal(cells["y"], report.overlap_euclidean)
    assert bins["text"] == [f"{count:,}" for count in report.bin_counts if count]
    assert np.array_equal(swept["y"], report.swept_overlap)
    assert figure["layout"]["shapes"][0]["x0"] == 1.0  # the unit ball
    low, high = figure["layout"]["xaxis"]["range"]
    assert 10**low < report.state_norm.min()
    assert 10**high > report.swept_norm.max()
    assert len(legend(figure)) == 3
