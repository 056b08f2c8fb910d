"""Results as tables: the columns of a table with their units, its rows, and CSV text.

``analysis/export/sheets.py`` declares the tables of every result.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np

#: Units of columns. The first group are whole numbers.
ROW, LAYER, HEAD, POSITION, TOKEN = "row", "layer", "head", "position", "token id"
RANK, COUNT, INDEX = "rank, 0 is best", "count", "index"
PROBABILITY, SHARE, LOGITS, NATS = "probability", "share, 0 to 1", "logits", "nats"
NORM, COSINE, NUMBER = "L2 norm", "cosine, -1 to 1", "number"
TEXT, FLAG = "text", "true or false"
WHOLE = (ROW, LAYER, HEAD, POSITION, TOKEN, RANK, COUNT, INDEX)
FRACTIONS = (PROBABILITY, SHARE, LOGITS, NATS, NORM, COSINE, NUMBER)
UNITS = (*WHOLE, *FRACTIONS, TEXT, FLAG)

#: Characters at which a spreadsheet starts a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
Row = Sequence[Any]
#: Units by the name of their column, in the order of the columns.
Columns = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Sheet:
    """One table of a kind of result.

    Attributes:
        name: Its content, in one word.
        columns: Its columns and their units; a function of the result if they depend on it.
        rows: Gives the rows of a result.
    """

    name: str
    columns: Columns | Callable[[Any], Columns]
    rows: Callable[[Any], Iterable[Row]]

    @property
    def header(self) -> tuple[str, ...]:
        """Names of the columns, of a table whose columns do not depend on the result."""
        return () if callable(self.columns) else tuple(self.columns)

    def columns_of(self, result: Any) -> Columns:
        """The columns of one result."""
        return self.columns(result) if callable(self.columns) else self.columns


class Frame(NamedTuple):
    """One table of one result.

    Attributes:
        name: As in ``Sheet``.
        columns: Units by the name of their column.
        rows: The rows; None and NaN where there is no value.
    """

    name: str
    columns: dict[str, str]
    rows: list[tuple[Any, ...]]


#: Entries of an axis: the field that holds them, a function of the result, or None for 0, 1, 2, ...
Axis = str | Callable[[Any], Sequence[Any]] | None


def cells(
    name: str,
    axes: Mapping[str, tuple[Axis, str]],
    values: Mapping[str, str],
    *,
    fields: Mapping[str, str] | None = None,
) -> Sheet:
    """A table with one row for each cell of some arrays.

    Args:
        name: The table's name.
        axes: For each axis of the arrays, by the name of its column: its entries, and its unit.
        values: The unit of each column of values. An array with fewer axes has the first ones.
            A token's id gets a further column with its text.
        fields: The result's field of a column, if it has another name.
    """
    named = {column: (fields or {}).get(column, column) for column in values}
    columns = {column: unit for column, (_, unit) in axes.items()}
    for column, unit in values.items():
        columns |= {column: unit, **({f"{column}_text": TEXT} if unit == TOKEN else {})}

    def rows(result: Any) -> Iterator[Row]:
        """The rows of the table of one result."""
        arrays = [np.asarray(getattr(result, field), object) for field in named.values()]
        shape = max((array.shape for array in arrays), key=len)
        entries = [_entries(result, axis, size) for (axis, _), size in zip(
            axes.values(), shape, strict=True)]  # fmt: skip
        texts, units = texts_of(result), list(values.values())
        for index in product(*(range(size) for size in shape)):
            row = [entry[at] for entry, at in zip(entries, index, strict=True)]
            for array, unit in zip(arrays, units, strict=True):
                value = array[index[: array.ndim]]
                row += [value, texts.get(value, "")] if unit == TOKEN else [value]
            yield row

    return Sheet(name, columns, rows)


def _entries(result: Any, axis: Axis, size: int) -> Sequence[Any]:
    if axis is None:
        return range(size)
    found = axis(result) if callable(axis) else getattr(result, axis)
    return found.tolist() if isinstance(found, np.ndarray) else list(found)


def texts_of(result: Any) -> dict[int, str]:
    """Texts by id of the tokens that a result names."""
    found: dict[int, str] = {}
    for name in result.__dataclass_fields__:
        value = getattr(result, name)
        for one in value if isinstance(value, tuple) else (value,):
            if hasattr(one, "raw") and hasattr(one, "text"):
                found[one.id] = one.text
    return found


def frame(sheet: Sheet, result: Any, tokens: Sequence[Any] = ()) -> Frame:
    """One table of a result.

    Args:
        sheet: Which.
        result: The result.
        tokens: [pos] of its run: each column of positions then gets a column with their texts.
    """
    columns = dict(sheet.columns_of(result))
    rows = [tuple(_plain(value) for value in row) for row in sheet.rows(result)]
    if not tokens:
        return Frame(sheet.name, columns, rows)
    names = list(columns)
    places = [at for at, name in enumerate(names) if columns[name] == POSITION]
    for at in places:
        columns[_token_column(names[at])] = TEXT
    return Frame(
        sheet.name, columns, [(*row, *(_text(tokens, row[at]) for at in places)) for row in rows]
    )


def _token_column(column: str) -> str:
    """The column of the texts for a column of positions: ``source_pos`` gives ``source_token``."""
    stem = column.removesuffix("position").removesuffix("pos").rstrip("_")
    return f"{stem}_token" if stem else "token"


def _text(tokens: Sequence[Any], position: Any) -> str:
    known = isinstance(position, int) and 0 <= position < len(tokens)
    return str(tokens[position].text) if known else ""


def _plain(value: Any) -> Any:
    """A number of numpy as Python's own, exactly."""
    return value.item() if isinstance(value, np.generic) else value


def csv_text(columns: Iterable[str], rows: Iterable[Row]) -> str:
    """A table as CSV text.

    A text that a spreadsheet would run as a formula gets an apostrophe in front (OWASP, CSV
    injection), as prompts and answers can't be trusted. JSON has it unchanged.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows([_field(value) for value in row] for row in rows)
    return text.getvalue()


def _field(value: Any) -> Any:
    if isinstance(value, str):
        return f"'{value}" if value.lstrip(" ").startswith(_FORMULA) else value
    value = _plain(value)
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value


def for_json(value: Any) -> Any:
    """Any value as JSON has it; NaN and infinity become null."""
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    elif hasattr(value, "_asdict"):
        value = value._asdict()
    elif hasattr(value, "__dataclass_fields__"):
        value = {name: getattr(value, name) for name in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {key: for_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [for_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
