"""A result as a data frame, as a file, and as a summary for notebooks."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from html import escape
from importlib import import_module
from importlib.util import find_spec
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np

from analysis import codec
from analysis.contract.sheets import FLAG, TEXT, WHOLE, Frame
from analysis.contract.specs import SCHEMA, Result, Token
from analysis.errors import MissingPackageError, SpecError, StoreError
from analysis.export.recipes import Recipe, versions
from analysis.export.sheets import SHEETS, one_frame, sheets_of
from analysis.flow_graph.options import FLOW_METHODS
from analysis.flow_graph.results import Graph

#: The module that draws results, of the package with the page.
_PICTURES = "dash_app.pictures.results"
#: Rows and columns of the table in a summary.
_ROWS, _COLUMNS = 8, 12
#: Characters of a trace's text in its summary.
_TEXT = 200


def tables(result: Result) -> tuple[str, ...]:
    """The names of a result's tables, the main one first."""
    return tuple(sheet.name for sheet in sheets_of(result))


def data_frame(result: Result, tokens: Sequence[Token] = (), sheet: str = "") -> Any:
    """``Result.to_dataframe``."""
    if find_spec("pandas") is None:
        raise MissingPackageError(
            "Data frames need the package pandas, which is not installed.",
            "Install it: pip install 'stratascope[pandas]'.",
        )
    return _pandas_frame(one_frame(result, tokens, sheet))


def _pandas_frame(frame: Frame) -> Any:
    """Whole numbers as Int64, which has a missing value; the others as float64, bool or text."""
    import pandas

    columns = {}
    for at, (name, unit) in enumerate(frame.columns.items()):
        values = [row[at] for row in frame.rows]
        whole = unit in WHOLE and not any(isinstance(value, float) for value in values)
        kind = "Int64" if whole else {TEXT: "object", FLAG: "boolean"}.get(unit, "float64")
        columns[name] = pandas.array(values, dtype=kind)
    found = pandas.DataFrame(columns)
    found.attrs = {"table": frame.name, "units": dict(frame.columns)}
    return found


def plot(result: Result, *given: Any, **options: Any) -> Any:
    """``Result.plot``."""
    return _drawing("plot")(result, *given, **options)


def _drawing(function: str) -> Any:
    """A function that draws results. The page has it, which this package never imports."""
    try:
        return getattr(import_module(_PICTURES), function)
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"Pictures need the package {error.name}, which is not installed.",
            "Install it: pip install 'stratascope[plot]'.",
        ) from error


def save(result: Result, path: str | PathLike[str], recipe: Any = None) -> None:
    """``Result.save``."""
    if recipe is not None and not isinstance(recipe, Recipe):
        raise SpecError(
            f"The recipe can't be {type(recipe).__name__}.", "Give the value of analysis.recipe."
        )
    about = {"schema": SCHEMA, "versions": versions()}
    data = codec.encode(result, about=about | ({"recipe": recipe.as_json()} if recipe else {}))
    try:
        Path(path).write_bytes(data)
    except OSError as error:
        raise StoreError(
            f"{fspath(path)} can't be written: {error.strerror}.", "Choose another path."
        ) from error


def load_result(path: str | PathLike[str]) -> Any:
    """Read a result that ``save`` wrote.

    Args:
        path: The file. It is never executed: arrays are safetensors, the rest is JSON.

    Returns:
        The result; equal to the saved one, array for array.

    Raises:
        StoreError: If there is no such file, it holds no result, or the result has the layout of
            another version.
    """
    data = _bytes(path)
    schema = _about(path, data).get("schema")
    if schema != SCHEMA:
        raise StoreError(
            f"{fspath(path)} has results in layout {schema}; this version reads layout {SCHEMA}.",
            "Compute the result again, or use the version that wrote it.",
        )
    try:
        return codec.decode(data)
    except StoreError as error:
        raise _unreadable(path) from error


def load_recipe(path: str | PathLike[str]) -> Recipe | None:
    """How a saved result was computed; None if its file does not say.

    Raises:
        StoreError: If there is no such file, or it holds no result.
    """
    found = _about(path, _bytes(path)).get("recipe")
    return None if found is None else Recipe.from_json(found)


def _bytes(path: str | PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:  # a path with a null character is a ValueError
        reason = getattr(error, "strerror", None) or "it is no path"
        raise StoreError(f"{fspath(path)!r} can't be read: {reason}.", "Check the path.") from error


def _about(path: str | PathLike[str], data: bytes) -> dict[str, Any]:
    try:
        return codec.about(data)
    except StoreError as error:
        raise _unreadable(path) from error


def _unreadable(path: str | PathLike[str]) -> StoreError:
    return StoreError(
        f"{fspath(path)} holds no result.", "Choose a file that Result.save has written."
    )


#: Colours come from the notebook's own text, so that the summary is readable on any background.
_STYLE = "border-collapse:collapse;font-variant-numeric:tabular-nums;margin:6px 0"
_CELL = "padding:2px 8px;border-bottom:1px solid rgba(128,128,128,.4);text-align:left"


def summary(result: Result) -> str:
    """The summary that a notebook shows: HTML that needs no other file and no script."""
    kind = type(result)
    line = (inspect.getdoc(kind) or "").splitlines()[0]
    parts = [
        f"<b>{escape(kind.__name__)}</b>: {escape(line)}",
        _table(("quantity", "value"), _facts(result)),
    ]
    if kind in SHEETS:
        parts.append(_sheet(result))
    if (
        isinstance(result, Graph)
        and not FLOW_METHODS[result.method].signed
        and find_spec("dash_app")
    ):
        parts.append(plot(result, theme="auto")._repr_html_())
    return f'<div style="color:inherit">{"".join(parts)}</div>'


def trace_summary(trace: Any) -> str:
    """The summary of a trace that a notebook shows, as that of a result."""
    text = "".join(token.text for token in trace.tokens)
    rows, width = trace.resid.shape[0], trace.resid.shape[-1]
    last = trace.logits[-1].astype(np.float64)
    best = int(last.argmax())
    share = 1.0 / np.exp(last - last[best]).sum()
    facts = [
        ("model", trace.info.name if trace.info else ""),
        ("text", _shown(text if len(text) <= _TEXT else f"{text[:_TEXT]}…")),
        ("size", f"{len(trace.tokens)} tokens, {rows} residual rows of width {width}"),
        ("interventions", str(len(trace.interventions))),
        ("next token", f"id {best}, probability {share:.4g}"),
    ]
    table = _table(("quantity", "value"), facts)
    return f'<div style="color:inherit"><b>Trace</b>: one forward pass.{table}</div>'


def _facts(result: Result) -> list[tuple[str, str]]:
    """Numbers and texts as they are, arrays by their shape."""
    facts = []
    for name in result.__dataclass_fields__:  # type: ignore[attr-defined]
        value = getattr(result, name)
        if isinstance(value, np.ndarray):
            shape = " × ".join(map(str, value.shape)) or "one value"
            facts.append((name, f"{value.dtype}, {shape}"))
        elif isinstance(value, Token):
            facts.append((name, _shown(value.text)))
        elif isinstance(value, str | int | float):
            facts.append((name, _shown(value)))
        elif isinstance(value, tuple):
            facts.append((name, f"{len(value)} entries"))
    return facts


def _sheet(result: Result) -> str:
    frame = one_frame(result)
    names = list(frame.columns)[:_COLUMNS]
    head = [_headed(name, frame.columns[name]) for name in names]
    rows = [tuple(map(_shown, row[:_COLUMNS])) for row in frame.rows[:_ROWS]]
    left = f"{len(frame.rows):,} rows, {len(frame.columns)} columns"
    others = ", ".join(tables(result)[1:])
    more = f"; other tables: {others}" if others else ""
    return f"{_table(head, rows)}<small>Table {escape(frame.name)}: {left}{escape(more)}.</small>"


def _headed(name: str, unit: str) -> str:
    return name if unit in (name, TEXT, FLAG) else f"{name} ({unit.partition(',')[0]})"


def _shown(value: Any) -> str:
    """Numbers with four digits; spaces and line breaks of tokens made visible."""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    if isinstance(value, str):
        return value if value.strip() == value and value.isprintable() else repr(value)
    return "" if value is None else str(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = _cells("th", head)
    body = "".join(f"<tr>{_cells('td', row)}</tr>" for row in rows)
    return f'<table style="{_STYLE}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'


def _cells(tag: str, texts: Sequence[str]) -> str:
    return "".join(f'<{tag} style="{_CELL}">{escape(text)}</{tag}>' for text in texts)
