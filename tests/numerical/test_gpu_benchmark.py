"""The benchmark for a GPU runs: here on the CPU, with a small model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from benchmarks import gpu


def test_it_measures_every_view_and_checks_the_identities(
    tiny_llama_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "REPEATS", 1)
    assert gpu.main([str(tiny_llama_dir), "--device", "cpu", "--tokens", "12"]) == 0
    printed = capsys.readouterr().out
    for view in ("plain pass", "capture", "one more token", "grid", "flow", "effect", "sweep"):
        assert re.search(rf"^{view} +[\d.]+ ms +[\d.]+ x", printed, re.MULTILINE), view
    assert len(re.findall(r"^identity \d: .* holds$", printed, re.MULTILINE)) == 8


def test_without_time_no_view_is_begun(
    tiny_llama_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "LIMIT", -1.0)
    assert gpu.main([str(tiny_llama_dir), "--device", "cpu", "--tokens", "4"]) == 0
    assert "plain pass       not measured: the time is up" in capsys.readouterr().out


def test_without_a_gpu_it_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 0
    assert capsys.readouterr().out.startswith("There is no GPU: nothing is measured.")
