"""What the documents say holds: the example runs, the variables exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.real
def test_the_readmes_example_runs(
    default_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})  # noqa: S102
    told = capsys.readouterr().out
    assert re.search(r"row 30 +' Paris'", told)
    assert re.search(r"first leads at row \d+ and stays from row \d+", told)


def test_every_variable_in_the_readme_is_read_somewhere() -> None:
    from dash_app.settings import Settings

    known = {f"STRATASCOPE_{name.upper()}" for name in Settings.model_fields}
    named = set(re.findall(r"STRATASCOPE_[A-Z_]+[A-Z]", README))
    assert named <= known


def test_links_between_documents_lead_somewhere() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    broken = [
        f"{document.name}: {link}"
        for document in documents
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text(encoding="utf-8"))
        if not (document.parent / link).exists() and not link.endswith("page.png")
    ]
    assert not broken
