"""``stratascope decode MODEL PROMPT ...`` and the other techniques on a forward pass or a model.

Each technique of ``analysis.registry`` whose subject is a trace is a command. So are the reports on
a model's weights, which take no prompt, and the experiments on two prompts, which take them as
options: ``stratascope sweep MODEL --clean TEXT --corrupted TEXT``. The technique ``run`` is the
command ``generate``. The options are the fields of the spec. Importable without torch: a command
imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable
from dataclasses import is_dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from analysis import registry
from analysis.cli import add_trace_options, trace_options
from analysis.cli import table as lines
from analysis.contract import jobs
from analysis.contract.choices import Choices
from analysis.contract.fields import OptionField, build, option_fields
from analysis.contract.sheets import FLAG, INDEX, PROBABILITY, TEXT, TOKEN, Frame, csv_text
from analysis.contract.specs import Result, Token
from analysis.errors import PromptError, SpecError
from analysis.export.sheets import one_frame
from analysis.registry import Technique
from analysis.tracing.specs import RunResult, RunSpec

#: Techniques on a model that are commands without a prompt, or with prompts among their options.
OF_A_MODEL = (
    "embedding_report", "norm_report", "circuits", "weights", "sweep", "compare_prompts",
    "carry_circuits", "neuron_texts", "component_graph", "suite_effects",
)  # fmt: skip
#: How many tokens ``generate`` adds, and the fields of a run that are no options of it.
TOKENS, _ARGUMENTS = 20, ("model", "text", "token_ids")
#: Options that choose drawn tokens.
_DRAWN = ("temperature", "top_p", "seed")
#: Most probable tokens in the table of steps.
_LISTED = 3


def add_to(commands: Any) -> None:
    """Add a command for each technique to a parser's sub-commands."""
    for technique in registry.TECHNIQUES:
        if technique.subject == "trace" or technique.name in OF_A_MODEL:
            _add(commands, technique)
    _add_generate(commands)


def _add(commands: Any, technique: Technique) -> None:
    summary = (technique.spec.__doc__ or "").splitlines()[0]
    options = [one for one in option_fields(technique.spec) if one.path != "model"]
    traced = technique.subject == "trace"
    name = technique.name.replace("_", "-")
    command = _command(commands, name, summary, _tables(options), prompt=traced)
    if traced:
        add_trace_options(command)
    for option in options:
        _add_option(command, option)
    command.set_defaults(work=partial(run, technique))


def _command(
    commands: Any, name: str, summary: str, below: str, *, prompt: bool
) -> argparse.ArgumentParser:
    """A command with a model, perhaps a prompt, and a shape of its output."""
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=_escaped(summary),
        description=_escaped(summary),
        epilog=_escaped(below),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("model", help="a name, hub id, folder, .gguf file, or base+adapter")
    if prompt:
        text = "the prompt; standard input unless given. Write it before options"
        command.add_argument("prompt", nargs="?", help=text)
    command.add_argument("--dtype", help="float32, bfloat16 or float16")
    command.add_argument("--device", help="cpu, cuda, cuda:N, or spread")
    shape = command.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print all numbers as JSON")
    shape.add_argument("--csv", action="store_true", help="print the table as CSV")
    return command


def _add_generate(commands: Any) -> None:
    """The technique ``run``, whose name belongs to another command."""
    options = [one for one in option_fields(RunSpec) if one.path not in _ARGUMENTS]
    summary = (
        "Generate an answer, greedy or drawn, and show what the model chose from at each step."
    )
    below = "--temperature, --top-p or --seed draw the tokens, unless you give --no-sample."
    command = _command(commands, "generate", summary, below, prompt=True)
    for option in options:
        if option.path == "new_tokens":
            _add_option(command, replace(option, default=TOKENS), "tokens")
        else:
            _add_option(command, option)
    command.add_argument(
        "--take", nargs=2, action="append", default=[], metavar=("STEP", "TEXT"),
        help="at a step of the answer (0: its first token), go on with a token or text of your"
        " own: --take 0 ' London'; #5 is the token with id 5. May be given several times; each"
        " one counts in the answer of those before it",
    )  # fmt: skip
    command.set_defaults(work=generate)


def _add_option(command: argparse.ArgumentParser, option: OptionField, name: str = "") -> None:
    name = name or option.path.replace(".", "-").replace("_", "-")
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
    if not _printed(chosen, model.info, tokens, spec, result):
        _print_table(one_frame(result, tokens))
    return 0


def generate(chosen: argparse.Namespace) -> int:
    """Generate an answer, go on from what the user took, and print each step.

    Raises:
        PromptError: If there is no prompt.
        SpecError: If an option has no such value, or the answer no such step.
    """
    given = {"new_tokens": TOKENS, **vars(chosen), "text": _prompt(chosen.prompt)}
    drawn = {"sample": True} if any(name in given for name in _DRAWN) else {}
    spec = build(RunSpec, {**drawn, **given})
    taken = [(_step(step), text) for step, text in chosen.take]
    import analysis
    from analysis.tracing.generation import branched
    from analysis.tracing.generation import run as run_prompt

    model = analysis.load_model(chosen.model, dtype=chosen.dtype, device=chosen.device)
    with jobs.listening(jobs.on_terminal):
        spec = branched(model, spec, taken)
        found, _ = run_prompt(model, spec)
    if not _printed(chosen, model.info, found.tokens, spec, found):
        print(model.tokenizer.decode(list(found.token_ids[found.prompt_length :])))
        _print_table(_steps(found))
    return 0


def _step(text: str) -> int:
    """The step of ``--take``.

    Raises:
        SpecError: If it is no whole number.
    """
    if not text.isdecimal() or len(text) > 9:
        raise SpecError(f"The step {text[:40]!r} is not a whole number.", "Use 0 or more.")
    return int(text)


def _steps(found: RunResult) -> Frame:
    """The tokens of the answer, and the most probable tokens at each step."""
    names = {token.id: token.text for token in found.vocabulary}
    columns = {
        "step": INDEX, "id": TOKEN, "text": TEXT, "given": FLAG, "probability": PROBABILITY,
    }  # fmt: skip
    for place in range(1, _LISTED + 1):
        columns |= {f"best_{place}": TEXT, f"probability_{place}": PROBABILITY}
    rows = []
    for step, token in enumerate(found.tokens[found.prompt_length :]):
        before = found.prompt_length + step - 1  # the position that predicts the token
        row = [step, token.id, token.text, step < found.given, float(found.next_prob[before])]
        best = zip(found.top_ids[before].tolist(), found.top_probs[before].tolist(), strict=True)
        for one, value in list(best)[:_LISTED]:
            row += [names[one], value]
        rows.append(tuple(row))
    return Frame("steps", columns, rows)


def _printed(
    chosen: argparse.Namespace, info: Any, tokens: tuple[Token, ...], spec: Any, result: Result
) -> bool:
    """Print a result as JSON or CSV, and say whether one of them is wanted."""
    if chosen.json:
        facts = {"model": info, "tokens": tokens, "spec": spec, "result": result}
        print(json.dumps(_plain(facts), ensure_ascii=False))
    elif chosen.csv:
        frame = one_frame(result, tokens)
        print(csv_text(frame.columns, frame.rows).replace("\r\n", "\n"), end="")
    return bool(chosen.json or chosen.csv)


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
