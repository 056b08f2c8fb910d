"""Print the recovery time after each fault of ``tests/faults``.

python -m benchmarks.faults
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Run the fault tests and print a table of the recovery times that they report."""
    command = [sys.executable, "-m", "pytest", "-q", "tests/faults"]
    done = subprocess.run(  # noqa: S603 - our own interpreter and module
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    print(f"{'fault: recovery':80} seconds")
    for line in done.stdout.splitlines():
        mark, _, rest = line.partition(" | ")
        if mark == "recovery":
            fault, _, seconds = rest.rpartition(" | ")
            print(f"{fault:80} {seconds:>9}")
    if done.returncode:
        print(done.stdout)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
