"""Options of the heatmap without effect are off with a reason, and the substitute is stated."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from analysis.lens.options import FINAL_NORM, LENGTH, NORM_PARAMETERS, NORMS
from analysis.lens.results import Colours
from analysis.lens.specs import ColourSpec, LensSpec
from analysis.reports.specs import EmbeddingSpec
from analysis.tracing.specs import RunSpec
from dash_app.page.panel import options_of
from dash_app.page.window import MAX_POSITIONS, describe_window, window
from dash_app.state.context import result_of, trace_of
from dash_app.state.selection import RunRef, Selection
from dash_app.views import disagreement
from dash_app.views.heatmap.inspector import inspect_cell
from dash_app.views.heatmap.options import MOST_SOURCES, bar, situation
from dash_app.views.model import embedding_report
from tests.support import fake_results, synthetic
from tests.support.components import text
from tests.support.fake_service import FakeService
from tests.wiring.views.test_heatmap import compute, show


def barred(options: list[Any]) -> dict[str, str]:
    return {option.value: option.unless for option in options if option.unless}


@pytest.mark.parametrize(
    ("norm", "plain", "similarity", "off"),
    [
        ("RMSNorm", False, "dot", {}),
        ("LayerNorm", False, "cosine", {}),
        ("LayerNorm", True, "dot", {"unit": NORM_PARAMETERS.reason}),
        ("RMSNorm", False, "cosine", {"none": LENGTH.reason}),
        ("none", False, "dot", {"unit": FINAL_NORM.reason, "none": FINAL_NORM.reason}),
    ],
)
def test_equal_norms_are_marked(
    norm: str, plain: bool, similarity: str, off: dict[str, str]
) -> None:
    info = replace(FakeService().model_info("m"), norm=norm, plain_norm=plain)
    chosen = Selection(similarity=similarity)
    assert barred(options_of(NORMS, situation(chosen, info, False))) == off
    assert not barred(options_of(NORMS, situation(chosen, None, False)))


def test_a_search_marks_tokens_and_cells_and_hides_nothing(
    service: FakeService, run_ref: RunRef
) -> None:
    service.ask(trace_of(run_ref), LensSpec())
    plain = show(service, run_ref, Selection(show="answer"))[0]["layout"]["meta"]
    assert plain["hits"] == {"text": "", "columns": (), "cells": ()}
    figure, _, lines, *_ = show(service, run_ref, Selection(find="PARIS", show="answer"))
    meta = figure["layout"]["meta"]
    tokens = result_of(service, run_ref).tokens
    wanted = [at for at, token in enumerate(tokens) if "paris" in token.text.casefold()]
    assert list(meta["hits"]["columns"]) == wanted
    assert meta["positions"] == plain["positions"]
    by_id = {token.id for token in tokens if "paris" in token.text.casefold()}
    drawn = {
        (row, pos)
        for row, line in zip(meta["rows"], meta["ids"], strict=True)
        for pos, number in zip(meta["positions"], line, strict=True)
        if number in by_id
    }
    assert drawn <= set(meta["hits"]["cells"])
    assert f"is in {len(wanted)} token" in text(lines)


def test_a_menu_states_the_sources_it_omits(run_ref: RunRef) -> None:
    chosen = Selection(component="source_output")
    result = synthetic.run_result(12, MOST_SOURCES + 44)
    said = text(bar(chosen, run_ref, result))
    assert f"44 later positions. Set one in the address: source={MOST_SOURCES}." in said
    short = synthetic.run_result(12, MOST_SOURCES)
    assert "later positions" not in text(bar(chosen, run_ref, short))


def test_at_most_1024_positions_are_drawn_and_the_caption_says_which() -> None:
    run = synthetic.run_result(2, 40_000)
    shown = window(run, False, row=0, pos=0, show="all")
    assert len(shown.positions) == MAX_POSITIONS
    assert "positions 0 to 1023 of 40000" in describe_window(shown)


def test_shares_by_norm_among_those_by_proximity(
    service: FakeService, run_ref: RunRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = fake_results.colours

    def lost(size: int, spec: ColourSpec) -> Colours:
        found = plain(size, spec)
        fallback = np.zeros(found.fallback.shape, bool)
        fallback[3, 2:5] = True
        return replace(found, fallback=fallback)

    monkeypatch.setitem(fake_results.MADE, "colours", lost)
    for by, said in (("proximity", True), ("norm", False)):
        selection = Selection(colour="share", by=by)
        done, _ = compute(service, run_ref, selection)
        _, _, line, *_ = show(service, run_ref, selection, None, done)
        assert ("In 3 of 84 block outputs every part has proximity 0" in text(line)) == said


def test_folded_rows_count_in_the_text_on_disagreement(
    service: FakeService, run_ref: RunRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.learned.library.available", lambda _name: object())
    disagreement.compute(service, run_ref, Selection(), lambda *_: None)
    for fold, said in ((4, True), (1, False)):
        *_, note, _ = disagreement.draw(service, run_ref, Selection(fold=fold), "light", None)
        assert "mean divergence" in note
        assert ("Hidden rows count too." in note) == said


def test_the_chosen_cell_names_its_layer_and_decoder(service: FakeService, run_ref: RunRef) -> None:
    chosen = Selection(component="mlp_output", row=4, pos=2)
    done, _ = compute(service, run_ref, chosen)
    said = text(show(service, run_ref, chosen, None, done)[3])
    assert "layer 3: what the MLP adds" in said
    assert "Decoded by" not in said
    grid = replace(
        service.ask(trace_of(run_ref), LensSpec()), decoder="max_probability",
        chosen=np.ones((13, 7), np.int64),
    )  # fmt: skip
    run = service.ask(run_ref.model, RunSpec(run_ref.model, run_ref.prompt, new_tokens=run_ref.new))
    both = text(inspect_cell(grid, run, 4, 2, ()))
    assert "after layer 3" in both
    assert "input decoder" in both


def test_tokens_left_out_of_the_embedding_report() -> None:
    report = fake_results.embedding_report(EmbeddingSpec())
    assert "rows of zeros" not in text(embedding_report(replace(report, zero_rows=0), "light"))
    said = text(embedding_report(replace(report, zero_rows=1234), "light"))
    assert "Rows of zeros, left out" in said
    assert "1,234" in said
