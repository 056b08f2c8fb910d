"""A collection as one document: HTML that needs no other file, no script and no server."""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape

from dash_app.history.collections import Collection, Item

_STYLE = """
:root { color-scheme: light dark; --ink: #17202b; --muted: #465262; --rule: #c5ccd5;
  --page: #ffffff; --link: #0b62c4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e9f0; --muted: #b0bac7; --rule: #3a4553;
  --page: #0d1117; --link: #6cb0ff; } }
body { max-width: 1000px; margin: 32px auto; padding: 0 20px; background: var(--page);
  color: var(--ink); font: 15px/1.5 Inter, system-ui, sans-serif; }
h1 { font-size: 26px; } h2 { margin: 0 0 4px; font-size: 18px; }
section { margin: 28px 0; padding-top: 20px; border-top: 1px solid var(--rule); }
a { color: var(--link); } p { margin: 4px 0; }
.muted { color: var(--muted); font-size: 13px; } .note { white-space: pre-wrap; }
img { display: block; max-width: 100%; height: auto; margin-top: 10px; border-radius: 6px;
  border: 1px solid var(--rule); }
@media print { section { break-inside: avoid; } }
"""


def document(collection: Collection, base: str, *, now: datetime | None = None) -> str:
    """The document of a collection.

    Args:
        collection: The collection.
        base: The address of the page, to which the links of the views lead; relative to the
            document on the server itself.
        now: The time that the document states; None: the present.

    Returns:
        HTML. Every text is escaped. Pictures are ``img`` elements, so that no script in them runs.
    """
    title = escape(collection.title)
    made = (now or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC")
    count = len(collection.items)
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title><style>{_STYLE}</style></head><body><main>",
        f'<h1 dir="auto">{title}</h1>',
        f'<p class="muted">{count} view{"" if count == 1 else "s"}, exported from Stratascope on'
        f" {made}.</p>",
        *(_section(number, item, base) for number, item in enumerate(collection.items, 1)),
        "</main></body></html>",
    ]
    return "\n".join(parts)


def file_name(collection: Collection) -> str:
    """A name for the downloaded document: plain letters, digits and hyphens."""
    words = "".join(char if char.isascii() and char.isalnum() else " " for char in collection.title)
    return "-".join(words.lower().split())[:60] or "collection"


def _section(number: int, item: Item, base: str) -> str:
    heading = f"{number}. {item.title}"
    address = escape(base.rstrip("/") + "/" + item.query, quote=True)
    lines = [
        f'<h2 dir="auto">{escape(heading)}</h2>',
        f'<p class="muted" dir="auto">{escape(item.about)}</p>',
        f'<p class="note" dir="auto">{escape(item.note)}</p>' if item.note else "",
        f'<p><a href="{address}">Open this view</a></p>',
    ]
    if item.picture:
        text = escape(f"{item.title}: {item.about}", quote=True)
        lines.append(f'<img alt="{text}" src="{escape(item.picture, quote=True)}">')
    return "<section>" + "\n".join(line for line in lines if line) + "</section>"
