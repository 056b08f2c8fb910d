"""Each block of code in the documents runs, and prints what the document says."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import analysis
from dash_app import cli
from dash_app.settings import Settings
from tests.support.documents import (
    NOT_RUN,
    blocks,
    commands,
    documents,
    same_output,
    with_output,
)
from tests.support.repository import ROOT

#: Commands that wait for users or write for minutes: their arguments are parsed only.
LONG = {"serve", "worker", "users", "cache", "lens"}
#: Models of the hub that the examples name, and what stands for them: nothing is downloaded.
STAND_INS = {
    "HuggingFaceTB/SmolLM2-135M": {"dtype": "bfloat16"},
    "HuggingFaceTB/SmolLM2-135M-Instruct": {},
}
LANGUAGES = {"", "python", "sh", "text", "toml", "diff", "{toctree}", "{eval-rst}"}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


PYTHON = [
    path
    for path in documents()
    if any(one.language == "python" and not one.words for one in blocks(path))
]
SHELL = [path for path in documents() if any(one.language == "sh" for one in blocks(path))]


def test_the_documents_have_blocks() -> None:
    named = {name(path) for path in PYTHON}
    assert {"README.md", "docs/tutorial.md", "docs/coming-from.md"} <= named
    assert {"README.md", "docs/how-to/patch-a-fact.md"} <= {name(path) for path in SHELL}


def test_each_block_names_a_language_that_is_checked() -> None:
    unknown = [
        f"{name(path)}:{one.line}: {one.language} {' '.join(one.words)}"
        for path in documents()
        for one in blocks(path)
        if one.language not in LANGUAGES or (one.words and one.words[0] not in (*NOT_RUN, ""))
    ]
    assert not unknown


def test_python_is_valid_in_all_blocks() -> None:
    for path in documents():
        for one in blocks(path):
            if one.language == "python":
                compile("\n" * one.line + one.text, name(path), "exec", dont_inherit=True)
            elif one.language == "toml":
                tomllib.loads(one.text)


def test_shell_is_valid_in_all_blocks() -> None:
    shell = shutil.which("sh")
    if shell is None:
        pytest.skip("no shell")
    scripts = [one.text for path in SHELL for one in blocks(path) if one.language == "sh"]
    done = subprocess.run(
        [shell, "-n"], input="\n".join(scripts), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_shell_blocks_name_settings_targets_and_commands_that_exist() -> None:
    targets = (ROOT / "Makefile").read_text("utf-8")
    settings = {f"STRATASCOPE_{one.upper()}" for one in Settings.model_fields}
    tests_own = {f"STRATASCOPE_{one}" for one in ("PICTURES", "OPS_TOKEN")}
    wrong = []
    for path in SHELL:
        for one in blocks(path):
            for words in commands(one) if one.language == "sh" else ():
                variables = [word.partition("=")[0] for word in words if word.startswith("STRATA")]
                wrong += [v for v in variables if v not in settings | tests_own]
                if words[0] == "make" or words[1:2] == ["make"]:
                    target = words[words.index("make") + 1]
                    wrong += [] if f"\n{target}:" in targets else [f"make {target}"]
    assert not wrong


def parsed(words: list[str]) -> list[str] | None:
    """The arguments of ``stratascope`` in a command; None if it is another program."""
    programs = [at for at, word in enumerate(words) if Path(word).name == "stratascope"]
    return words[programs[0] + 1 :] if programs and "=" not in words[programs[0]] else None


def is_run(arguments: list[str]) -> bool:
    """Whether a test can run it: it ends, and no argument is a placeholder such as MODEL."""
    placeholder = any(word.isupper() and word.isalpha() for word in arguments)
    return bool(arguments) and arguments[0] not in LONG and not placeholder


def test_arguments_of_all_commands_are_valid(capsys: pytest.CaptureFixture[str]) -> None:
    for path in SHELL:
        for one in blocks(path):
            for words in commands(one) if one.language == "sh" else ():
                arguments = parsed(words)
                if arguments and "--help" not in arguments:
                    cli._parser().parse_args(arguments)
    capsys.readouterr()


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """``load_model`` with stand-ins for the models of the hub; it loads each model once."""
    real = analysis.load_model
    kept: dict[Any, Any] = {}

    def load(model: Any, **options: Any) -> Any:
        if model in STAND_INS:
            model, options = "smollm2-135m-instruct", {**STAND_INS[model], **options}
        key = (model, *sorted(options.items()))
        if key not in kept:
            kept[key] = real(model, **options)
        return kept[key]

    monkeypatch.setattr(analysis, "load_model", load, raising=False)
    return load


@pytest.mark.full
@pytest.mark.real
@pytest.mark.parametrize("path", PYTHON, ids=name)
def test_python_runs_and_prints_what_the_document_says(
    path: Path,
    loads: Callable[..., Any],
    default_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {"__name__": "__document__"}
    for block, output in with_output(path):
        if block.language == "python" and not block.words:
            exec(compile("\n" * block.line + block.text, name(path), "exec"), scope)  # noqa: S102
            printed = capsys.readouterr().out
            assert not same_output(output, printed), f"line {block.line} prints\n{printed}"


@pytest.mark.full
@pytest.mark.real
@pytest.mark.parametrize("path", SHELL, ids=name)
def test_commands_run_and_print_what_the_document_says(
    path: Path,
    default_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for block, output in with_output(path):
        if block.language != "sh":
            continue
        calls = [one for words in commands(block) if (one := parsed(words)) and is_run(one)]
        printed = ""
        for call in calls:
            assert run(call) == 0, call
            printed += capsys.readouterr().out
        assert not same_output(output, printed), f"line {block.line} prints\n{printed}"


def run(call: list[str]) -> int:
    """The exit status of a command; ``--help`` exits by itself."""
    try:
        return cli.main(call)
    except SystemExit as exit_:
        return int(exit_.code or 0)
