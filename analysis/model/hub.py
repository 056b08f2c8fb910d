"""Models from the Hugging Face hub: their commit, and a snapshot of their safe files.

The hub client's own settings apply: its cache folder, its token, ``HF_HUB_OFFLINE``.
Python files and pickles are never downloaded.
"""

from __future__ import annotations

import re
from pathlib import Path

from analysis.contract import jobs
from analysis.errors import AnalysisError, ModelLoadError
from analysis.model import model_files

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


def snapshot(source: str, config: str = "config.json") -> Path:
    """A folder with the model's configuration, tokenizer and safetensors weights.

    Args:
        source: The id.
        config: As for ``commit``.

    Raises:
        ModelLoadError: If they can't be downloaded.
    """
    from huggingface_hub import snapshot_download

    name, found = repository(source), commit(source, config)
    jobs.step(0, 1, f"Downloading {name}")
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
            f"{name} has no safetensors weights; pickled weights can run code and are refused.",
            "Choose another revision, or a copy of the model saved as safetensors.",
        )
    jobs.step(1, 1, f"Downloading {name}")
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
