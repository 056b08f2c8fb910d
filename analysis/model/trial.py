"""Reads and uses a stranger's files in a confined process before this process does.

A header, a tokenizer or a template that would take memory or time without bound, or that makes
Rust code panic, is found there. What passes there is read here afterwards. The models of this
package are not tried.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from analysis.errors import ModelLoadError
from analysis.model import confined, hub, untrusted

#: Most processor seconds for all files of a model. For one prompt see ``untrusted.CPU_S``.
LOAD_CPU_S = 120.0

_PACKAGE = Path(__file__).resolve().parents[1]
_PROBE = "The capital of France is Paris.\n"


def is_ours(path: Path) -> bool:
    """Whether a folder is part of this package."""
    return path.resolve().is_relative_to(_PACKAGE)


def check_files(path: Path) -> None:
    """Check a model folder, an adapter's folder or a GGUF file, and try its tokenizer.

    The answer is kept until a file changes.

    Raises:
        ModelLoadError: If it is incomplete, or goes beyond a limit; the message has the figure.
    """
    if not path.exists():
        raise ModelLoadError(f"There is no {path}.", "Check the path.")
    if is_ours(path):
        hub.check_folder(path)
    else:
        _checked(str(path), json.dumps(hub.stamp(path)))


def check_configuration(folder: Path) -> None:
    """Check a folder that may contain the configuration only.

    Raises:
        ModelLoadError: If it goes beyond a limit.
    """
    what = f"Reading the configuration in {folder}"
    confined.run(f"{__name__}:configuration", str(folder), what=what, cpu_s=LOAD_CPU_S)


@lru_cache(maxsize=64)
def _checked(source: str, stamp: str) -> None:
    confined.run(f"{__name__}:check", source, stamp, what=f"Reading {source}", cpu_s=LOAD_CPU_S)


# In the confined process.


def check(source: str, stamp: str) -> None:
    """Check all files at ``source``; its tokenizer must read a short text."""
    path = Path(source)
    if path.is_file():
        untrusted.check_gguf(path)
    elif (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
        for weights in path.glob("*.safetensors"):
            hub.check_safetensors(weights)
        return
    else:
        hub.check_folder(path)
    try:
        _encoder(source, stamp)(_PROBE)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - an ordinary error: whoever loads the model reports it
        return


def configuration(folder: str) -> None:
    """Check the configuration of a folder."""
    untrusted.check_folder(Path(folder))


def encode(source: str, text: str) -> None:
    """Tokenise a text."""
    _encoder(source, json.dumps(hub.stamp(Path(source))))(text)


@lru_cache(maxsize=2)
def _encoder(source: str, _stamp: str) -> Callable[[str], Any]:
    path = Path(source)
    if (path / "tokenizer.json").is_file():
        from tokenizers import Tokenizer

        read = Tokenizer.from_file(str(path / "tokenizer.json"))
        read.no_padding()
        read.no_truncation()
        return read.encode
    from analysis.model import transformers_io

    if path.is_file():
        found = transformers_io.gguf_tokenizer(path)
    else:
        found = transformers_io.read_tokenizer(path)
    return found  # type: ignore[no-any-return]


def render(template: str, names: dict[str, Any], messages: list[dict[str, str]]) -> None:
    """Render a chat template as transformers does."""
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        render_jinja_template(
            [messages], chat_template=template, add_generation_prompt=True, **names
        )
    except TemplateError:
        return


def match(patterns: list[str], names: list[str]) -> None:
    """Match every pattern with every name."""
    for pattern in patterns:
        for name in names:
            re.match(pattern, name)
