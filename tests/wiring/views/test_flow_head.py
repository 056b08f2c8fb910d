"""The inspector of a head, and the effect of a link on the answer; a fake service computes."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.attribution.specs import AttributionSpec
from analysis.tracing.specs import PatternSpec
from dash_app.state.context import trace_of
from dash_app.state.selection import RunRef, Selection
from dash_app.views.flow.head import HEAD_HINT, JOINED, NO_EFFECT, effect_of_link, inspect_head
from dash_app.views.flow.specs import wanted
from tests.support.components import text
from tests.support.fake_service import LAYERS, FakeService

LAST = LAYERS - 1
HEAD = Selection(layer=LAST, heads=(2,), row=LAYERS, pos=4, method="proximity")


def test_without_a_head_the_inspector_says_how_to_choose_one(
    service: FakeService, run_ref: RunRef
) -> None:
    assert HEAD_HINT in text(inspect_head(service, run_ref, Selection(pos=4)))


def test_a_head_is_described_by_what_it_reads_writes_and_adds(
    service: FakeService, run_ref: RunRef
) -> None:
    shown = text(inspect_head(service, run_ref, HEAD))
    assert f"Layer {LAST}, head 2" in shown
    weights = service.ask(trace_of(run_ref), PatternSpec(LAST)).pattern[2, 4, :5]
    order = [f"({key})" for key in np.argsort(-weights)[:3]]
    places = [shown.index(key, shown.index("Reads")) for key in order]
    assert places == sorted(places)
    logit = service.ask(trace_of(run_ref), AttributionSpec(4)).heads[LAST, 2]
    assert f"{logit:+.3f}".replace("-", "−") in shown
    assert "Promotes" in shown
    assert "Estimate effects" in shown
    assert "Link effects" not in shown


def test_effects_of_a_head_are_those_of_its_own_links(
    service: FakeService, run_ref: RunRef
) -> None:
    for split, said in (("each", True), ("sum", False)):
        shown = text(
            inspect_head(
                service,
                run_ref,
                HEAD.model_copy(update={"method": "effect", "split": split}),
            )
        )
        assert ("(0) −2.000 (estimated)" in shown) == said
        service.memo.clear()
    other = HEAD.model_copy(update={"method": "effect", "split": "each", "heads": (1,)})
    assert "no link of this head" in text(inspect_head(service, run_ref, other))


@pytest.mark.parametrize(
    ("link", "split", "said"),
    [
        (f"attention:{LAST}:0:4:-1", "sum", "−2.000 of +5.000"),
        (f"attention:{LAST}:0:4:2", "each", "−2.000 of +5.000"),
        (f"mlp:{LAST}:4:4:-1", "sum", "+1.000 of +5.000"),
        (f"attention:{LAST}:0:4:2", "sum", "Estimate effects"),
        (f"attention:{LAST}:0:4:1", "each", JOINED),
        (f"attention:{LAST}:1:4:2", "each", "does not have this link"),
        (f"residual:{LAST}:4:4:-1", "sum", NO_EFFECT),
        ("", "sum", ""),
    ],
)
def test_a_link_has_its_effect_on_the_chosen_logit(
    service: FakeService, run_ref: RunRef, link: str, split: str, said: str
) -> None:
    chosen = Selection(link=link, pos=4, row=LAYERS, method="effect", split=split)
    assert said in text(effect_of_link(service, run_ref, chosen))


def test_effects_are_computed_only_while_the_flow_shows_them(
    service: FakeService, run_ref: RunRef
) -> None:
    chosen = Selection(link=f"mlp:{LAST}:4:4:-1", pos=4, row=LAYERS, method="proximity")
    assert "Estimate effects" in text(effect_of_link(service, run_ref, chosen))
    effects = chosen.model_copy(update={"method": "effect"})
    spec = wanted(run_ref, effects)
    assert spec is not None
    service.ask(trace_of(run_ref), spec)
    assert "+1.000 of +5.000" in text(effect_of_link(service, run_ref, chosen))
