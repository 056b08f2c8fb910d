"""Models from the Hugging Face hub: their commit, a snapshot; the check and the hash of files.

The hub client's own settings apply: its cache folder, its token, ``HF_HUB_OFFLINE``.
Python files are never downloaded, and of pickled files only the parameters of a tuned lens, which
are read as tensors alone. Importable without torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from threading import get_ident
from typing import Any

from analysis import paths
from analysis.contract import jobs
from analysis.errors import AnalysisError, ModelLoadError
from analysis.model import untrusted

INDEX = "model.safetensors.index.json"

#: Formats that unpickle on loading, which can run code.
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_READ = (".json", ".safetensors", ".model", ".txt", ".jinja", ".gguf")


def stamp(path: Path) -> list[Any]:
    """Names, sizes and times of the files that loading reads, and the configuration's SHA-256.

    Args:
        path: A model folder, or a single weights file.

    Returns:
        JSON values that change whenever the model is replaced or edited.
    """
    if path.is_file():
        return [[_facts(path)], ""]
    read = sorted(item for item in path.iterdir() if item.suffix in _READ and item.is_file())
    config = path / "config.json"
    digest = hashlib.sha256(config.read_bytes()).hexdigest() if config.is_file() else ""
    return [[_facts(item) for item in read], digest]


def _facts(path: Path) -> list[Any]:
    found = path.stat()
    return [path.name, found.st_size, found.st_mtime_ns]


#: Files with more bytes together are hashed once; the data folder keeps the hash.
_LARGE = 64 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")


def content(path: Path) -> str:
    """SHA-256 of the files that loading reads: the same for each copy of a model.

    It is computed once for each state of the files, as ``stamp`` describes it.

    Args:
        path: A model folder, or a single weights file.

    Returns:
        64 hexadecimal digits. The names of files in a folder count, that of a single file does not.
    """
    return _content(path, json.dumps(stamp(path)))


@lru_cache(maxsize=64)
def _content(path: Path, stamped: str) -> str:
    (files, _) = json.loads(stamped)
    if sum(size for _, size, _ in files) < _LARGE:
        return _hashed(path, [name for name, *_ in files])
    key = hashlib.sha256(json.dumps([str(path.absolute()), stamped]).encode()).hexdigest()
    kept = paths.data_dir() / "content-hashes" / key
    with suppress(OSError):
        if _SHA256.fullmatch(found := kept.read_text(encoding="ascii", errors="replace")):
            return found
    made = _hashed(path, [name for name, *_ in files])
    with suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        half = kept.with_name(f".{key}-{os.getpid()}-{get_ident()}.part")
        half.write_text(made, encoding="ascii")
        half.replace(kept)
    return made


def _hashed(path: Path, names: list[str]) -> str:
    if path.is_file():
        return _sha256(path)
    with ThreadPoolExecutor(4, "hash") as pool:  # hashing lets other threads of Python run
        digests = pool.map(_sha256, [path / name for name in names])
        pairs = list(zip(names, digests, strict=True))
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelLoadError(
            f"{path} can't be read ({error.strerror}).", "Check the file's rights."
        ) from error


def check_folder(folder: Path) -> None:
    """Refuse a folder whose model is incomplete or unsafe to load.

    Raises:
        ModelLoadError: If files are missing, truncated, or pickled, or go beyond the limits of
            ``untrusted``.
    """
    if not (folder / "config.json").is_file():
        raise ModelLoadError(
            f"{folder} has no config.json, so it is not a Hugging Face model.",
            "Name the folder that save_pretrained wrote.",
        )
    untrusted.check_folder(folder)
    for name in weight_files(folder):
        check_safetensors(folder / name)


def weight_files(folder: Path) -> list[str]:
    """Names of the safetensors files that make up a model.

    Raises:
        ModelLoadError: If there are none, or some of them are missing.
    """
    index = folder / INDEX
    sharded = index.is_file()
    names = sorted(set(_read_index(index).values())) if sharded else ["model.safetensors"]
    missing = [name for name in names if not (folder / name).is_file()]
    if not missing:
        return names
    pickles = sorted(item.name for item in folder.iterdir() if item.suffix in _PICKLES)
    if pickles and not sharded:
        raise ModelLoadError(
            f"{folder} stores its weights as pickle ({pickles[0]}), which can run code when "
            "loaded.",
            "Save the model again with save_pretrained, which writes safetensors.",
        )
    raise ModelLoadError(
        f"{folder} has a configuration but not the weights {missing[0]}.",
        "Download or copy the complete model again.",
    )


def _read_index(index: Path) -> dict[str, str]:
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if all(Path(name).name == name for name in names.values()):
            return dict(names)
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise ModelLoadError(f"{index} can't be read.", "Download or copy the complete model again.")


def check_safetensors(path: Path) -> None:
    """Refuse a safetensors file whose size does not match its header.

    Raises:
        ModelLoadError: If it is truncated, or not a safetensors file.
    """
    safetensors_header(path)


def safetensors_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: dtype, shape and offsets of each tensor, by name.

    Raises:
        ModelLoadError: If the file is truncated, or not a safetensors file.
    """
    size = path.stat().st_size
    again = "Download or copy the file again."
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size:
                raise ModelLoadError(f"{path} is truncated within its header.", again)
            if length > untrusted.MOST_HEADER:
                raise ModelLoadError(
                    f"{path} claims a header of {length:,} bytes; at most"
                    f" {untrusted.MOST_HEADER:,} are read.",
                    again,
                )
            header: dict[str, Any] = json.loads(file.read(length))
        ends = [int(value["data_offsets"][1]) for name, value in header.items() if name[:2] != "__"]
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelLoadError(f"{path} is not a safetensors file.", again) from error
    whole = 8 + length + max(ends, default=0)
    if size < whole:
        raise ModelLoadError(f"{path} is truncated: it has {size:,} of {whole:,} bytes.", again)
    return header


_WANTED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
#: Sub-folders and files of this name hold the same weights in other formats.
_UNWANTED = ["*/*", "consolidated*"]
_COMMIT = re.compile(r"[0-9a-f]{40}")


def repository(source: str) -> str:
    """The ``owner/name`` of ``owner/name@revision``."""
    return source.partition("@")[0]


def commit(source: str, config: str = "config.json") -> str:
    """The commit of ``owner/name`` or ``owner/name@revision``.

    A cached commit is preferred, so that a model does not change under a running server. To use
    a newer commit, name it or empty the cache.

    Args:
        source: The id.
        config: The file that every model, or every adapter, has.

    Raises:
        ModelLoadError: If it is not cached and can't be downloaded.
    """
    name, _, revision = source.partition("@")
    return _cached(name, revision, config) or _fetch_config(name, revision, config).parent.name


def is_cached(source: str) -> bool:
    """Whether its configuration is on this machine; never contacts the hub."""
    name, _, revision = source.partition("@")
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json", revision=revision or None)
    return isinstance(found, str)


def config_folder(source: str) -> Path:
    """The snapshot's folder, which contains at least the configuration.

    Raises:
        ModelLoadError: If it can't be downloaded.
    """
    return _fetch_config(repository(source), commit(source), "config.json").parent


def snapshot(
    source: str, config: str = "config.json", check: Callable[[Path], None] = check_folder
) -> Path:
    """A folder with the model's configuration, tokenizer and safetensors weights.

    Args:
        source: The id.
        config: As for ``commit``.
        check: Raises an error if a cached model is incomplete or unsafe.

    Raises:
        ModelLoadError: If they can't be downloaded.
    """
    from huggingface_hub import snapshot_download

    name, found = repository(source), commit(source, config)
    jobs.step(0, 1, f"Downloading {name}")
    try:
        folder = Path(snapshot_download(name, revision=found, local_files_only=True))
        if config == "config.json":
            check(folder)
        elif not any(folder.glob("*.safetensors")):
            raise FileNotFoundError(folder)
    except (OSError, AnalysisError):  # not cached, or not all of it
        folder = Path(_download(name, found))
    if not any(folder.glob("*.safetensors")):
        raise ModelLoadError(
            f"{name} has no safetensors weights; pickled weights can run code and are refused.",
            "Choose another revision, or a copy of the model saved as safetensors.",
        )
    jobs.step(1, 1, f"Downloading {name}")
    return folder


#: ``owner/name``, perhaps a folder in it and a revision; "spaces/" before it names a space.
_PLACE = re.compile(
    r"(?P<space>spaces/)?(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)"
    r"(?P<folder>(/[A-Za-z0-9][\w.-]*)*)(@(?P<revision>[\w./-]+))?",
    re.ASCII,
)


def folder_of(place: str, names: Sequence[str]) -> Path:
    """A folder of this machine, or one of the hub whose named files are downloaded.

    Args:
        place: A folder; or ``owner/name``, ``owner/name/folder``, ``spaces/owner/name/folder``,
            each perhaps with ``@revision``.
        names: The files.

    Raises:
        ModelLoadError: If the hub has no such files, or they are not cached and the hub can't be
            reached.
    """
    found = _PLACE.fullmatch(place)
    if found is None or Path(place).expanduser().is_dir():
        return Path(place).expanduser()
    from huggingface_hub import errors, hf_hub_download

    inside, kind = found["folder"].strip("/"), "space" if found["space"] else "model"
    jobs.step(0, 1, f"Downloading {place}")
    try:
        made = [
            hf_hub_download(
                found["repo"], name, subfolder=inside or None, repo_type=kind,
                revision=found["revision"],
            )
            for name in names
        ]  # fmt: skip
    except errors.LocalEntryNotFoundError as error:
        raise ModelLoadError(
            f"There is no folder {place}, it is not in this machine's hub cache, and the hub can't"
            " be reached.",
            "Check the path, or connect this machine (and unset HF_HUB_OFFLINE).",
        ) from error
    except errors.EntryNotFoundError as error:
        raise ModelLoadError(
            f"{place} has no {' or no '.join(names)}.", "Check the folder and the revision."
        ) from error
    except Exception as error:
        raise _hub_error(place, error) from error
    jobs.step(1, 1, f"Downloading {place}")
    return Path(made[0]).parent


def _cached(name: str, revision: str, config: str) -> str:
    from huggingface_hub import try_to_load_from_cache

    if _COMMIT.fullmatch(revision):
        return revision
    path = try_to_load_from_cache(name, config, revision=revision or None)
    return Path(path).parent.name if isinstance(path, str) else ""


def _fetch_config(name: str, revision: str, config: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, config, revision=revision or None))
    except Exception as error:
        raise _hub_error(name, error) from error


def _download(name: str, found: str) -> str:
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(
            name, revision=found, allow_patterns=_WANTED, ignore_patterns=_UNWANTED
        )
    except Exception as error:
        raise _hub_error(name, error) from error


def _hub_error(name: str, error: Exception) -> AnalysisError:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return ModelLoadError(
            f"Access to {name} on the hub is restricted.",
            "Accept its terms on the hub and set HF_TOKEN.",
        )
    if isinstance(error, errors.RepositoryNotFoundError | errors.RevisionNotFoundError):
        return ModelLoadError(
            f"The hub has no {name}, or you have no access to it.",
            "Check the id and revision, and set HF_TOKEN for a private model.",
        )
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(
        error, errors.LocalEntryNotFoundError
    ):
        return ModelLoadError(
            f"{name} has no configuration, so it can't be loaded as a model.",
            "Choose another model; name an adapter as base+adapter.",
        )
    if isinstance(error, OSError) and error.errno is not None and "space" in str(error):
        return ModelLoadError(
            f"The disk is full, so {name} can't be downloaded.", "Free some space."
        )
    return ModelLoadError(
        f"{name} is not in this machine's hub cache, and the hub can't be reached.",
        "Connect this machine (and unset HF_HUB_OFFLINE), or name a local model.",
    )
