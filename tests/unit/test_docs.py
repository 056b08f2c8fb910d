"""The documents are true: the example runs, links and paths exist, tables are complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.repository import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.real
def test_the_example_of_the_readme_runs(
    default_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})  # noqa: S102
    printed = capsys.readouterr().out
    assert re.search(r"row 30 +' Paris'", printed)
    assert re.search(r"first leads at row \d+ and stays from row \d+", printed)


@pytest.mark.parametrize("name", ["README.md", "docs/server.md", "docs/operations.md"])
def test_every_variable_in_a_document_is_a_setting(name: str) -> None:
    from dash_app.settings import Settings

    known = {f"STRATASCOPE_{name.upper()}" for name in Settings.model_fields}
    named = set(re.findall(r"STRATASCOPE_[A-Z_]+[A-Z]", (ROOT / name).read_text("utf-8")))
    assert named
    assert named <= known


def test_links_between_documents_exist() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    broken = [
        f"{document.name}: {link}"
        for document in documents
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text(encoding="utf-8"))
        if not (document.parent / link).exists()
    ]
    assert not broken


def test_paths_in_the_documents_exist() -> None:
    folders = "analysis|dash_app|assets|tests|tools|benchmarks|docs|deploy"
    path = re.compile(rf"`((?:{folders})/[\w./@-]+\.\w+)`")
    missing = [
        f"{document.name}: {named}"
        for document in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
        for named in path.findall(document.read_text(encoding="utf-8"))
        if not (ROOT / named).exists()
    ]
    assert not missing


def test_the_table_of_architectures_is_complete() -> None:
    from benchmarks import architectures
    from tests.support import zoo

    table = README.partition(architectures.BEGIN)[2].partition(architectures.END)[0]
    rows = re.findall(r"^\| (\w+) \|.*(every identity holds|refused: ).*\|$", table, re.MULTILINE)
    assert sorted(kind for kind, _ in rows) == sorted(zoo.CONFIGS)
    assert not [kind for kind, verdict in rows if verdict == "refused: "]
    assert "Not tested on the machine" in table


def test_the_table_is_written_between_its_markers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import architectures

    assert architectures.row("llama").endswith("| every identity holds |")
    assert "no layer with attention" in architectures.row("mamba")
    readme = tmp_path / "README.md"
    monkeypatch.setattr(architectures, "README", readme)
    readme.write_text(f"before\n{architectures.BEGIN}\nold\n{architectures.END}\nafter\n")
    architectures.write(f"{architectures.BEGIN}\nnew\n{architectures.END}")
    assert readme.read_text() == (
        f"before\n{architectures.BEGIN}\nnew\n{architectures.END}\nafter\n"
    )
    readme.write_text("no markers")
    with pytest.raises(SystemExit, match="has no"):
        architectures.write("new")
