"""Tables of choices: validation, availability, summaries, and that every function exists."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from analysis.contract.choices import Choice, Choices, Need, Situation
from analysis.errors import SpecError
from analysis.flow_graph.specs import FlowSpec
from analysis.lens.options import DECODERS, NORMS
from analysis.lens.specs import ColourSpec, LensSpec
from analysis.registry import TECHNIQUES

DARK = Need("the dark", "It is light.", lambda situation: situation.options.get("sky") == "dark")
STARS = Choices(
    "star",
    Choice("sun", "Sun"),
    Choice("vega", "Vega", "a < b", "A star.", "Flamsteed, 1712", (DARK,)),
)


def tables() -> list[Choices[Any]]:
    """Every table that a field of a registered spec names."""
    found = [
        one.metadata["choices"]
        for technique in TECHNIQUES
        for one in fields(technique.spec)
        if "choices" in one.metadata
    ]
    return list({id(table): table for table in found}.values())


def test_a_table_knows_its_names_in_order() -> None:
    assert list(STARS) == ["sun", "vega"]
    assert (STARS.default, STARS.labels) == ("sun", (("sun", "Sun"), ("vega", "Vega")))
    assert STARS.check("vega") == "vega"
    with pytest.raises(SpecError, match="There is no star 'moon'") as caught:
        STARS.check("moon")
    assert "Choose one of: sun, vega." in str(caught.value)


def test_an_unavailable_choice_gives_the_reason() -> None:
    night, day = Situation(options={"sky": "dark"}), Situation()
    assert STARS["vega"].unavailable(night) == ""
    assert STARS["vega"].unavailable(day) == "It is light."


def test_a_summary_joins_formula_help_and_source() -> None:
    assert STARS["vega"].summary == "a < b. A star (Flamsteed, 1712)."
    assert STARS["sun"].summary == ""


@pytest.mark.parametrize("table", tables(), ids=lambda table: table.option)
def test_every_choice_explains_itself(table: Choices[Any]) -> None:
    assert table.help
    for name, choice in table.items():
        assert choice.name == name
        assert choice.label
        assert choice.summary, name
        assert not choice.function or callable(choice.load())


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda technique: technique.name)
def test_a_default_is_in_its_table(technique: Any) -> None:
    for one in fields(technique.spec):
        table = one.metadata.get("choices")
        if table is not None and isinstance(one.default, str):
            assert one.default in table


def test_specs_refuse_what_is_in_no_table() -> None:
    for build, said in (
        (lambda: LensSpec(decoder="outptu"), "There is no decoder 'outptu'"),
        (lambda: FlowSpec(method="magic"), "There is no flow method 'magic'"),
        (lambda: ColourSpec(quantities=("norm", "hue")), "There is no quantity 'hue'"),
    ):
        with pytest.raises(SpecError, match=said):
            build()


def test_a_choice_added_to_a_table_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DECODERS.rows, "extra", DECODERS["output"])
    assert LensSpec(decoder="extra").decoder == "extra"


def test_the_first_choice_is_the_default_of_the_spec() -> None:
    assert (LensSpec().decoder, LensSpec().norm) == (DECODERS.default, NORMS.default)
