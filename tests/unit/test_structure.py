"""Code rules that no linter checks."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.repository import ROOT

PARTS = ("analysis", "dash_app", "tools", "benchmarks", "tests")
SOURCES = sorted(path for part in PARTS for path in (ROOT / part).rglob("*.py"))
ASSETS = sorted((ROOT / "assets").rglob("*.js"))
LONGEST_FUNCTION, LONGEST_MODULE = 40, 400


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and length of each function in a file, with decorators, without its docstring."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            documented = ast.get_docstring(node) is not None
            docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1 - docstring


def test_there_are_sources_to_check() -> None:
    assert len(SOURCES) > 40


def test_no_function_is_over_40_lines() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{name} has {length}"
        for path in SOURCES
        for name, length in functions(path)
        if length > LONGEST_FUNCTION
    ]
    assert not long


def test_no_module_is_over_400_lines() -> None:
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in (*SOURCES, *ASSETS)}
    long = {str(path): length for path, length in lengths.items() if length > LONGEST_MODULE}
    assert not long


def test_hand_written_style_sheets_have_at_most_500_lines() -> None:
    """What Bootstrap styles needs no rule of ours (ADR 42)."""
    sheets = sorted((ROOT / "assets" / "css").glob("*.css"))
    assert 0 < sum(len(sheet.read_text("utf-8").splitlines()) for sheet in sheets) <= 500


def test_html_elements_are_made_quickly() -> None:
    """A view draws up to a thousand of them; those of ``dash.html`` cost ten times as much."""
    slow = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "dash_app").rglob("*.py")
        if path.name != "thin_layout.py"
        if re.search(r"^from dash import .*\bhtml\b", path.read_text("utf-8"), re.MULTILINE)
    ]
    assert not slow


def test_the_web_process_imports_no_torch() -> None:
    code = (
        "import sys, dash_app.wsgi;"
        "print(sorted({'torch', 'transformers', 'tensorflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def tracked() -> list[Path]:
    done = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name]


def test_no_file_names_a_registry_host() -> None:
    hosts = ("pypi" + ".org", "python" + "hosted", "registry." + "npmjs", "download." + "pytorch")
    readable = {".py", ".md", ".txt", ".toml", ".js", ".css", ".yml", ".json", ""}
    naming = [
        str(path.relative_to(ROOT))
        for path in tracked()
        if path.suffix in readable and path.is_file()
        if any(host in path.read_text(encoding="utf-8", errors="replace") for host in hosts)
    ]
    assert not naming


def test_what_is_installed_is_pinned() -> None:
    """constraints.txt names a version for every package that pyproject.toml asks for."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    pins = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    names = {re.split(r"[<>=!~;\[ ]", line)[0].lower().replace("_", "-") for line in asked}
    assert not names - pins


def test_the_citation_names_the_version() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {project['version']}\n" in cited
    assert f"\nlicense: {project['license']}\n" in cited


def test_the_product_has_at_most_300_python_files() -> None:
    """The rebuilt house has fewer than 250; later features add their own."""
    product = [path for part in ("analysis", "dash_app") for path in (ROOT / part).rglob("*.py")]
    assert 100 < len(product) <= 300


@pytest.mark.parametrize(("package", "most"), [("analysis", 15), ("dash_app", 10)])
def test_the_root_of_a_package_has_few_files(package: str, most: int) -> None:
    assert 0 < len(list((ROOT / package).glob("*.py"))) <= most
