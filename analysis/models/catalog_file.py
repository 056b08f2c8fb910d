"""The catalogue in a settings file: which models a server offers, and how it loads them.

    builtin = false            # leave the built-in model out; true unless said

    [[model]]
    name = "smol"
    title = "SmolLM2 135M"
    source = "HuggingFaceTB/SmolLM2-135M"   # hub id, folder, .gguf file, base+adapter
    revision = "v1.0"          # of a hub id
    dtype = "bfloat16"         # float32, float16, bfloat16
    device = "cuda:0"          # cpu, cuda, cuda:N, spread
    quantise = "4bit"          # 8bit or 4bit, by bitsandbytes
    adapter = "adapters/mine"  # a LoRA adapter: folder or hub id

``STRATASCOPE_CATALOG`` names the file; paths in it are relative to it.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from analysis.errors import UnknownModelError

SETTING = "STRATASCOPE_CATALOG"
_KEYS = ("name", "title", "source", "revision", "dtype", "device", "quantise", "adapter")
_HOW = f"A [[model]] has name and source, and may have {', '.join(_KEYS[3:])} and title."


@dataclass(frozen=True, slots=True)
class Row:
    """One ``[[model]]``: its values as text, and its place for messages."""

    values: tuple[tuple[str, str], ...]
    place: str


def rows() -> tuple[tuple[Row, ...], bool]:
    """The tables of the file that the setting names, and whether the built-in model is offered.

    Raises:
        UnknownModelError: With the file, the line and the reason.
    """
    named = os.environ.get(SETTING, "").strip()
    if not named:
        return (), True
    path = Path(named).expanduser().absolute()
    try:
        found = path.stat()
    except OSError as error:
        raise UnknownModelError(
            f"The catalogue {path} can't be read ({error.strerror}).", f"Check {SETTING}."
        ) from error
    return _read(path, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=4)
def _read(path: Path, _time: int, _size: int) -> tuple[tuple[Row, ...], bool]:
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except (OSError, ValueError) as error:  # tomllib names line and column itself
        raise UnknownModelError(f"The catalogue {path} can't be read: {error}.", _HOW) from error
    unknown = sorted(set(content) - {"model", "builtin"})
    tables = content.get("model", [])
    if (
        unknown
        or not isinstance(tables, list)
        or not isinstance(content.get("builtin", True), bool)
    ):
        what = f"has a key {unknown[0]!r}" if unknown else "is not a list of [[model]]"
        raise UnknownModelError(f"The catalogue {path} {what}.", _HOW)
    lines = [
        at for at, line in enumerate(text.splitlines(), 1) if re.match(r"\s*\[\[model\]\]", line)
    ]
    lines += [0] * (len(tables) - len(lines))
    made = [_row(path, line, table) for line, table in zip(lines, tables, strict=False)]
    return tuple(made), bool(content.get("builtin", True))


def _row(path: Path, line: int, table: Any) -> Row:
    values = table if isinstance(table, dict) else {}
    place = f"{path.name} line {line}, model {values.get('name', '(no name)')!r}"
    for key, value in values.items():
        if key not in _KEYS:
            raise UnknownModelError(f"{place} has an unknown key {key!r}.", _HOW)
        if not isinstance(value, str) or not value.strip():
            raise UnknownModelError(f"{place}: {key} must be a text.", _HOW)
    for key in ("name", "source"):
        if key not in values:
            raise UnknownModelError(f"{place} has no {key}.", _HOW)
    if "=" in values["name"]:
        raise UnknownModelError(f"{place}: a name can't hold '='.", "Choose another name.")
    made = {**values, "source": _from(path.parent, values["source"])}
    if "adapter" in values:
        made["adapter"] = _from(path.parent, values["adapter"])
    return Row(tuple(made.items()), place)


def _from(folder: Path, source: str) -> str:
    """A path in the file is relative to the file; what is there wins over a hub id."""
    beside = folder / Path(source).expanduser()
    return str(beside) if beside.exists() or source.startswith(("./", "../", "~")) else source
