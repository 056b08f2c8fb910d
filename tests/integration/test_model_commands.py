"""``stratascope check`` and ``stratascope models``: tables and JSON."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import analysis
from analysis.ledger import LedgerSpec, check_run
from analysis.model import catalog, memory
from dash_app import cli


@pytest.fixture(autouse=True)
def no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(catalog.SETTING, raising=False)


def test_a_ledger_is_a_table(tiny_llama_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", str(tiny_llama_dir), "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{tiny_llama_dir} (llama, float32, cpu), revision ")
    assert [line[:2] for line in lines[2:10]] == [f"{number}." for number in range(1, 9)]
    assert all(" ok" in line for line in lines[2:10])
    assert lines[10] == "every identity holds"


def test_a_ledger_is_json(tiny_llama_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", str(tiny_llama_dir), "--json", "--dtype", "bfloat16"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["passed"], told["colour"]) == (True, "amber")
    assert told["model"]["dtype"] == "bfloat16"
    assert len(told["model"]["revision"]) == 16
    assert {"number", "name", "error", "tolerance", "note", "passed"} == set(told["entries"][0])
    assert max(entry["error"] for entry in told["entries"]) > 1e-4


def test_the_ledger_of_a_prompts_run_is_printed(
    tiny_llama_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["check", str(tiny_llama_dir), "--prompt", "the capital of France", "--device", "cpu"]
    assert cli.main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"run of \d+ tokens", lines[1])
    assert [line[:2] for line in lines[3:10]] == [f"{number}." for number in range(1, 8)]
    assert lines[10] == "every identity holds"
    model = analysis.load_model(tiny_llama_dir, device="cpu")
    states = analysis.trace(model, "the capital of France")
    assert cli.main([*command, "--position", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [token["id"] for token in told["tokens"]] == list(states.token_ids)
    wanted = check_run(model, states, LedgerSpec(1))
    assert [entry["error"] for entry in told["entries"]] == [one.error for one in wanted.entries]


def test_a_run_of_the_command_may_keep_patterns_in_16_bits(
    tiny_llama_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["check", str(tiny_llama_dir), "--pattern-dtype", "float16"]
    assert cli.main(command) == 1
    assert "--pattern-dtype needs a prompt. Give --prompt." in capsys.readouterr().err
    assert cli.main([*command, "--prompt", "the capital", "--patterns-on-disk"]) == 0
    assert "patterns are kept in 16 bits" in capsys.readouterr().out
    assert cli.main(["attribute", str(tiny_llama_dir), "the capital", "--pattern-layers", "1"]) == 1
    assert "pattern of layer 0 was not kept" in capsys.readouterr().err


def test_an_identity_that_fails_fails_the_command(
    tiny_llama_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from analysis import ledger as ledger_module

    monkeypatch.setattr(ledger_module, "limit", lambda *_args, **_options: -1.0)
    monkeypatch.setattr("analysis.loading.require", lambda _model: None)
    assert cli.main(["check", str(tiny_llama_dir)]) == 1
    assert "FAILS" in capsys.readouterr().out


def test_a_failed_load_is_reported_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "no-such"]) == 1
    assert "There is no model named 'no-such'." in capsys.readouterr().err
    assert cli.main(["check", "no-such", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["passed"] is False
    assert "There is no model named" in told["error"]


def test_the_catalogue_shows_what_fits(
    tiny_llama_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = f"mine={tiny_llama_dir},far=owner/not-here,lost=/no/such"
    monkeypatch.setenv(catalog.SETTING, setting)
    assert cli.main(["models"]) == 0
    told = capsys.readouterr()
    head, *lines = told.out.splitlines()
    shown = {line.split()[0]: line for line in lines}
    assert head.split()[:3] == ["name", "source", "dtype"]
    assert shown[catalog.DEFAULT.name].endswith("yes")
    assert shown["mine"].endswith("yes")
    assert shown["far"].endswith("not known")
    assert shown["lost"].endswith("not known")
    assert "far: it is fetched when it is first loaded" in told.err
    assert "lost: There is no folder /no/such." in told.err
    monkeypatch.setattr(memory, "free", lambda _device: 1000)
    assert cli.main(["models", "--json"]) == 1
    listed = {offer["name"]: offer for offer in json.loads(capsys.readouterr().out)}
    assert listed["mine"]["fits"] is False
    assert listed["mine"]["needs"] > 1000
    assert listed["far"]["fits"] is listed["lost"]["fits"] is None


def test_the_commands_import_torch_only_when_they_run() -> None:
    code = "import sys; from dash_app import cli; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
