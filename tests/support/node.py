"""Find Node.js for the JavaScript tests; ``tools/node.py`` installs it."""

from __future__ import annotations

import subprocess

from tests.support.find_program import located

VARIABLE = "STRATASCOPE_NODE"
NAMES = ("node", "nodejs")
#: The first version whose test runner takes a reporter from a file.
OLDEST = (18, 15)


def find() -> str:
    """Path of a Node.js that can run the tests.

    Raises:
        FileNotFoundError: If there is none, or it is too old; the message says what to do.
    """
    path = located(VARIABLE, NAMES)
    advice = f"Run make node, or set {VARIABLE} to the path of one."
    if path is None:
        raise FileNotFoundError(f"Node.js is not installed. {advice}")
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    if _numbers(version.stdout) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        found = version.stdout.strip() or "unknown"
        raise FileNotFoundError(
            f"{path} is Node.js {found}; the tests need {oldest} or later. {advice}"
        )
    return path


def _numbers(version: str) -> tuple[int, ...]:
    """Major and minor number of "v20.1.2"; empty if the text is no version."""
    major, _, rest = version.strip().lstrip("v").partition(".")
    minor = rest.partition(".")[0]
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else ()
