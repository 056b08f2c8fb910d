"""Holds what is installed against the known vulnerabilities: ``make audit``.

pip-audit runs in an environment of its own, ``.venv-audit``, and looks at ``.venv``. It says "no
known vulnerabilities" and exits with 0 where the registry knows none of the packages, as a mirror
without advisories does: this reads its report, and calls that what it is.

Exit status: 0 nothing found but what is allowed below, 1 something found, 2 it could not be told.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
AUDITOR = ROOT / ".venv-audit" / "bin" / "pip-audit"
#: Known, and kept off: the record says how.
ALLOWED = {
    "CVE-2025-69872": "docs/adr/0021-audit.md",
}
#: On no registry: this project, and what it is a part of.
OURS = ("stratascope",)


def main() -> int:
    """Audit ``.venv``, and say what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        done = subprocess.run(
            [AUDITOR, "--path", sysconfig.get_path("purelib"), "--progress-spinner", "off",
             "--format", "json", "--output", report],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if not report.is_file():
            print(done.stderr[-1500:], file=sys.stderr)
            print("audit: the advisory service does not answer; nothing is known.", file=sys.stderr)
            return 2
        return judge(json.loads(report.read_text())["dependencies"])


def judge(dependencies: Sequence[Mapping[str, Any]]) -> int:
    """Print what a report of pip-audit comes to; the exit status."""
    found = [
        (one["name"], one.get("version", ""), flaw)
        for one in dependencies
        for flaw in one.get("vulns", ())
    ]
    bad = [(name, version, flaw) for name, version, flaw in found if not allowed(flaw)]
    for name, version, flaw in found:
        known = allowed(flaw)
        fixed = ", ".join(flaw.get("fix_versions", ())) or "no version yet"
        print(f"{name} {version}: {flaw['id']}, fixed in {fixed}"
              f"{f'; allowed by {known}' if known else ''}")  # fmt: skip
    unknown = [one["name"] for one in dependencies if "skip_reason" in one and not excused(one)]
    if bad:
        return 1
    if unknown:
        few = ", ".join(unknown[:8]) + (", ..." if len(unknown) > 8 else "")
        print(
            f"audit: the advisory service knows nothing of {len(unknown)} of {len(dependencies)} "
            f"packages ({few}), so nothing can be said of them. Ask one that does: pip's index "
            "has to be the public registry, or a mirror of its advisories too.",
            file=sys.stderr,
        )
        return 2
    print(f"audit: {len(dependencies)} packages, nothing known that is not allowed.")
    return 0


def allowed(flaw: Mapping[str, Any]) -> str:
    """The record that allows a vulnerability; empty if none does."""
    names = (flaw["id"], *flaw.get("aliases", ()))
    return next((ALLOWED[name] for name in names if name in ALLOWED), "")


def excused(one: Mapping[str, Any]) -> bool:
    """Whether a package can't be known to a registry: ours, or a local build (torch's +cpu)."""
    return one["name"] in OURS or "+" in one["skip_reason"]


if __name__ == "__main__":
    sys.exit(main())
