"""Writes docs/reference.md: every technique with its options, and every table of choices.

``python -m tools.reference --write`` writes the file. Without ``--write`` the command only says
whether the file is current. All of it comes from the registry, the specs and the tables.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

from analysis import registry
from analysis.contract.choices import Choices
from analysis.contract.fields import OptionField, option_fields
from analysis.contract.specs import Spec
from analysis.registry import Technique

FILE = Path(__file__).resolve().parents[1] / "docs" / "reference.md"
#: Modules whose tables are listed even where no spec of a technique names them.
MODULES = (
    "analysis.lens.options",
    "analysis.flow_graph.options",
    "analysis.tracing.interventions",
    "analysis.weights.specs",
    "dash_app.state.options",
)
INTRODUCTION = """\
# Reference

This file is generated: `python -m tools.reference --write`.

[Techniques](#techniques) lists every technique with its options. A technique of the subject *trace*
is also a command: `stratascope NAME MODEL PROMPT --option value`; reports on a model are commands
without a prompt. [Choices](#choices) lists the
values of each option with formula, source and needs.
"""


def tables() -> list[Choices[Any]]:
    """Every table of choices once, in the order of the techniques and then of the modules."""
    named = [
        field.choices
        for technique in registry.TECHNIQUES
        for field in option_fields(technique.spec)
        if field.choices is not None
    ]
    listed = [
        value
        for module in MODULES
        for value in vars(import_module(module)).values()
        if isinstance(value, Choices)
    ]
    return list({id(table): table for table in (*named, *listed)}.values())


def reference() -> str:
    """The whole file."""
    parts = [INTRODUCTION, "## Techniques\n"]
    parts += [_technique(technique) for technique in registry.TECHNIQUES]
    parts += ["## Choices\n", *map(_table, tables())]
    return "\n".join(parts)


def _technique(technique: Technique) -> str:
    summary = (technique.spec.__doc__ or "").splitlines()[0]
    lines = [
        f"### {technique.name}\n",
        f"{summary} Subject: {technique.subject}. Spec: `{technique.spec.__name__}`."
        f" Result: `{technique.result.__name__}`.\n",
    ]
    rows = list(_options(technique.spec))
    return "\n".join(
        [*lines, *(_rows(("Option", "Type", "Default", "Meaning"), rows) if rows else ())]
    )


def _options(spec: type[Spec[Any]]) -> Iterator[tuple[str, ...]]:
    """A row for each option; one row for all options of a spec inside it."""
    inner = {
        name: technique.name
        for name, kind in get_type_hints(spec).items()
        for technique in registry.TECHNIQUES
        if technique.spec is kind
    }
    for name, technique_name in inner.items():
        link = f"[{technique_name}](#{technique_name})"
        yield f"`{name}`", link, "", f"All options of {technique_name}, as `{name}.…`."
    for option in option_fields(spec):
        if option.path.partition(".")[0] not in inner:
            yield _option(option)


def _option(option: OptionField) -> tuple[str, ...]:
    kind = f"{option.kind.__name__}{', several' if option.many else ''}"
    if option.choices is not None:
        kind = f"[{option.choices.option}](#choices-{option.choices.option.replace(' ', '-')})"
    default = "required" if option.required else _value(option.default)
    return f"`{option.path}`", kind, default, option.help


def _value(value: Any) -> str:
    if value is None or value in ((), ""):
        return ""
    return " ".join(f"`{part}`" for part in (value if isinstance(value, tuple) else (value,)))


def _table(table: Choices[Any]) -> str:
    rows = (
        (
            f"`{name}`" if name else "(empty)",
            choice.label,
            choice.formula,
            choice.help,
            choice.source,
            "; ".join(need.name for need in choice.needs),
        )
        for name, choice in table.items()
    )
    head = ("Value", "Label", "Formula", "Meaning", "Source", "Needs")
    return "\n".join([f"### Choices: {table.option}\n", f"{table.help}\n", *_rows(head, rows)])


def _rows(head: tuple[str, ...], rows: Any) -> Iterator[str]:
    """A Markdown table, with a blank line after it."""
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
    yield ""


def main(arguments: list[str] | None = None) -> int:
    """Write the file, or say whether it is current."""
    parser = argparse.ArgumentParser(prog="python -m tools.reference")
    parser.add_argument("--write", action="store_true", help="write docs/reference.md")
    text = reference()
    if parser.parse_args(arguments).write:
        FILE.write_text(text, encoding="utf-8")
        return 0
    current = FILE.is_file() and FILE.read_text(encoding="utf-8") == text
    if not current:
        print("docs/reference.md is not current. Run: python -m tools.reference --write")
    return 0 if current else 1


if __name__ == "__main__":
    sys.exit(main())
