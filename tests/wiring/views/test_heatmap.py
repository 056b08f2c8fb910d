"""The heatmap's panel: memoised results, jobs and messages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from dash import no_update

from analysis.contract.specs import InfoSpec
from analysis.errors import CancelledError, WorkerStoppedError
from analysis.lens.options import (
    CANDIDATES,
    COLOURS,
    COMPONENTS,
    DECODERS,
    DOT_PRODUCT,
    NORMS,
    SHARE_METHODS,
    SIMILARITIES,
)
from analysis.lens.specs import ColourSpec, LensSpec
from analysis.tracing.specs import RunSpec
from dash_app.page.panel import Option, menu, options_of
from dash_app.state.context import trace_of
from dash_app.state.options import PARTS
from dash_app.state.selection import RunRef, Selection
from dash_app.views.heatmap import actions, options
from dash_app.views.heatmap import inspector as inspector_module
from dash_app.views.heatmap.actions import formula
from dash_app.views.heatmap.inspector import inspect_cell
from dash_app.views.heatmap.options import bar
from tests.support.components import text
from tests.support.fake_service import FakeService, refuse

LONG = tuple(number % 30 for number in range(40))


def no_job(_start: float, _end: float) -> None:
    return None


@pytest.fixture
def long_run(run_ref: RunRef, service: FakeService, monkeypatch: Any) -> RunRef:
    """A run of 40 tokens and its service."""
    prompt = " ".join(["word"] * 40)
    return run_ref.model_copy(
        update={"token_ids": LONG, "prompt_length": 40, "prompt": prompt, "new": 0}
    )


def show(
    service: FakeService, run: RunRef, selection: Selection, note: Any = None, ready: Any = None
) -> tuple[Any, ...]:
    """Figure, controls, caption, inspector, note, and whether a part is missing."""
    shown = actions.draw(service, run, selection, "light", ready, note)
    return *shown.values[:4], shown.note, not shown.complete


def compute(service: FakeService, run: RunRef, selection: Selection) -> tuple[Any, list[Any]]:
    told: list[Any] = []
    return actions.compute(service, run, selection, no_job, hand_over=told.append), told


def test_memoised_results_are_shown_at_once(service: FakeService, run_ref: RunRef) -> None:
    service.ask(trace_of(run_ref), LensSpec())
    figure, controls, line, inspector, drawn, missing = show(
        service, run_ref, Selection(row=3, pos=2)
    )
    assert not missing
    assert figure["layout"]["shapes"][-1]["x0"] == 1.5
    assert figure["layout"]["shapes"][-1]["y0"] == 2.5
    assert "softmax(U · N(h))" in text(line)
    assert "after layer 2" in text(inspector)
    assert "menu-decoder" in text(controls)
    again = show(service, run_ref, Selection(row=5, pos=2), drawn)
    assert again[0] is no_update  # only the browser moves the outline
    assert "after layer 4" in text(again[3])


def test_the_chosen_column_is_computed_first(service: FakeService, long_run: RunRef) -> None:
    selection = Selection(norm="unit", pos=7, row=3)
    figure, _, line, inspector, _, missing = show(service, long_run, selection)
    assert missing
    assert "Computed: 0 of 40 positions" in text(line)
    assert "Not computed yet" in text(inspector)
    assert np.isnan(np.array(figure["data"][0]["z"])).all()

    service.fail["decode"] = CancelledError()
    assert compute(service, long_run, selection)[0] is None
    del service.fail["decode"]
    done, told = compute(service, long_run, selection)
    key = actions.picture_of(service, long_run, selection).key
    assert told == [{"part": key}]
    assert done == {"done": key}
    asked = [spec for _, spec in service.memo if isinstance(spec, LensSpec)]
    assert [spec.positions for spec in asked] == [(7,), None]


def test_one_column_is_shown_and_the_others_are_named_as_missing(
    service: FakeService, long_run: RunRef
) -> None:
    selection = Selection(norm="unit", pos=7, row=3)
    service.ask(trace_of(long_run), LensSpec(norm="unit", positions=(7,)))
    figure, _, line, inspector, _, missing = show(service, long_run, selection)
    known = ~np.isnan(np.array(figure["data"][0]["z"]))
    assert known[:, 7].all()
    assert known.sum() == known.shape[0]
    assert missing
    assert "Computed: 1 of 40 positions" in text(line)
    assert "Candidates " in text(inspector)


def test_a_computed_column_stays_when_the_rest_of_the_grid_fails(
    service: FakeService, long_run: RunRef
) -> None:
    selection, grid = Selection(norm="unit", pos=7, row=3), service.decode

    def column_only(trace: Any, spec: LensSpec, job: Any = None) -> Any:
        if spec.positions is None:
            raise WorkerStoppedError("The worker stopped.", "Run it again.")
        return grid(trace, spec, job)

    service.decode = column_only  # type: ignore[method-assign]
    ready, told = compute(service, long_run, selection)
    assert len(told) == 1
    figure, _, line, inspector, _, missing = show(service, long_run, selection, None, ready)
    known = ~np.isnan(np.array(figure["data"][0]["z"]))
    assert known[:, 7].all()
    assert "The worker stopped." in text(line)
    assert "Run it again." in text(line)
    assert "lens-partial" in text(line)  # which shows the button that computes the rest
    assert "Candidates " in text(inspector)
    assert missing


def test_a_new_colour_keeps_the_tokens(service: FakeService, long_run: RunRef) -> None:
    service.ask(trace_of(long_run), LensSpec())
    selection = Selection(colour="state_norm", pos=7)
    figure, _, _, _, _, missing = show(service, long_run, selection)
    assert missing
    assert np.isnan(np.array(figure["data"][0]["z"])).all()
    done, _ = compute(service, long_run, selection)
    figure, *_, missing = show(service, long_run, selection, None, done)
    assert not missing
    assert not np.isnan(np.array(figure["data"][0]["z"])).any()
    kinds = [type(spec).__name__ for _, spec in service.memo if isinstance(spec, ColourSpec)]
    assert kinds


def test_a_short_prompt_is_decoded_at_once(service: FakeService, run_ref: RunRef) -> None:
    _, told = compute(service, run_ref, Selection(norm="none"))
    assert told == []


def test_a_result_that_the_memo_cannot_keep_is_shown(service: FakeService, run_ref: RunRef) -> None:
    done, _ = compute(service, run_ref, Selection(norm="none"))
    service.memo.clear()
    *_, missing = show(service, run_ref, Selection(norm="none"), None, done)
    assert not missing


def test_every_option_can_be_shown(service: FakeService, run_ref: RunRef) -> None:
    for name, kind in (
        ("component", COMPONENTS), ("norm", NORMS), ("similarity", SIMILARITIES),
        ("candidates", CANDIDATES), ("colour", COLOURS), ("part", PARTS),
        ("by", SHARE_METHODS),
    ):  # fmt: skip
        for value in kind:
            colour = {"colour": "share"} if name in ("part", "by") else {}
            selection = Selection(**{**colour, name: value}, row=4, pos=2)
            done, _ = compute(service, run_ref, selection)
            assert "done" in done, (value, done)
            figure, *_, missing = show(service, run_ref, selection, None, done)
            assert not missing, value
            assert figure["data"][0]["z"].shape[1] == 7


def test_the_page_says_that_decoders_of_a_tied_model_coincide(
    service: FakeService, run_ref: RunRef
) -> None:
    info = service.ask("m", InfoSpec())
    offered = options_of(DECODERS, options.situation(Selection(), info, False))
    barred = {option.value for option in offered if option.unless}
    assert barred == set(DECODERS) - {"output"}
    done, _ = compute(service, run_ref, Selection(decoder="input"))
    assert all(spec.decoder == "output" for _, spec in service.memo if isinstance(spec, LensSpec))
    _, controls, line, *_ = show(service, run_ref, Selection(decoder="input"), None, done)
    assert "input and output are the same matrix" in text(controls)
    assert "softmax(U · N(h))" in text(line)
    assert "Input is not available. Embeddings are tied" in text(line)
    _, _, plain, *_ = show(service, run_ref, Selection(), None, done)
    assert "is off" not in text(plain)


def test_a_learned_lens_decodes_block_outputs_only() -> None:
    reasons = {
        component: {
            option.value: option.unless
            for option in options_of(
                DECODERS, options.situation(Selection(component=component), None, True)
            )
        }
        for component in ("block_output", "mlp_output")
    }
    assert reasons["block_output"]["learned"] == ""
    assert "fitted to block outputs" in reasons["mlp_output"]["learned"]
    assert reasons["mlp_output"]["input"] == ""


def test_unavailable_choices_become_available_ones(service: FakeService, run_ref: RunRef) -> None:
    result = service.ask(run_ref.model, specs_run(run_ref))
    wanted = Selection(decoder="learned", head=99, source=99)
    settled, notes = options.replace_unavailable(wanted, result, False)
    assert (settled.decoder, settled.head, settled.source) == ("output", 5, 6)
    assert "Learned lens is not available. No lens is trained" in notes[0]
    kept, notes = options.replace_unavailable(Selection(decoder="learned"), result, True)
    assert (kept.decoder, notes) == ("learned", [])


def test_cosine_and_distance_list_top_k_only(service: FakeService, run_ref: RunRef) -> None:
    """They list the nearest rows. Other lists are off, with the reason."""
    asked = Selection(similarity="cosine", candidates="matching_pursuit")
    done, _ = compute(service, run_ref, asked)
    read = [spec for _, spec in service.memo if isinstance(spec, LensSpec)]
    assert {(spec.similarity, spec.candidates) for spec in read} == {("cosine", "top_k")}
    _, controls, line, *_ = show(service, run_ref, asked, None, done)
    assert DOT_PRODUCT.reason in text(controls)
    assert "Matching pursuit is not available. Cosine and distance list the nearest rows." in text(
        line
    )
    assert "matching pursuit on h" not in text(line)
    here = options.situation(Selection(), None, False)
    assert not any(option.unless for option in options_of(CANDIDATES, here))


def specs_run(run: RunRef) -> RunSpec:
    return RunSpec(run.model, run.prompt, new_tokens=run.new)


def test_the_formula_names_the_state() -> None:
    assert formula(Selection()) == "softmax(U · N(h))"
    assert formula(Selection(norm="none", similarity="euclidean")) == "|U − h|"
    assert formula(Selection(decoder="input", norm="unit")) == "softmax(E · N₁(h))"
    assert formula(Selection(decoder="learned")) == "softmax(U · N(h + A·h + b))"
    assert formula(Selection(decoder="max_probability")).count("softmax") == 2


def test_the_embedding_row_has_no_parts(service: FakeService, run_ref: RunRef) -> None:
    compute(service, run_ref, Selection(component="mlp_output"))
    *_, inspector, _, _ = show(service, run_ref, Selection(component="mlp_output", row=0))
    assert "The embedding has no such part" in text(inspector)


def test_an_error_replaces_the_figure(service: FakeService, run_ref: RunRef) -> None:
    service.fail["decode"] = refuse("The model file is cut off.", "Fetch it again.")
    ready, _ = compute(service, run_ref, Selection(norm="none"))
    figure, *_ = show(service, run_ref, Selection(norm="none"), None, ready)
    assert "The model file is cut off." in text(figure)
    service.fail["run"] = refuse("Gone.", "Again.")
    assert "Gone." in text(show(service, run_ref, Selection())[0])


def test_colours_use_the_answer_or_the_chosen_token(service: FakeService, run_ref: RunRef) -> None:
    result = service.ask(run_ref.model, specs_run(run_ref))
    assert options.asked_token(run_ref, result, Selection()) == 5
    assert options.asked_token(run_ref, result, Selection(asked=9)) == 9
    assert options.asked_token(run_ref, result, Selection(asked=99_999)) == 5
    compute(service, run_ref, Selection(colour="token_rank", asked=9))
    _, controls, *_ = show(service, run_ref, Selection(colour="token_rank", asked=9))
    assert "menu-asked" in text(controls)


def test_pages_can_be_turned(service: FakeService) -> None:
    result = service.ask("m", words(200))
    shown = text(bar(Selection(pos=130), None, result))
    assert "show=0-127" in shown
    assert "128 to 199" in shown
    assert "All, narrow" in shown
    assert "show=0-127" not in text(bar(Selection(pos=3), None, service.ask("m", words(9))))


def words(count: int) -> RunSpec:
    return RunSpec("m", " ".join(["word"] * count))


def test_candidates_of_a_cell_have_one_score(service: FakeService, run_ref: RunRef) -> None:
    result = service.ask(run_ref.model, specs_run(run_ref))
    plain = service.ask(trace_of(run_ref), LensSpec())
    spread = np.linspace(2.0, 4.0, plain.scores.shape[-1], dtype=np.float32)
    scores = np.broadcast_to(spread, plain.scores.shape).copy()
    none = np.full_like(plain.probs, np.nan)
    first = none.copy()
    first[..., 0] = 0.5

    def said(**changes: Any) -> str:
        grid = replace(plain, scores=scores, **changes)
        return text(inspect_cell(grid, result, 2, 1, ()))

    assert "inspector-unit" in said()
    logits = said(probs=first)  # as subtraction leaves it: no bar mixes 50 % with a logit
    assert '"logit"' in logits
    assert '"50 %"' not in logits
    assert '"4"' in logits
    far = said(probs=none, similarity="euclidean")
    assert "distance, nearest first" in far
    assert '"width": "100.0%"' in far  # the nearest
    assert '"width": "50.0%"' in far  # twice as far away
    told = said(probs=first, explained=scores / 8)
    assert "share of |h|² explained" in told
    assert '"25 %"' in told


def test_the_meaning_of_a_colour_is_visible_text(service: FakeService, run_ref: RunRef) -> None:
    selection = Selection(colour="state_norm", row=3, pos=2)
    done, _ = compute(service, run_ref, selection)
    assert "Coloured by" in text(show(service, run_ref, selection, None, done)[3])
    plain = Selection(row=3, pos=2)
    done, _ = compute(service, run_ref, plain)
    assert "Coloured by" not in text(show(service, run_ref, plain, None, done)[3])


def test_the_inspector_pins_and_unpins(service: FakeService, run_ref: RunRef) -> None:
    selection = Selection(row=12, pos=4, pins=(5,))
    compute(service, run_ref, selection)
    shown = text(show(service, run_ref, selection)[3])
    assert "Unpin" in shown
    assert "without=pins:5" in shown
    assert "Row below" in shown


def test_promoted_tokens_come_from_the_block_below(service: FakeService, run_ref: RunRef) -> None:
    nothing = text(inspector_module.promoted_section(service, run_ref, Selection(row=4)))
    assert "promoted-row" not in nothing
    shown = text(
        inspector_module.promoted_section(
            service, run_ref, Selection(row=4, adds="head_output", adder=99)
        )
    )
    assert "Promotes" in shown
    assert "Suppresses" in shown
    spec = next(spec for _, spec in service.memo if type(spec).__name__ == "PromotedSpec")
    assert (spec.layer, spec.position, spec.head) == (3, 4, 5)
    chosen = Selection(row=4, adds="head_output", adder=1, layer=2, heads=(3,))
    same = inspector_module.spec(run_ref, chosen)  # the head of the tab Head
    assert same is not None
    assert (same.layer, same.position, same.head) == (2, 4, 3)
    assert "layer=2&heads=1&adder=1" in text(inspector_module._choice(chosen, run_ref))
    bottom = text(
        inspector_module.promoted_section(service, run_ref, Selection(row=0, adds="mlp_output"))
    )
    assert "No component writes to the embedding" in bottom
    service.fail["promoted"] = refuse("No.", "Yes.")
    assert "No." in text(
        inspector_module.promoted_section(service, run_ref, Selection(row=4, adds="mlp_output"))
    )


def test_an_unavailable_option_gives_the_reason_and_is_disabled() -> None:
    shown = menu(
        "colour", "X", [Option("a", "A", "help"), Option("b", "B", "help", "no b here")], "a"
    )
    buttons = shown.children[1].children
    assert "data-go" in buttons[0].to_plotly_json()["props"]
    assert buttons[1].disabled
    assert "no b here" in text(buttons[1])
    assert "data-go" not in buttons[1].to_plotly_json()["props"]
