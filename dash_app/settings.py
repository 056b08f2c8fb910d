"""Everything that can be set, from environment variables that start with ``STRATASCOPE_``."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from analysis import paths
from analysis.errors import StoreError

MIB = 1024 * 1024


class Settings(BaseSettings):
    """The server's settings; each field's description is what ``stratascope settings`` prints."""

    model_config = SettingsConfigDict(env_prefix="STRATASCOPE_", extra="ignore", frozen=True)

    host: str = Field(
        default="127.0.0.1", description="Address to listen on; loopback unless changed."
    )
    port: int = Field(
        default=8050, ge=0, le=65535, description="Port to listen on; 0 takes a free one."
    )
    debug: bool = Field(
        default=False, description="Dash's developer tools; never on a shared server."
    )
    threads: int = Field(default=16, ge=2, le=256, description="Threads that answer requests.")
    default_model: str = Field(
        default="smollm2-135m-instruct", description="The model the page opens with."
    )
    models: str = Field(
        default="",
        description="Further models: hub ids, folders or .gguf files, each optionally"
        " name=source, separated by commas.",
    )
    catalog: str = Field(
        default="", description="A TOML file of models on offer, and of how each is loaded."
    )
    dtype: str = Field(
        default="",
        pattern="^(|float32|float16|bfloat16)$",
        description="Dtype of models whose entry names none; float32 if not given.",
    )
    device: str = Field(
        default="",
        description="Device of models whose entry names none: cpu, cuda, cuda:N, mps, or spread"
        " for all CUDA devices together; the best one there if not given.",
    )
    max_prompt_tokens: int = Field(
        default=256, ge=1, le=8192, description="Longest prompt that is run, in tokens."
    )
    max_new_tokens: int = Field(
        default=64, ge=0, le=1024, description="Most tokens that are generated after a prompt."
    )
    deadline_s: float = Field(
        default=600.0,
        gt=0,
        description="Longest computing time of one request, in seconds; time in the queue is free.",
    )
    poll_ms: int = Field(
        default=150,
        ge=20,
        le=5000,
        description="How often the page asks how a run goes, in milliseconds.",
    )
    memo_mib: int = Field(
        default=2048, ge=16, description="Size limit of the memo on disk, in MiB."
    )
    traces_mib: int = Field(
        default=1024, ge=16, description="Size limit of recent traces in memory, in MiB."
    )
    resident_mib: int = Field(
        default=6144, ge=64, description="Size limit of the models kept in memory, in MiB."
    )
    data_dir: Path = Field(
        default_factory=paths.data_dir, description="Folder for converted models and the secret."
    )
    cache_dir: Path = Field(
        default_factory=paths.cache_dir, description="Folder for memoised results and jobs."
    )
    secret_key: str = Field(
        default="",
        repr=False,
        description="Signs job handles; made once and kept in the data folder if not given.",
    )


def secret(settings: Settings) -> str:
    """The key that signs job handles: the one set, else one kept with mode 0600.

    Raises:
        StoreError: If the data folder can't be written.
    """
    if settings.secret_key:
        return settings.secret_key
    path = settings.data_dir / "secret-key"
    try:
        return _kept(path)
    except OSError as error:
        raise StoreError(
            f"The folder {settings.data_dir} can't be written ({error.strerror}).",
            "Set STRATASCOPE_DATA_DIR to a folder that can, or STRATASCOPE_SECRET_KEY.",
        ) from error


def _kept(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = secrets.token_urlsafe(32)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        kept = path.read_text(encoding="ascii", errors="replace").strip()
        if len(kept) >= 32:
            return kept
        path.unlink(missing_ok=True)
        return _kept(path)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(fresh)
    return fresh
