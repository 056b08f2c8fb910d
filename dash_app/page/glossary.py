"""The glossary's terms in the page's texts, each with its definition on hover and focus.

``docs/glossary.md`` is the only source; an installed package has a copy of it in ``dash_app/docs``.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from dash.development.base_component import Component

from dash_app.page.panel import data
from dash_app.page.thin_layout import html

#: In an installed package ``dash_app/docs``, in a checkout ``docs`` beside ``dash_app``.
_FILE = next(
    (
        folder / "docs" / "glossary.md"
        for folder in Path(__file__).resolve().parents[1:3]
        if (folder / "docs" / "glossary.md").is_file()
    ),
    None,
)
_ENTRY = re.compile(r"^- (.+?)(?=^- |^#|\Z)", re.MULTILINE | re.DOTALL)
_BOLD = re.compile(r"\*\*([^*]+)\*\*")
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
#: Everyday words, which get no definition because they are in almost every sentence.
_PLAIN = frozenset((
    "token", "position", "layer", "block", "row", "head", "state", "part", "share",
    "link", "node", "root", "mass", "flow", "cell", "grid", "run", "trace", "spec", "result",
    "subject", "technique", "choice", "service", "job", "worker", "supervisor", "queue",
    "interactive", "long", "selection", "view", "panel", "figure", "step", "story", "effect",
    "suite", "study", "report", "control", "probe", "identity", "tolerance", "logit",
    "probability", "rank", "decode", "decoder", "candidates", "contribution", "intervention",
    "neuron", "similarity", "fingerprint", "sequential block", "parallel block", "drawing",
    "gesture", "workspace", "pane", "side sheet", "history", "collection",
))  # fmt: skip


@cache
def definitions() -> dict[str, str]:
    """From each term in lower case to its definition, as plain text.

    Empty if the file is missing: the page then works without definitions.
    """
    if _FILE is None:
        return {}
    found: dict[str, str] = {}
    for entry in _ENTRY.findall(_FILE.read_text(encoding="utf-8")):
        body = entry.partition(":")[2]
        for name in _BOLD.findall(entry):
            found.setdefault(_plain(name).lower(), _plain(body))
    return found


def define(name: str, text: str = "") -> Component | str:
    """A term of the glossary with its definition; any other text without one.

    Args:
        name: The term.
        text: How the term is written here; if empty, as in ``name``.
    """
    meaning = definitions().get(name.lower())
    if meaning is None:
        return text or name
    return html.Span(
        text or name, className="term", tabIndex="0", role="term", **data(definition=meaning)
    )


def with_terms(text: str) -> list[Component | str]:
    """A text in which the first use of each special term has its definition.

    Everyday words (token, row, head) get none.
    """
    parts: list[Component | str] = []
    seen: set[str] = set()
    at = 0
    for match in _pattern().finditer(text):
        name = _singular(match[0].lower())
        if name in seen:
            continue
        seen.add(name)
        parts += [text[at : match.start()], define(name, match[0])]
        at = match.end()
    return [part for part in [*parts, text[at:]] if part != ""]


@cache
def _pattern() -> re.Pattern[str]:
    """Every special term, longest first, with an optional plural."""
    names = sorted(set(definitions()) - _PLAIN, key=len, reverse=True)
    either = "|".join(map(re.escape, names)) or r"(?!)"
    return re.compile(rf"\b(?:{either})s?\b", re.IGNORECASE)


def _singular(name: str) -> str:
    return name if name in definitions() else name.removesuffix("s")


def _plain(body: str) -> str:
    """Markdown as plain text on one line."""
    text = _LINK.sub(r"\1", body).replace("**", "").replace("`", "").replace("*", "")
    return " ".join(text.split())
