"""Models from the Hugging Face hub: which commit, and a snapshot of its safe files on disk.

The hub client's own settings hold: its cache folder, its token, ``HF_HUB_OFFLINE``.
Python files and pickles are never even downloaded.
"""

from __future__ import annotations

import re
from pathlib import Path

from analysis.contract import progress
from analysis.errors import AnalysisError, ModelLoadError
from analysis.model import model_files

_WANTED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
#: Other formats of the same weights lie in sub-folders, or beside them under this name.
_UNWANTED = ["*/*", "consolidated*"]
_COMMIT = re.compile(r"[0-9a-f]{40}")


def repository(source: str) -> str:
    """The ``owner/name`` of ``owner/name@revision``."""
    return source.partition("@")[0]


def commit(source: str, config: str = "config.json") -> str:
    """The commit that ``owner/name`` or ``owner/name@revision`` stands for.

    Args:
        source: The id.
        config: The file that every model, or every adapter, has.

    What is cached wins, so a model does not change under a running server; a newer commit
    is taken by naming it, or after the cache is emptied.

    Raises:
        ModelLoadError: If it is neither cached nor to be had.
    """
    name, _, revision = source.partition("@")
    return _cached(name, revision, config) or _fetch_config(name, revision, config).parent.name


def is_cached(source: str) -> bool:
    """Whether its configuration is on this machine; asks no hub."""
    name, _, revision = source.partition("@")
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json", revision=revision or None)
    return isinstance(found, str)


def config_folder(source: str) -> Path:
    """The snapshot's folder, with at least the configuration in it.

    Raises:
        ModelLoadError: If it can't be had.
    """
    return _fetch_config(repository(source), commit(source), "config.json").parent


def snapshot(source: str, config: str = "config.json") -> Path:
    """A folder with the model's configuration, tokenizer and safetensors weights.

    Args:
        source: The id.
        config: As for ``commit``.

    Raises:
        ModelLoadError: If they can't be had.
    """
    from huggingface_hub import snapshot_download

    name, found = repository(source), commit(source, config)
    progress.step(0, 1, f"Fetching {name}")
    try:
        folder = Path(snapshot_download(name, revision=found, local_files_only=True))
        if config == "config.json":
            model_files.check_folder(folder)
        elif not any(folder.glob("*.safetensors")):
            raise FileNotFoundError(folder)
    except (OSError, AnalysisError):  # not cached, or not all of it
        folder = Path(_download(name, found))
    if not any(folder.glob("*.safetensors")):
        raise ModelLoadError(
            f"{name} has no safetensors weights; pickled ones can run code and are not read.",
            "Choose another revision, or a copy of the model that was saved as safetensors.",
        )
    progress.step(1, 1, f"Fetching {name}")
    return folder


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
        raise _explained(name, error) from error


def _download(name: str, found: str) -> str:
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(
            name, revision=found, allow_patterns=_WANTED, ignore_patterns=_UNWANTED
        )
    except Exception as error:
        raise _explained(name, error) from error


def _explained(name: str, error: Exception) -> AnalysisError:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return ModelLoadError(
            f"The hub lets only some people have {name}.",
            "Accept its terms on the hub and set HF_TOKEN.",
        )
    if isinstance(error, errors.RepositoryNotFoundError | errors.RevisionNotFoundError):
        return ModelLoadError(
            f"The hub has no {name}, or none that you may see.",
            "Check the id and revision, and HF_TOKEN for a private model.",
        )
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(
        error, errors.LocalEntryNotFoundError
    ):
        return ModelLoadError(
            f"{name} holds no configuration, so it is no model that can be loaded.",
            "Choose another; an adapter is named as base+adapter.",
        )
    if isinstance(error, OSError) and error.errno is not None and "space" in str(error):
        return ModelLoadError(f"The disk is full, so {name} can't be fetched.", "Free some space.")
    return ModelLoadError(
        f"{name} is not in the hub's cache here and the hub can't be reached.",
        "Connect this machine (and unset HF_HUB_OFFLINE), or name a model that is on it.",
    )
