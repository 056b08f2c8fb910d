"""Writes docs/reference.md and docs/methods.md from the registry, the specs and the tables.

The reference lists every technique with its options, and every table of choices. The other page
explains each lens and flow method. ``python -m tools.reference --write`` writes both. Without
``--write`` the command only says whether they are current.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

from analysis import registry
from analysis.contract.choices import Choice, Choices
from analysis.contract.fields import OptionField, option_fields
from analysis.contract.specs import Spec
from analysis.flow_graph.options import FLOW_METHODS
from analysis.lens.options import DECODERS
from analysis.registry import Technique

DOCS = Path(__file__).resolve().parents[1] / "docs"
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

LENSES = """\
# Lenses and flow methods

This file is generated from the tables of choices: `python -m tools.reference --write`.

A **lens** decodes a state to scores for tokens. A **flow method** says which parts a state is made
of, or which parts a logit depends on. Each section gives the formula, the source, and the cases in
which the method misleads. The [reference](reference.md) lists all other options.

No method proves by itself that a part matters. To test a picture, change the run: set a head to
zero, [patch a state](how-to/patch-a-fact.md), or use the tab *Causal check*, which cuts the drawn
links.

## Lenses

A lens has three options: the **decoder** (below), the [norm](reference.md#choices-norm) and the
[similarity](reference.md#choices-similarity). Start with *Output*, the logit lens. Compare it with
*Learned lens* if the model has one. In a model with tied embeddings, the input and output matrix
are the same, so the decoders that mix them are switched off.

h is a state, N the final norm, U the unembedding, E the input embedding. The statistics of N are
taken from the state that is decoded. So, with *Output*, the last row decodes to the model's own
output.
"""
FLOWS = """\
## Flow methods

y is a state, z one of its parts, x the residual, a what attention or the MLP adds. The shares of
all parts of a state sum to 1. Two methods measure logits instead: *Signed* and *Effect*. In the
formula of *Effect*, a is an edge's attention weight, v the source's value, z the head's mixed
value, m an MLP's output and b its baseline.

| Question | Method |
| --- | --- |
| What is the state made of? | Proximity, Norm, Projection |
| Where do the heads read? | Attention, Rollout, Value-weighted |
| Which parts decode to the same tokens as the state? | KL |
| What adds to the logit directly? | Signed |
| What does the logit depend on? | Effect (the default), or the causal check |
| What did InTraVisTo show? | Residual norm, Hidden KL |
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


def methods() -> str:
    """The page that explains each lens and flow method."""
    lenses, flows = (
        "\n".join(_explained(choice, option) for choice in table.values())
        for table, option in ((DECODERS, "decoder"), (FLOW_METHODS, "method"))
    )
    return "\n".join([LENSES, lenses, FLOWS, flows])


def pages() -> dict[Path, str]:
    """The text of each generated file."""
    return {DOCS / "reference.md": reference(), DOCS / "methods.md": methods()}


def _explained(choice: Choice, option: str) -> str:
    facts = {
        "Option": f'`{option}="{choice.name}"`',
        "Source": choice.source,
        "Needs": "; ".join(need.name for need in choice.needs),
        "Misleads": choice.misleads,
    }
    lines = [f"- **{name}:** {text}" for name, text in facts.items() if text]
    head = f"### {choice.label}\n", f"`{choice.formula}`\n", f"{choice.help}\n"
    return "\n".join([*head, *lines, ""])


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
    """Write the files, or say whether they are current."""
    parser = argparse.ArgumentParser(prog="python -m tools.reference")
    parser.add_argument("--write", action="store_true", help="write the files")
    write = parser.parse_args(arguments).write
    old = [
        path
        for path, text in pages().items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    for path in old:
        if write:
            path.write_text(pages()[path], encoding="utf-8")
        else:
            print(f"docs/{path.name} is not current. Run: python -m tools.reference --write")
    return 0 if write or not old else 1


if __name__ == "__main__":
    sys.exit(main())
