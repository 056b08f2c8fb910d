"""A trace read with another model is refused, by every reading."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import analysis
from analysis.attribution.direct import attribute_logit
from analysis.errors import SpecError
from analysis.interventions import Patch
from analysis.model.handle import Model
from analysis.registry import TECHNIQUES, Technique
from analysis.tracing.capture import Trace
from tests.support import built, tiny
from tests.support.example_specs import example_spec

READINGS: dict[str, Callable[[Model, Trace], Any]] = {
    "decode": analysis.decode,
    "flow": analysis.flow,
    "signed": lambda model, trace: analysis.flow(model, trace, method="signed"),
    "attribute": analysis.attribute,
    "attribute_logit": lambda model, trace: attribute_logit(model, trace, 0, None, None),
    "emergence": analysis.emergence,
    "head_output": lambda model, trace: analysis.head_output(model, trace, 0),
    "attention_bias": lambda model, trace: analysis.attention_bias(model, trace, 0),
    "colours": analysis.colours,
    "disagreement": analysis.disagreement,
    "promoted": lambda model, trace: analysis.promoted(model, trace, "mlp_output", 0),
    "steps": analysis.steps,
    "largest_steps": analysis.largest_steps,
    "similarity_report": analysis.similarity_report,
    "patch": lambda model, trace: analysis.trace(model, [1, 2, 3], [Patch(1, 0, trace)]),
}


@pytest.fixture(scope="module")
def pair() -> tuple[Model, Trace]:
    """A model, and the trace of another one of the same shape."""
    one = built.understood(tiny.tiny_llama(seed=1), "one")
    other = built.understood(tiny.tiny_llama(seed=2), "other")
    return one, analysis.trace(other, [1, 2, 3, 4])


@pytest.mark.parametrize("name", READINGS)
def test_a_public_reading_is_refused(pair: tuple[Model, Trace], name: str) -> None:
    with pytest.raises(SpecError, match=r"made with other .* not with one"):
        READINGS[name](*pair)


@pytest.mark.parametrize(
    "technique", [row for row in TECHNIQUES if row.subject == "trace"], ids=lambda row: row.name
)
def test_a_technique_is_refused(pair: tuple[Model, Trace], technique: Technique) -> None:
    with pytest.raises(SpecError, match=r"made with other .* not with one"):
        technique.load()(*pair, example_spec(technique.spec))
