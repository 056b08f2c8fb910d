"""The strip above the heatmap of a long run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dash_app.page.window import PAGE, window
from dash_app.state.selection import RunRef, Selection
from dash_app.views.heatmap import actions
from dash_app.views.heatmap.overview import overview, strip
from tests.support import synthetic
from tests.support.fake_service import FakeService


def test_a_run_that_fits_a_page_has_no_strip(service: FakeService, run_ref: RunRef) -> None:
    assert actions.overview(service, run_ref, Selection(), "light") is None


def test_a_long_run_has_one(
    service: FakeService, run_ref: RunRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = synthetic.run_result(2, 300)
    monkeypatch.setattr(actions, "result_of", lambda *_: result)
    ids = tuple(token.id for token in result.tokens)
    run = run_ref.model_copy(update={"token_ids": ids, "prompt_length": 300, "layers": 2})
    made: Any = actions.overview(service, run, Selection(pos=260), "light")
    band, line = made.children.figure["layout"]["shapes"]
    assert (band["x0"], band["x1"]) == (2 * PAGE - 0.5, 299.5)
    assert line["x0"] == 260


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_lines_are_the_model_s_own_probability_and_entropy(theme: Any) -> None:
    result = synthetic.run_result(2, 300)
    rng = np.random.default_rng(0)
    result = replace(
        result,
        top_probs=rng.random(result.top_probs.shape).astype(np.float32),
        entropy=rng.random(300).astype(np.float32),
    )
    shown = window(result, False, row=2, pos=40)
    figure = strip(result, shown, pos=40, theme=theme)
    top, entropy = figure["data"]
    np.testing.assert_array_equal(top["y"], result.top_probs[:, 0])
    np.testing.assert_array_equal(entropy["y"], result.entropy)
    for line in (top, entropy):  # both can be pointed at and clicked
        assert len(line["text"]) == 300
        assert f"entropy {result.entropy[7]:.2f} nats" in line["text"][7]
    made: Any = overview(result, shown, pos=40, theme=theme)
    assert made.children.figure["layout"]["meta"] == {"view": "overview"}
