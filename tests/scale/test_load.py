"""A short load test: several users at once, with one process and with Redis."""

from __future__ import annotations

import pytest

from benchmarks import load

pytestmark = [pytest.mark.full, pytest.mark.real]


@pytest.mark.parametrize("more", [[], ["--redis", "--processes", "2"]])
def test_four_users_at_once_get_no_error(
    capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    few = [
        "--users",
        "4",
        "--browsers",
        "0",
        "--actions",
        "15",
        "--think",
        "0.3",
        "--seed",
        "3",
        "--minutes",
        "8",
    ]
    chosen = load.parse([*few, "--model", "addition-5digit", *more])
    tally = load.measure(chosen)
    printed = capsys.readouterr().out
    assert not tally.errors, printed
    assert tally.requests > 0
    done = {action.partition(",")[0] for action in tally.times}
    assert done == {"open", "run", "cell", "cancel"}, printed
    for part in ("web:", "model:", "errors: 0", "p95"):
        assert part in printed
