"""A prompt passes few files on its way to the heatmap, so that a reader can follow it."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.support.repository import ROOT


@pytest.mark.full
@pytest.mark.real
def test_a_prompt_passes_at_most_60_files_on_its_way_to_the_heatmap() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.path_of_a_prompt"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    found = re.search(r"^(\d+) files ", done.stdout, re.MULTILINE)
    assert found, done.stderr
    assert 30 < int(found[1]) <= 60, done.stdout
