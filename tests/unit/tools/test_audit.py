"""``make audit``: exit status and output for reports."""

from __future__ import annotations

from typing import Any

import pytest

from tools import audit

GOOD = {"name": "flask", "version": "3.1.3", "vulns": []}
DISKCACHE = {
    "name": "diskcache",
    "version": "5.6.3",
    "vulns": [{"id": "GHSA-0", "aliases": ["CVE-2025-69872"], "fix_versions": []}],
}
BAD = {
    "name": "x",
    "version": "1",
    "vulns": [{"id": "CVE-1", "aliases": [], "fix_versions": ["2"]}],
}
UNKNOWN = {"name": "y", "skip_reason": "not found and could not be audited: y (1.0)"}
LOCAL = {"name": "torch", "skip_reason": "could not be audited: torch (2.13.0+cpu)"}
OURS = {"name": "stratascope", "skip_reason": "could not be audited: stratascope (0.1.0)"}


@pytest.mark.parametrize(
    ("report", "status"),
    [
        ([GOOD], 0),
        ([GOOD, DISKCACHE, LOCAL, OURS], 0),
        ([GOOD, DISKCACHE, BAD], 1),
        ([BAD, UNKNOWN], 1),
        ([GOOD, UNKNOWN], 2),
        ([UNKNOWN] * 3, 2),
    ],
)
def test_exit_status_of_a_report(report: list[Any], status: int) -> None:
    assert audit.judge(report) == status


def test_findings_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    audit.judge([DISKCACHE, BAD, UNKNOWN])
    said = capsys.readouterr().out
    assert "diskcache 5.6.3: GHSA-0, fixed in no version yet; allowed by docs/adr" in said
    assert "x 1: CVE-1, fixed in 2\n" in said


def test_an_allowed_vulnerability_has_its_record() -> None:
    for path in audit.ALLOWED.values():
        text = (audit.ROOT / path).read_text(encoding="utf-8")
        assert "CVE-2025-69872" in text
