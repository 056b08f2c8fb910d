"""The ``stratascope`` command, with ``stratascope cache``: the results on disk."""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from pydantic import ValidationError

from analysis import cli as model_commands
from analysis import technique_commands
from analysis.contract.specs import SCHEMA
from analysis.errors import AnalysisError
from analysis.lens_training import commands as lens_commands
from analysis.store.memo import Memo
from analysis.tasks import commands as task_commands
from dash_app.security import users as user_commands
from dash_app.security.clients import check as check_binding
from dash_app.server import run_command
from dash_app.settings import MIB, Settings


@dataclass(frozen=True, slots=True)
class Folder:
    """One folder of results.

    Attributes:
        name: What it contains.
        folder: Its path.
        limit: Most bytes in it.
    """

    name: str
    folder: Path
    limit: int


def add_cache_commands_to(commands: Any) -> None:
    """Add ``cache`` to the parser of ``stratascope``."""
    parser = commands.add_parser("cache", help="show or clear the results on disk")
    inner = parser.add_subparsers(dest="cache", required=True)
    info = inner.add_parser("info", help="list folders, entries, sizes and schema")
    info.set_defaults(work=_info)
    clearing = inner.add_parser("clear", help="delete all results, also while the server runs")
    clearing.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    clearing.set_defaults(work=_clear)


def folders(settings: Settings) -> tuple[Folder, ...]:
    """Every folder of results."""
    return (
        Folder("results", settings.cache_dir / "memo", settings.memo_mib * MIB),
        Folder("prompts of suites", settings.cache_dir / "tasks", settings.tasks_mib * MIB),
    )


def _info(_: argparse.Namespace) -> int:
    print(f"Schema {SCHEMA}. Results of other schemas are not used, and are evicted over time.")
    for one in folders(Settings()):
        print(_line(one))
    return 0


def _line(one: Folder) -> str:
    if not one.folder.is_dir():
        return f"{one.name}: empty ({one.folder})"
    memo = Memo(one.folder, one.limit)
    status = memo.status()
    memo.close()
    if status.problem:
        return f"{one.name}: {status.problem}"
    size = f"{status.bytes_used / MIB:.1f} of {one.limit // MIB} MiB"
    return f"{one.name}: {status.entries} entries, {size} ({one.folder})"


def _clear(chosen: argparse.Namespace) -> int:
    found = [one for one in folders(Settings()) if one.folder.is_dir()]
    if not found:
        print("There is nothing to clear.")
        return 0
    for one in found:
        print(_line(one))
    if not (chosen.yes or _confirmed()):
        print("Nothing was cleared.")
        return 1
    for one in found:
        _empty(one)
    print("Cleared. A running server keeps the results that it has in memory.")
    return 0


def _confirmed() -> bool:
    if not sys.stdin.isatty():
        raise AnalysisError("There is no terminal to ask for confirmation.", "Add --yes.")
    return input("Delete all results? [y/N] ").strip().lower() in ("y", "yes")


def _empty(one: Folder) -> None:
    """Delete entry by entry through the database, so that a running server finds a miss."""
    memo = Memo(one.folder, one.limit)
    memo.clear()
    problem = memo.problem
    memo.close()
    if problem:
        raise AnalysisError(problem)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; an error prints a message, never a stack trace.

    Returns:
        The exit status.
    """
    chosen = _parser().parse_args(arguments)
    try:
        if chosen.command == "settings":
            show_settings(sys.stdout)
            return 0
        if hasattr(chosen, "work"):
            return int(chosen.work(chosen))
        return serve(_settings(chosen))
    except ValidationError as error:
        for line in explain_settings(error):
            print(line, file=sys.stderr)
    except (AnalysisError, OSError) as error:
        print(f"stratascope: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stratascope",
        description="Show, layer by layer, how a language model predicts its next token.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    serving = commands.add_parser("serve", help="serve the page (the default command)")
    for command in (parser, serving):
        command.add_argument("--host", default=argparse.SUPPRESS, help="address to listen on")
        command.add_argument("--port", default=argparse.SUPPRESS, help="port; 0 for a free one")
    commands.add_parser("settings", help="list every setting with its meaning and default")
    model_commands.add_to(commands)
    technique_commands.add_to(commands)
    task_commands.add_to(commands)
    user_commands.add_to(commands)
    add_cache_commands_to(commands)
    run_command.add_worker_to(commands)
    run_command.add_to(commands)
    lens_commands.add_to(commands)
    return parser


def _settings(chosen: argparse.Namespace) -> Settings:
    named = {name: getattr(chosen, name) for name in ("host", "port") if hasattr(chosen, name)}
    return Settings(**named)


def show_settings(out: TextIO) -> None:
    """Print every setting: its environment variable, meaning and default."""
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True, validated_data={})
        print(f"STRATASCOPE_{name.upper()}", file=out)
        print(f"    {field.description}", file=out)
        print(f"    Default: {'(none)' if default in ('', None) else default}", file=out)


def explain_settings(error: ValidationError) -> list[str]:
    """The errors in the settings, one line each."""
    return [
        f"stratascope: STRATASCOPE_{name.upper()}{_given(name, problem['input'])}: "
        f"{problem['msg']}. 'stratascope settings' explains it."
        for problem in error.errors()
        for name in [str(problem["loc"][0])]
    ]


def _given(name: str, value: object) -> str:
    """The value of a setting, unless it is a secret."""
    field = Settings.model_fields.get(name)
    return f" is {value!r}" if field is None or field.repr else ""


def serve(settings: Settings) -> int:
    """Serve the page until interrupted: with gunicorn, or with Dash's server on Windows."""
    from dash_app import monitoring

    check_binding(settings)
    monitoring.configure_log(settings)
    settings = settings.model_copy(update={"port": _free_port(settings)})
    if sys.platform == "win32" or settings.debug:
        return _serve_with_dash(settings)
    from dash_app.server.gunicorn import run

    return run(settings)


def _serve_with_dash(settings: Settings) -> int:
    from dash_app.server.server import announce, build

    served = build(settings)
    served.start()
    announce(settings)
    options: dict[str, Any] = {"debug": settings.debug, "use_reloader": False}
    try:
        served.app.run(host=settings.host, port=settings.port, **options)
    finally:
        served.close()
    return 0


def _free_port(settings: Settings) -> int:
    """The port to listen on, tested first so that the error for a taken port is clear.

    Raises:
        AnalysisError: If the server can't listen on it.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise AnalysisError(
                f"Can't listen on {settings.host} port {settings.port}: {error.strerror}.",
                "Set STRATASCOPE_PORT to another port, or to 0 for a free one.",
            ) from error
        return int(probe.getsockname()[1])
