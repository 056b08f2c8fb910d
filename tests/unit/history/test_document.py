"""The document of a collection: complete, self-contained, and safe for whoever opens it."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import pytest

from dash_app.history.collections import Collection, Item
from dash_app.history.document import document, file_name

SVG = "data:image/svg+xml;base64," + base64.b64encode(b"<svg/>").decode()


class Reader(HTMLParser):
    """Collects tags, attributes and visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, tag: str, name: str) -> list[str | None]:
        return [attributes.get(name) for found, attributes in self.tags if found == tag]


def item(title: str = "Heatmap", **more: str) -> Item:
    values = {"query": "?row=3&pos=1", "about": "a run", "note": "", "picture": SVG, **more}
    return Item(1, title, values["query"], values["about"], values["note"], values["picture"], True)


def test_it_has_every_view_in_order_with_note_picture_and_link() -> None:
    items = (item("Heatmap", note="first\nlook"), item("Flow", picture=""))
    read = Reader(document(Collection(1, "Carries", "", items), "https://lab.example/"))
    assert read.values("a", "href") == ["https://lab.example/?row=3&pos=1"] * 2
    assert read.values("img", "src") == [SVG]
    assert re.search(r"Carries.*1\. Heatmap.*first\nlook.*2\. Flow", read.text, re.DOTALL)


def test_it_loads_nothing_from_elsewhere() -> None:
    text = document(Collection(1, "Carries", "", (item(),)), "/")
    read = Reader(text)
    assert {tag for tag, _ in read.tags} <= {
        "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "p", "section", "a",
        "img",
    }  # fmt: skip
    assert "url(" not in text
    assert "@import" not in text


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", '"><img src=x onerror=a()>', "&lt;"])
@pytest.mark.parametrize("place", ["title", "about", "note", "query", "name"])
def test_texts_of_users_stay_texts(text: str, place: str) -> None:
    made = item(**{place: f"?{text}" if place == "query" else text}) if place != "name" else item()
    read = Reader(document(Collection(1, text if place == "name" else "c", "", (made,)), "/"))
    tags = [tag for tag, _ in read.tags]
    assert "script" not in tags
    assert tags.count("img") == 1
    assert not any(name.startswith("on") for _, attributes in read.tags for name in attributes)
    shown = [read.text, *read.values("a", "href"), *read.values("img", "alt")]
    assert any(text in (part or "") for part in shown)


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Where carries are made", "where-carries-are-made"),
        ("../../x", "x"),
        ("これ", "collection"),
    ],
)
def test_the_file_name_is_plain(title: str, name: str) -> None:
    assert file_name(Collection(1, title, "", ())) == name
