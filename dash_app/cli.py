"""The ``stratascope`` command."""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Sequence
from typing import Any, TextIO

from pydantic import ValidationError

from analysis import cli as model_commands
from analysis import technique_commands
from analysis.errors import AnalysisError
from analysis.lens_training import commands as lens_commands
from analysis.tasks import commands as task_commands
from dash_app.security import users as user_commands
from dash_app.security.clients import check as check_binding
from dash_app.server import cache_commands, run_command
from dash_app.settings import Settings


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
    cache_commands.add_to(commands)
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
