"""Check the installed packages for known vulnerabilities: ``make audit``.

pip-audit runs in its own environment, ``.venv-audit``, and examines ``.venv``. If the registry
knows none of the packages, for example a mirror without advisories, pip-audit reports success.
This script reads its report and counts the unknown packages.

Exit status: 0 if nothing is found except the allowed vulnerabilities below, 1 if something else is
found, 2 if packages are unknown.
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
#: Vulnerabilities whose code is never reached, with the record that explains why.
ALLOWED = {
    "CVE-2025-69872": "docs/adr/0021-audit.md",
}
#: Packages that no registry has: this project.
OURS = ("stratascope",)


def main() -> int:
    """Audit ``.venv``, print the findings and return the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        done = subprocess.run(
            [AUDITOR, "--path", sysconfig.get_path("purelib"), "--progress-spinner", "off",
             "--format", "json", "--output", report],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if not report.is_file():
            print(done.stderr[-1500:], file=sys.stderr)
            print(
                "audit: no answer from the advisory service; nothing was checked.", file=sys.stderr
            )
            return 2
        return judge(json.loads(report.read_text())["dependencies"])


def judge(dependencies: Sequence[Mapping[str, Any]]) -> int:
    """Print the findings of a pip-audit report and return the exit status."""
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
            f"audit: the advisory service does not know {len(unknown)} of {len(dependencies)} "
            f"packages ({few}). They were not checked. Point pip at the public registry, or at a "
            "mirror that includes its advisories.",
            file=sys.stderr,
        )
        return 2
    print(f"audit: {len(dependencies)} packages, no known vulnerability that is not allowed.")
    return 0


def allowed(flaw: Mapping[str, Any]) -> str:
    """Return the record that allows a vulnerability, or an empty text."""
    names = (flaw["id"], *flaw.get("aliases", ()))
    return next((ALLOWED[name] for name in names if name in ALLOWED), "")


def excused(one: Mapping[str, Any]) -> bool:
    """Whether no registry can know a package: our own, or a local build (torch's +cpu)."""
    return one["name"] in OURS or "+" in one["skip_reason"]


if __name__ == "__main__":
    sys.exit(main())
