"""Print the recovery time after each fault of ``tests/faults``.

python -m benchmarks.faults
python -m benchmarks.faults -k hang      # pytest's options choose some of the tests
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Run the fault tests, and print each recovery time as soon as it is reported."""
    command = [sys.executable, "-m", "pytest", "-q", "tests/faults", *sys.argv[1:]]
    print(f"{'fault: recovery':80} seconds", flush=True)
    others = []
    with subprocess.Popen(  # noqa: S603 - our own interpreter and module
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        for line in running.stdout:
            mark, _, rest = line.rstrip("\n").partition(" | ")
            if mark == "recovery":
                fault, _, seconds = rest.rpartition(" | ")
                print(f"{fault:80} {seconds:>9}", flush=True)
            else:
                others.append(line)
    if running.returncode:
        print("".join(others))
    return running.returncode


if __name__ == "__main__":
    sys.exit(main())
