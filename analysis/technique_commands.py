"""``stratascope decode MODEL PROMPT ...`` and the other techniques on a forward pass or a model.

Each technique of ``analysis.registry`` whose subject is a trace is a command. So are the reports on
a model's weights, which take no prompt, and the experiments on two prompts, which take them as
options: ``stratascope sweep MODEL --clean TEXT --corrupted TEXT``. The options are the fields of
the spec. Importable without torch: a command imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable
from dataclasses import is_dataclass
from functools import partial
from typing import Any

import numpy as np

from analysis import registry
from analysis.cli import add_trace_options, trace_options
from analysis.cli import table as lines
from analysis.contract import jobs
from analysis.contract.choices import Choices
from analysis.contract.fields import OptionField, build, option_fields
from analysis.contract.sheets import Frame, csv_text
from analysis.contract.specs import Result, Token
from analysis.errors import PromptError
from analysis.export.sheets import one_frame
from analysis.registry import Technique

#: Techniques on a model that are commands without a prompt, or with prompts among their options.
OF_A_MODEL = (
    "embedding_report", "norm_report", "circuits", "weights", "sweep", "compare_prompts",
    "carry_circuits", "neuron_texts", "component_graph",
)  # fmt: skip


def add_to(commands: Any) -> None:
    """Add a command for each technique to a parser's sub-commands."""
    for technique in registry.TECHNIQUES:
        if technique.subject == "trace" or technique.name in OF_A_MODEL:
            _add(commands, technique)


def _add(commands: Any, technique: Technique) -> None:
    summary = (technique.spec.__doc__ or "").splitlines()[0]
    options = [one for one in option_fields(technique.spec) if one.path != "model"]
    command = commands.add_parser(
        technique.name.replace("_", "-"),
        help=_escaped(summary),
        description=_escaped(summary),
        epilog=_escaped(_tables(options)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("model", help="a name, hub id, folder, .gguf file, or base+adapter")
    if technique.subject == "trace":
        text = "the prompt; standard input unless given. Write it before options"
        command.add_argument("prompt", nargs="?", help=text)
    command.add_argument("--dtype", help="float32, bfloat16 or float16")
    command.add_argument("--device", help="cpu, cuda, cuda:N, or spread")
    if technique.subject == "trace":
        add_trace_options(command)
    shape = command.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print all numbers as JSON")
    shape.add_argument("--csv", action="store_true", help="print the table as CSV")
    for option in options:
        _add_option(command, option)
    command.set_defaults(work=partial(run, technique))


def _add_option(command: argparse.ArgumentParser, option: OptionField) -> None:
    name = option.path.replace(".", "-").replace("_", "-")
    more: dict[str, Any] = {"required": True} if option.required else {}
    if option.kind is bool:
        more["action"] = argparse.BooleanOptionalAction
    else:
        more.update(type=option.kind, metavar=option.kind.__name__.upper())
        if option.many:
            more["nargs"] = "+"
        if option.choices is not None:
            more.update(choices=tuple(option.choices), metavar=name.upper())
    command.add_argument(
        f"--{name}", dest=option.path, default=argparse.SUPPRESS, help=_help(option), **more
    )


def _help(option: OptionField) -> str:
    if option.required or option.default in (None, ()):
        return _escaped(option.help)
    many = isinstance(option.default, tuple)
    default = " ".join(map(str, option.default)) if many else option.default
    return _escaped(f"{option.help} Default: {default}.")


def _tables(options: Iterable[OptionField]) -> str:
    """The choices of all options, each table once."""
    tables = {id(one.choices): one for one in options if one.choices is not None}
    return "\n\n".join(_listed(one.path, one.choices) for one in tables.values() if one.choices)


def _listed(path: str, table: Choices[Any]) -> str:
    width = max(map(len, table))
    lines = [f"  {name:<{width}}  {choice.summary}" for name, choice in table.items()]
    return "\n".join([f"choices of {path}:", *lines])


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def run(technique: Technique, chosen: argparse.Namespace) -> int:
    """Load the model, run the prompt, apply the technique and print the result.

    Raises:
        PromptError: If there is no prompt.
        SpecError: If an option has no such value.
    """
    # First, so that a wrong option fails before the model is loaded.
    spec, traced = build(technique.spec, vars(chosen)), technique.subject == "trace"
    options = trace_options(chosen) if traced else {}
    prompt = _prompt(chosen.prompt) if traced else ""
    import analysis

    model = analysis.load_model(chosen.model, dtype=chosen.dtype, device=chosen.device)
    tokens: tuple[Token, ...] = ()
    with jobs.listening(jobs.on_terminal):
        if traced:
            trace = analysis.trace(model, prompt, **options)
            result: Result = technique.load()(model, trace, spec)
            tokens = trace.tokens
        else:
            result = technique.load()(model, spec)
    if chosen.json:
        facts = {"model": model.info, "tokens": tokens, "spec": spec, "result": result}
        print(json.dumps(_plain(facts), ensure_ascii=False))
    elif chosen.csv:
        frame = one_frame(result, tokens)
        print(csv_text(frame.columns, frame.rows).replace("\r\n", "\n"), end="")
    else:
        _print_table(one_frame(result, tokens))
    return 0


def _prompt(text: str | None) -> str:
    """The argument, or standard input without its last line break.

    Raises:
        PromptError: If there is neither, or it is empty.
    """
    if text is None and not sys.stdin.isatty():
        text = sys.stdin.read().removesuffix("\n")
    if not text:
        raise PromptError(
            "There is no prompt.", "Write it after the model, or send it to standard input."
        )
    return text


def _plain(value: Any) -> Any:
    """Any value as JSON has it; NaN and infinity become null."""
    if isinstance(value, Result):
        value = value.as_dict()
    elif is_dataclass(value):
        value = {name: getattr(value, name) for name in value.__dataclass_fields__}
    elif hasattr(value, "_asdict"):
        value = value._asdict()
    elif isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print_table(frame: Frame) -> None:
    rows = [[_text(cell) for cell in row] for row in frame.rows]
    print("\n".join(lines(tuple(frame.columns), rows)))


def _text(cell: Any) -> str:
    """Numbers with four digits; line breaks and spaces of tokens made visible."""
    if isinstance(cell, float | np.floating):
        return "" if math.isnan(cell) else f"{cell:.4g}"
    if isinstance(cell, str):
        return cell if cell.strip() == cell and cell.isprintable() else repr(cell)
    return "" if cell is None else str(cell)
