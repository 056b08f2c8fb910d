"""Limits on what a model's files may claim and select, checked before anything is built from them.

A file of a few bytes can claim any size, and a configuration can name code that transformers would
fetch from a hub and run. So sizes are read before contents, and names are compared with lists of
what is allowed. What can only be measured runs in a confined process first.
"""

from __future__ import annotations

import json
import signal
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from analysis.errors import ModelLoadError

#: What a configuration may select. Any other name can refer to code on a hub.
ATTENTION = frozenset(
    ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention", "paged_attention")
)
EXPERTS = frozenset(("eager", "batched_mm", "grouped_mm"))
QUANTISERS = frozenset(("bitsandbytes", "bitsandbytes_4bit", "bitsandbytes_8bit"))
_SELECTS = {
    "attn_implementation": ATTENTION,
    "_attn_implementation": ATTENTION,
    "_attn_implementation_internal": ATTENTION,
    "experts_implementation": EXPERTS,
    "_experts_implementation": EXPERTS,
    "_experts_implementation_internal": EXPERTS,
    "quant_method": QUANTISERS,
}
#: Most layers, experts and labels of a model.
MOST_PARTS = 10_000
#: Largest JSON file and largest header of a weights file, in bytes.
MOST_JSON, MOST_HEADER = 256 << 20, 100 << 20
#: How many times longer a tokenizer may make a text, and the most tokens that it may pad to.
MOST_GROWTH, MOST_PADDING = 64.0, 1 << 20
#: Processor seconds for a pattern or a template of a model.
CPU_S = 10.0

_HINT = "Choose another model, or correct the file if you trust it."
#: The attribute of a stranger's tokenizer: the folder or file that it was read from.
SOURCE = "_stratascope_source"


def check_folder(folder: Path) -> None:
    """Refuse the configuration or the tokenizer of a folder if it goes beyond the limits.

    Raises:
        ModelLoadError: Names the file, the entry and the limit.
    """
    for name in ("config.json", "generation_config.json"):
        if (folder / name).is_file():
            _check_values(folder / name, read_json(folder / name))
    if (folder / "tokenizer.json").is_file():
        _check_tokenizer(folder / "tokenizer.json")


def read_json(path: Path) -> Any:
    """Read a JSON file that is not too large.

    Raises:
        ModelLoadError: If it is larger than ``MOST_JSON``, or not JSON.
    """
    size = path.stat().st_size
    if size > MOST_JSON:
        raise ModelLoadError(f"{path} has {size:,} bytes; at most {MOST_JSON:,} are read.", _HINT)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelLoadError(f"{path} is not JSON.", "Download or copy it again.") from error


def _check_values(path: Path, value: Any) -> None:
    """Check every entry of a configuration, also of the configurations inside it."""
    if isinstance(value, list):
        for item in value:
            _check_values(path, item)
    if not isinstance(value, dict):
        return
    for key, inner in value.items():
        allowed = _SELECTS.get(key)
        if allowed is not None:
            _check_names(path, key, inner, allowed)
        counts = "layer" in key or "expert" in key or key == "num_labels"
        if counts and isinstance(inner, (int, float)) and inner > MOST_PARTS:
            raise ModelLoadError(
                f"{path} claims {inner:,} for {key}; at most {MOST_PARTS:,} are accepted.", _HINT
            )
        _check_values(path, inner)


def _check_names(path: Path, key: str, value: Any, allowed: frozenset[str]) -> None:
    names = value.values() if isinstance(value, dict) else [value]
    for name in names:
        if name is not None and not (isinstance(name, str) and name in allowed):
            raise ModelLoadError(
                f"{path} selects {str(name)[:80]!r} as its {key.strip('_')}. Stratascope runs no"
                " code that a model selects.",
                "Choose a model without this entry, or delete the entry.",
            )


def _check_tokenizer(path: Path) -> None:
    values = read_json(path)
    if not isinstance(values, dict):
        raise ModelLoadError(f"{path} is not a tokenizer.", "Download or copy it again.")
    for part in ("normalizer", "decoder"):
        growth = _growth(values.get(part))
        if growth > MOST_GROWTH:
            raise ModelLoadError(
                f"The {part} in {path} can make a text {growth:.3g} times longer; at most"
                f" {MOST_GROWTH:g} times is accepted.",
                _HINT,
            )
    padding = values.get("padding") or {}
    strategy = padding.get("strategy") if isinstance(padding, dict) else None
    fixed = strategy.get("Fixed") if isinstance(strategy, dict) else 0
    if isinstance(fixed, int) and fixed > MOST_PADDING:
        raise ModelLoadError(
            f"{path} pads to {fixed:,} tokens; at most {MOST_PADDING:,} are accepted.", _HINT
        )


def _growth(part: Any) -> float:
    """How many times longer the replacements of a tokenizer, one after the other, make a text."""
    if not isinstance(part, dict):
        return 1.0
    total = 1.0
    for inner in part.get("normalizers") or part.get("decoders") or ():
        total = min(total * _growth(inner), 1e300)
    if part.get("type") == "Replace":
        pattern = part.get("pattern")
        found = pattern.get("String") if isinstance(pattern, dict) else pattern
        replaced = len(found) if isinstance(found, str) else 1
        total *= max(1.0, len(str(part.get("content", ""))) / max(replaced, 1))
    return total


def guard(tokenizer: Any, source: Path) -> None:
    """Mark a tokenizer: the confined process tries each of its texts and templates first."""
    setattr(tokenizer, SOURCE, str(source))


def try_text(tokenizer: Any, text: str) -> None:
    """Tokenise a text in the confined process, if the tokenizer is marked.

    Raises:
        ModelLoadError: If it goes beyond a limit, or fails.
    """
    source = getattr(tokenizer, SOURCE, None)
    if isinstance(source, str):
        _run("encode", source, text, what="The model's tokenizer")


def try_template(tokenizer: Any, messages: list[dict[str, str]]) -> None:
    """Render the chat template in the confined process, if the tokenizer is marked.

    A template that refuses the messages passes: the caller reports it.

    Raises:
        ModelLoadError: If it goes beyond a limit, or fails.
    """
    if isinstance(getattr(tokenizer, SOURCE, None), str):
        names = {name: str(value) for name, value in tokenizer.special_tokens_map.items()}
        template = tokenizer.get_chat_template()
        _run("render", template, names, messages, what="The model's chat template")


def try_patterns(patterns: list[str], names: list[str]) -> None:
    """Match regular expressions of an adapter with the names of modules.

    Raises:
        ModelLoadError: If it takes too long.
    """
    _run("match", patterns, names, what="A pattern of the adapter")


def _run(function: str, *arguments: Any, what: str) -> None:
    from analysis.model import confined

    confined.run(f"analysis.model.trial:{function}", *arguments, what=what, cpu_s=CPU_S)


@contextmanager
def limited(what: str) -> Iterator[None]:
    """Stop Python code, also a regular expression, after ``CPU_S`` seconds of processor time.

    Only the main thread can be stopped; the model worker and the commands compute there.

    Args:
        what: The subject of the error's sentence.

    Raises:
        ModelLoadError: If it takes longer.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(
        signal, "ITIMER_PROF"
    ):
        yield
        return

    def stop(*_: object) -> None:
        raise ModelLoadError(f"{what} takes longer than {CPU_S:g} seconds.", _HINT)

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, CPU_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)


#: Bytes of GGUF's plain types by number; 8 is a text and 9 an array.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_TEXT, _ARRAY, _DEEPEST = 8, 9, 3


def check_gguf(path: Path) -> None:
    """Refuse a GGUF file whose header claims more than the file has.

    Raises:
        ModelLoadError: If a count or a length does not fit into the rest of the file, the metadata
            is larger than ``MOST_JSON``, or the model has too many layers.
    """
    try:
        with path.open("rb") as file:
            _Gguf(path, file).check()
    except (struct.error, OSError, UnicodeError) as error:
        raise ModelLoadError(
            f"{path} can't be loaded: it is not a complete GGUF file.",
            "Download or copy it again.",
        ) from error


class _Gguf:
    """Reads the metadata of a GGUF file without keeping it."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._left = min(path.stat().st_size, MOST_JSON)

    def check(self) -> None:
        """Read all metadata and all descriptions of tensors."""
        if self._take(4) != b"GGUF":
            raise struct.error("not a GGUF file")
        self._number("<I")
        tensors, entries = self._number("<Q"), self._number("<Q")
        self._fits(tensors, 24, "tensors")
        self._fits(entries, 13, "entries")
        for _ in range(entries):
            self._entry()
        for _ in range(tensors):
            self._text()
            dimensions = self._number("<I")
            self._fits(dimensions, 8, "dimensions")
            self._take(8 * dimensions + 12)

    def _entry(self) -> None:
        key, kind = self._text(), self._number("<I")
        if key.endswith(b".block_count") and kind == 4:
            layers = self._number("<I")
            if layers > MOST_PARTS:
                raise ModelLoadError(
                    f"{self._path} claims {layers:,} layers; at most {MOST_PARTS:,} are accepted.",
                    _HINT,
                )
            return
        self._value(kind)

    def _value(self, kind: int, depth: int = 0) -> None:
        if kind in _SIZES:
            self._take(_SIZES[kind])
        elif kind == _TEXT:
            self._text()
        elif kind == _ARRAY and depth < _DEEPEST:
            inner, count = self._number("<I"), self._number("<Q")
            self._fits(count, _SIZES.get(inner, 8), "items")
            if inner in _SIZES:
                self._take(count * _SIZES[inner])
            else:
                for _ in range(count):
                    self._value(inner, depth + 1)
        else:
            raise struct.error("an unknown type")

    def _text(self) -> bytes:
        length = self._number("<Q")
        self._fits(length, 1, "characters")
        return self._take(length)

    def _number(self, kind: str) -> int:
        return int(struct.unpack(kind, self._take(struct.calcsize(kind)))[0])

    def _take(self, count: int) -> bytes:
        data = self._file.read(count)
        self._left -= count
        if len(data) < count or self._left < 0:
            raise struct.error("the file ends too early")
        return data

    def _fits(self, count: int, size: int, what: str) -> None:
        """Refuse a count of things that need at least ``size`` bytes each."""
        if count * size > self._left:
            raise ModelLoadError(
                f"{self._path} claims {count:,} {what}, more than fit into it.",
                "Download or copy it again.",
            )
