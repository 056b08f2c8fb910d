"""docs/reference.md is what the registry, the specs and the tables say."""

from __future__ import annotations

import pytest

from analysis.contract.fields import option_fields
from analysis.registry import TECHNIQUES
from tools import reference


def test_the_reference_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert reference.main([]) == 0, capsys.readouterr().out


def test_every_option_of_every_technique_is_explained() -> None:
    for technique in TECHNIQUES:
        for option in option_fields(technique.spec):
            assert option.help, f"{technique.name}.{option.path}"


def test_names_of_options_are_unique() -> None:
    names = [table.option for table in reference.tables()]
    assert len(set(names)) == len(names)


def test_an_outdated_reference_is_reported(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "reference", lambda: "other")
    assert reference.main([]) == 1
    assert "Run: python -m tools.reference --write" in capsys.readouterr().out
