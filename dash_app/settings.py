"""Everything that can be set, from environment variables that start with ``STRATASCOPE_``."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Literal

from filelock import FileLock
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from analysis import paths
from analysis.errors import StoreError

MIB = 1024 * 1024
#: A secret that is given is none that can be guessed.
_UNGUESSED = "^(|.{16,})$"
#: Fewer characters are what a crash left of a key.
_SHORTEST_KEY = 32


class Settings(BaseSettings):
    """The server's settings; each field's description is what ``stratascope settings`` prints."""

    model_config = SettingsConfigDict(env_prefix="STRATASCOPE_", extra="ignore", frozen=True)

    host: str = Field(
        default="127.0.0.1",
        description="Address to listen on; any but loopback needs a login (STRATASCOPE_LOGIN).",
    )
    port: int = Field(
        default=8050, ge=0, le=65535, description="Port to listen on; 0 takes a free one."
    )
    debug: bool = Field(default=False, description="Dash's developer tools; on loopback only.")
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
        description="Device of models whose entry names none: cpu, cuda, cuda:N, or spread"
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
    tasks_mib: int = Field(
        default=512,
        ge=16,
        description="Size limit of finished prompts of suites on disk, in MiB.",
    )
    max_suite_prompts: int = Field(
        default=2000, ge=1, le=2000, description="Most prompts of one suite in the page."
    )
    max_list_kib: int = Field(
        default=1024, ge=1, le=2048, description="Largest list of prompts to upload, in KiB."
    )
    recent_mib: int = Field(
        default=64, ge=1, description="Size limit of recent results in memory, in MiB."
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
        pattern=_UNGUESSED,
        description="Signs sessions and job handles; made once and kept in the data folder if not"
        " given.",
    )
    login: Literal["off", "users", "proxy"] = Field(
        default="off",
        description="Who may use the page: off (whoever reaches it, on loopback only), users"
        " (those of the users file), proxy (whom a trusted proxy names in a header).",
    )
    users_file: Path | None = Field(
        default=None,
        description="File of users and argon2 hashes, kept by 'stratascope users'; users.json in"
        " the data folder if not given.",
    )
    session_hours: float = Field(
        default=12.0, gt=0, le=720, description="Hours after which a user signs in again."
    )
    cookie_secure: bool = Field(
        default=False,
        description="Send the session cookie over https only, even where the server can't tell"
        " that it is behind https.",
    )
    proxy_user_header: str = Field(
        default="X-Forwarded-User",
        pattern=r"^[A-Za-z][A-Za-z0-9-]*$",
        description="Header in which a trusted proxy names the user, for STRATASCOPE_LOGIN=proxy.",
    )
    trusted_proxies: str = Field(
        default="",
        description="Addresses or networks of proxies whose X-Forwarded-For, X-Forwarded-Proto and"
        " user header are believed, separated by commas; nobody's if not given.",
    )
    allowed_hosts: str = Field(
        default="",
        description="Names under which the page may be asked for, separated by commas; if not"
        " given, without a login only this machine's own, else any.",
    )
    requests_per_minute: int = Field(
        default=3000,
        ge=10,
        description="Requests a person may make in a minute (a click makes several); asking how a"
        " run goes is counted apart. Without a login, an address may make ten times as many.",
    )
    login_attempts: int = Field(
        default=10,
        ge=1,
        description="Failed sign-ins from one address in five minutes before it has to wait.",
    )
    max_body_kib: int = Field(default=4096, ge=64, description="Largest body of a request, in KiB.")
    max_url_kib: int = Field(
        default=192,
        ge=8,
        le=1024,
        description="Longest address of a request, in KiB; it holds the prompt.",
    )
    max_jobs: int = Field(
        default=64, ge=1, description="Runs that may be under way or wait, for all together."
    )
    max_queue: int = Field(default=200, ge=1, description="Computations that may wait.")
    redis_url: str = Field(
        default="",
        repr=False,
        description="Where web processes and 'stratascope worker' meet: redis://host:6379/0,"
        " rediss://... or unix:///path; if not given, this process has a model worker of its own.",
    )
    redis_prefix: str = Field(
        default="stratascope:",
        description="Put before every key in Redis, so that several installations can share one.",
    )
    web_processes: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Web processes; more than one needs STRATASCOPE_REDIS_URL.",
    )
    grace_s: float = Field(
        default=10.0,
        ge=0,
        le=600,
        description="Seconds that runs have to finish when the server is told to stop.",
    )
    ops_token: str = Field(
        default="",
        repr=False,
        pattern=_UNGUESSED,
        description="Lets others than loopback read /readyz and /metrics, sent as"
        " 'Authorization: Bearer'.",
    )
    log_format: Literal["auto", "json", "text"] = Field(
        default="auto", description="Log lines as JSON or text; auto: text on a terminal."
    )
    log_users: Literal["hash", "name"] = Field(
        default="hash", description="Whether the log names users, or only a hash of each name."
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
    """The key in a file; made there by one process, whole, where others start at once."""
    if found := _read(path):
        return found
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock", timeout=10, mode=0o600):
        return _read(path) or _made(path)


def _read(path: Path) -> str:
    """The key in a file; empty where there is none, or only part of one."""
    try:
        kept = path.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        return ""
    return kept if len(kept) >= _SHORTEST_KEY else ""


def _made(path: Path) -> str:
    fresh = secrets.token_urlsafe(32)
    half = path.with_name(f".{path.name}.part")
    half.unlink(missing_ok=True)
    handle = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(fresh)
        file.flush()
        os.fsync(file.fileno())
    half.replace(path)
    return fresh
