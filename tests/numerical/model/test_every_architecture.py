"""No causal class of transformers is wrong without a refusal, or raises a raw error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.sweep import FAULTS, NOT_BUILDABLE, PARTIAL, PASSES, TOLERANCE, Verdict

ROOT = Path(__file__).resolve().parents[3]
TIME_LIMIT = 600

#: Model type -> the verdict that is a fault today. Remove an entry when its fault is fixed.
KNOWN_FAULTS: dict[str, str] = {}
#: The fewest types that may pass, that may pass or be partial, and that transformers may build.
PASSING, READ, BUILT = 133, 147, 175


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Verdict]:
    """The verdict on every type, from a process without the threads of the tests."""
    target = tmp_path_factory.mktemp("sweep") / "verdicts.json"
    command = [sys.executable, "-m", "tests.support.sweep", str(target)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=TIME_LIMIT, capture_output=True)
    found = [Verdict(**values) for values in json.loads(target.read_text(encoding="utf-8"))]
    return {verdict.kind: verdict for verdict in found}


@pytest.mark.full
def test_only_known_faults_remain(verdicts: dict[str, Verdict]) -> None:
    faults = {kind: each.verdict for kind, each in verdicts.items() if each.verdict in FAULTS}
    reasons = {kind: verdicts[kind].reason for kind in faults.keys() - KNOWN_FAULTS.keys()}
    assert faults == KNOWN_FAULTS, reasons


@pytest.mark.full
def test_what_passes_gives_the_logits_of_the_untouched_model(
    verdicts: dict[str, Verdict],
) -> None:
    passing = [each for each in verdicts.values() if each.verdict == PASSES]
    assert len(passing) >= PASSING
    partial = [each for each in verdicts.values() if each.verdict == PARTIAL]
    assert len(passing) + len(partial) >= READ
    assert all(each.error is not None and each.error <= TOLERANCE for each in (*passing, *partial))


@pytest.mark.full
def test_most_types_are_built(verdicts: dict[str, Verdict]) -> None:
    unbuilt = [kind for kind, each in verdicts.items() if each.verdict == NOT_BUILDABLE]
    assert len(verdicts) - len(unbuilt) >= BUILT, unbuilt
