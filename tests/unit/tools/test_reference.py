"""The generated pages are what the registry, the specs and the tables say."""

from __future__ import annotations

import pytest

from analysis.contract.fields import option_fields
from analysis.flow_graph.options import FLOW_METHODS
from analysis.lens.options import DECODERS
from analysis.registry import TECHNIQUES
from tools import reference


def test_the_reference_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert reference.main([]) == 0, capsys.readouterr().out


def test_every_option_of_every_technique_is_explained() -> None:
    for technique in TECHNIQUES:
        for option in option_fields(technique.spec):
            assert option.help, f"{technique.name}.{option.path}"


def test_each_lens_and_flow_method_is_explained_with_formula_and_limits() -> None:
    page = reference.methods()
    for table, option in ((DECODERS, "decoder"), (FLOW_METHODS, "method")):
        for name, choice in table.items():
            section = page.partition(f"\n### {choice.label}\n")[2].partition("\n### ")[0]
            for text in (choice.formula, choice.help, choice.misleads, f'{option}="{name}"'):
                assert text, name
                assert text in section, name
            assert choice.source in section


def test_names_of_options_are_unique() -> None:
    names = [table.option for table in reference.tables()]
    assert len(set(names)) == len(names)


def test_an_outdated_reference_is_reported(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "reference", lambda: "other")
    monkeypatch.setattr(reference, "methods", lambda: "other")
    assert reference.main([]) == 1
    printed = capsys.readouterr().out
    assert "docs/methods.md is not current. Run: python -m tools.reference --write" in printed
    assert "docs/reference.md is not current" in printed
