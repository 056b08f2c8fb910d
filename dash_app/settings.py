"""The settings, from environment variables that start with ``STRATASCOPE_``."""

from __future__ import annotations

import hmac
import os
import secrets
from pathlib import Path
from typing import Literal

from filelock import FileLock
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from analysis import paths
from analysis.errors import StoreError
from analysis.worker.messages import Limits

MIB = 1024 * 1024
#: In an installed package ``dash_app/assets``, in a checkout ``assets`` beside ``dash_app``.
ASSETS = next(
    folder / "assets"
    for folder in Path(__file__).resolve().parents[:2]
    if (folder / "assets").is_dir()
)
_DEFAULT = Limits()
#: A given secret must be too long to guess.
_LONG_OR_EMPTY = "^(|.{16,})$"
#: A stored key with fewer characters was truncated by a crash.
_SHORTEST_KEY = 32


class Settings(BaseSettings):
    """The server's settings; ``stratascope settings`` prints the descriptions."""

    model_config = SettingsConfigDict(
        env_prefix="STRATASCOPE_", env_ignore_empty=True, extra="ignore", frozen=True
    )

    host: str = Field(
        default="127.0.0.1",
        description="Address to listen on. Any address except loopback needs STRATASCOPE_LOGIN.",
    )
    port: int = Field(default=8050, ge=0, le=65535, description="Port to listen on; 0: a free one.")
    url_prefix: str = Field(
        default="/",
        pattern=r"^/([A-Za-z0-9._~-]+/)*$",
        description="Path below which a proxy serves the page, such as /stratascope/.",
    )
    debug: bool = Field(
        default=False, description="Switch on Dash's developer tools; on loopback only."
    )
    threads: int = Field(
        default=16, ge=2, le=256, description="Number of threads that answer requests."
    )
    default_model: str = Field(
        default="smollm2-135m-instruct", description="The model that the page opens with."
    )
    models: str = Field(
        default="",
        description="Further models: hub ids, folders or .gguf files, or name=source, separated"
        " by commas.",
    )
    catalog: str = Field(
        default="", description="A TOML file that lists the models to offer and how to load each."
    )
    dtype: str = Field(
        default="",
        pattern="^(|float32|float16|bfloat16)$",
        description="Dtype of models whose entry sets none. Default: float32.",
    )
    device: str = Field(
        default="",
        description="Device of models whose entry sets none: cpu, cuda, cuda:N, or spread"
        " (all CUDA devices together). Default: the best device.",
    )
    max_prompt_tokens: int = Field(
        default=_DEFAULT.max_prompt_tokens, ge=1, le=8192, description="Longest prompt, in tokens."
    )
    max_new_tokens: int = Field(
        default=_DEFAULT.max_new_tokens,
        ge=0,
        le=1024,
        description="Most tokens to generate after a prompt.",
    )
    deadline_s: float = Field(
        default=_DEFAULT.deadline_s,
        gt=0,
        description="Longest computing time of one request, in seconds, without time in the queue.",
    )
    worker_silence_s: float = Field(
        default=_DEFAULT.silence_s,
        ge=2,
        le=3600,
        description="Seconds without a sign of life after which the model worker is replaced.",
    )
    poll_ms: int = Field(
        default=150,
        ge=20,
        le=5000,
        description="Time between two polls of a running job, in milliseconds.",
    )
    memo_mib: int = Field(
        default=_DEFAULT.memo_bytes // MIB,
        ge=16,
        description="Size limit of the memo on disk, in MiB.",
    )
    tasks_mib: int = Field(
        default=_DEFAULT.task_bytes // MIB,
        ge=16,
        description="Size limit of stored outcomes of suite prompts, in MiB.",
    )
    max_suite_prompts: int = Field(
        default=_DEFAULT.max_suite_prompts,
        ge=1,
        le=2000,
        description="Most prompts of one suite in the page.",
    )
    max_list_kib: int = Field(
        default=1024,
        ge=1,
        le=2048,
        description="Largest list of prompts that can be uploaded, in KiB.",
    )
    history_entries: int = Field(
        default=2000,
        ge=10,
        le=100_000,
        description="Most runs and views in collections that the history keeps for each user.",
    )
    history_mib: int = Field(
        default=64,
        ge=1,
        le=4096,
        description="Size limit of each user's runs and views in collections, in MiB.",
    )
    recent_mib: int = Field(
        default=_DEFAULT.recent_bytes // MIB,
        ge=1,
        description="Size limit of recent results in memory, in MiB.",
    )
    traces_mib: int = Field(
        default=_DEFAULT.trace_bytes // MIB,
        ge=16,
        description="Size limit of recent traces in memory, in MiB.",
    )
    resident_mib: int = Field(
        default=_DEFAULT.model_bytes // MIB,
        ge=64,
        description="Size limit of resident models, in MiB.",
    )
    data_dir: Path = Field(
        default_factory=paths.data_dir,
        description="Folder for converted models, lenses, users and the secret key.",
    )
    cache_dir: Path = Field(
        default_factory=paths.cache_dir, description="Folder for memoised results and jobs."
    )
    secret_key: str = Field(
        default="",
        repr=False,
        pattern=_LONG_OR_EMPTY,
        description="Key that signs sessions and job handles. Default: one is generated and stored"
        " in the data folder.",
    )
    login: Literal["off", "token", "users", "proxy"] = Field(
        default="off",
        description="Who may use the page. off: everyone, on loopback only; token: whoever opens"
        " the address that the server prints; users: those in the users file; proxy: those that a"
        " trusted proxy names in a header.",
    )
    users_file: Path | None = Field(
        default=None,
        description="File of users and argon2 hashes, written by 'stratascope users'. Default:"
        " users.json in the data folder.",
    )
    session_hours: float = Field(
        default=12.0, gt=0, le=720, description="Hours until a user must sign in again."
    )
    cookie_secure: bool = Field(
        default=False,
        description="Send the session cookie over https only, even if the server can't detect"
        " https.",
    )
    proxy_user_header: str = Field(
        default="X-Forwarded-User",
        pattern=r"^[A-Za-z][A-Za-z0-9-]*$",
        description="Header in which a trusted proxy names the user, for STRATASCOPE_LOGIN=proxy.",
    )
    trusted_proxies: str = Field(
        default="",
        description="Addresses or networks of proxies whose X-Forwarded-For, X-Forwarded-Proto and"
        " user header are trusted, separated by commas. Default: none.",
    )
    allowed_hosts: str = Field(
        default="",
        description="Host names under which the page answers, separated by commas. Default: any"
        " with a login, only loopback names without.",
    )
    requests_per_minute: int = Field(
        default=3000,
        ge=10,
        description="Requests per user and minute (a click makes several); polls have their own"
        " limit. Without a login, an address may make ten times as many.",
    )
    login_attempts: int = Field(
        default=10,
        ge=1,
        description="Failed sign-ins from one address in five minutes before it must wait.",
    )
    max_body_kib: int = Field(default=4096, ge=64, description="Largest body of a request, in KiB.")
    max_url_kib: int = Field(
        default=192,
        ge=8,
        le=1024,
        description="Longest URL of a request, in KiB; the URL contains the prompt.",
    )
    max_jobs: int = Field(
        default=64, ge=1, description="Most runs of all users together that may run or wait."
    )
    max_queue: int = Field(
        default=_DEFAULT.max_queue, ge=1, description="Most computations that wait."
    )
    redis_url: str = Field(
        default="",
        repr=False,
        description="Redis that web processes and 'stratascope worker' share: redis://host:6379/0,"
        " rediss://... or unix:///path. Default: none; this process starts a model worker.",
    )
    redis_prefix: str = Field(
        default="stratascope:",
        description="Prefix of every key in Redis, so that several installations can share it.",
    )
    web_processes: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Number of web processes; more than one needs STRATASCOPE_REDIS_URL.",
    )
    grace_s: float = Field(
        default=10.0,
        ge=0,
        le=600,
        description="Seconds that a stopping server gives to running work.",
    )
    ops_token: str = Field(
        default="",
        repr=False,
        pattern=_LONG_OR_EMPTY,
        description="Token that gives addresses other than loopback access to /readyz and"
        " /metrics, sent as 'Authorization: Bearer'.",
    )
    log_format: Literal["auto", "json", "text"] = Field(
        default="auto", description="Format of the log; auto: text on a terminal, else JSON."
    )
    log_users: Literal["hash", "name"] = Field(
        default="hash", description="How the log shows users: a hash of the name, or the name."
    )

    def limits(self) -> Limits:
        """The limits as the service and its workers take them, in bytes and seconds."""
        return Limits(
            max_prompt_tokens=self.max_prompt_tokens,
            max_new_tokens=self.max_new_tokens,
            max_suite_prompts=self.max_suite_prompts,
            silence_s=self.worker_silence_s,
            max_queue=self.max_queue,
            deadline_s=self.deadline_s,
            model_bytes=self.resident_mib * MIB,
            trace_bytes=self.traces_mib * MIB,
            recent_bytes=self.recent_mib * MIB,
            memo_bytes=self.memo_mib * MIB,
            task_bytes=self.tasks_mib * MIB,
        )


def access_token(settings: Settings) -> str:
    """The token in the address that the server prints, for ``STRATASCOPE_LOGIN=token``."""
    key = secret(settings).encode()
    return hmac.digest(key, b"token of the printed address", "sha256").hex()[:32]


def secret(settings: Settings) -> str:
    """The key that signs sessions and job handles: the one set, else a stored one.

    Raises:
        StoreError: If the data folder can't be written.
    """
    if settings.secret_key:
        return settings.secret_key
    path = settings.data_dir / "secret-key"
    try:
        return _stored_key(path)
    except OSError as error:
        raise StoreError(
            f"The folder {settings.data_dir} can't be written to ({error.strerror}).",
            "Set STRATASCOPE_DATA_DIR to a writable folder, or set STRATASCOPE_SECRET_KEY.",
        ) from error


def _stored_key(path: Path) -> str:
    """The key in the file. If it is missing, one process generates it and the others wait."""
    if found := _read(path):
        return found
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock", timeout=10, mode=0o600):
        return _read(path) or _new_key(path)


def _read(path: Path) -> str:
    """The key in the file; empty if the file is missing or truncated."""
    try:
        key = path.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        return ""
    return key if len(key) >= _SHORTEST_KEY else ""


def _new_key(path: Path) -> str:
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
