"""Collections: ordered items with notes, one user's own, shared by a link, within the share."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from analysis.errors import SpecError, StoreError
from dash_app.history import collections
from dash_app.history.collections import NewItem
from dash_app.history.database import Database, Share

ANNE, BOB = "user:anne", "user:bob"
SVG = "data:image/svg+xml;base64," + base64.b64encode(b"<svg/>").decode()


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "history.sqlite", Share(20, 100_000))


def view(title: str, **more: str) -> NewItem:
    return NewItem(**{"title": title, "digest": "d", "query": "?row=3", "about": "a run", **more})


def titles(database: Database, number: int, owner: str = ANNE) -> list[str]:
    return [each.title for each in collections.one_collection(database, owner, number).items]


def test_a_first_view_opens_a_collection(database: Database) -> None:
    number = collections.add(database, ANNE, None, view("Heatmap", note="see row 3", picture=SVG))
    (made,) = collections.collections(database, ANNE)
    assert (made.id, made.title) == (number, collections.FIRST)
    assert (made.items[0].picture, made.items[0].has_picture) == ("", True)
    (item,) = collections.one_collection(database, ANNE, number).items
    assert collections.picture(database, ANNE, item.id) == (b"<svg/>", "image/svg+xml")
    assert (item.title, item.query, item.about, item.note, item.picture) == (
        "Heatmap", "?row=3", "a run", "see row 3", SVG,
    )  # fmt: skip


def test_views_can_be_ordered_annotated_and_removed(database: Database) -> None:
    number = collections.create(database, ANNE, "Carries")
    for title in ("a", "b", "c"):
        collections.add(database, ANNE, number, view(title))
    a, b, c = (each.id for each in collections.one_collection(database, ANNE, number).items)
    collections.move(database, ANNE, c, -1)
    assert titles(database, number) == ["a", "c", "b"]
    collections.move(database, ANNE, a, 1)
    collections.move(database, ANNE, b, 1)
    assert titles(database, number) == ["c", "a", "b"]
    collections.annotate(database, ANNE, b, "look here")
    assert collections.one_collection(database, ANNE, number).items[2].note == "look here"
    collections.discard(database, ANNE, a)
    assert titles(database, number) == ["c", "b"]


@pytest.mark.parametrize(
    "change",
    [
        lambda database, number, item: collections.one_collection(database, BOB, number),
        lambda database, number, item: collections.rename(database, BOB, number, "mine"),
        lambda database, number, item: collections.remove(database, BOB, number),
        lambda database, number, item: collections.share(database, BOB, number, on=True),
        lambda database, number, item: collections.add(database, BOB, number, view("b")),
        lambda database, number, item: collections.annotate(database, BOB, item, "mine"),
        lambda database, number, item: collections.move(database, BOB, item, 1),
        lambda database, number, item: collections.discard(database, BOB, item),
        lambda database, number, item: collections.picture(database, BOB, item),
    ],
)
def test_another_user_can_do_nothing_to_a_collection(database: Database, change: object) -> None:
    number = collections.add(database, ANNE, None, view("a"))
    before = collections.one_collection(database, ANNE, number)
    with pytest.raises(SpecError, match="You have no such"):
        change(database, number, before.items[0].id)
    assert collections.one_collection(database, ANNE, number) == before
    assert collections.collections(database, BOB) == ()


def test_a_shared_link_shows_the_collection_until_it_is_withdrawn(database: Database) -> None:
    number = collections.add(database, ANNE, None, view("a"))
    assert collections.one_collection(database, ANNE, number).shared == ""
    link = collections.share(database, ANNE, number, on=True)
    assert collections.share(database, ANNE, number, on=True) == link
    found = collections.shared_collection(database, link)
    assert found is not None
    assert [each.title for each in found.items] == ["a"]
    collections.share(database, ANNE, number, on=False)
    assert collections.shared_collection(database, link) is None
    assert collections.share(database, ANNE, number, on=True) != link


@pytest.mark.parametrize("link", ["", "None", "x" * 22, "' OR 1=1 --", "%" * 22, "x" * 500])
def test_a_guessed_link_shows_nothing(database: Database, link: str) -> None:
    collections.add(database, ANNE, None, view("a"))
    assert collections.shared_collection(database, link) is None


def test_views_beyond_the_share_are_refused_and_nothing_changes(database: Database) -> None:
    number = collections.create(database, ANNE, "full")
    for count in range(20):
        collections.add(database, ANNE, number, view(str(count)))
    with pytest.raises(StoreError, match="share"):
        collections.add(database, ANNE, number, view("one more"))
    assert len(titles(database, number)) == 20


def test_a_note_counts_as_bytes_of_the_share(tmp_path: Path) -> None:
    database = Database(tmp_path / "history.sqlite", Share(20, 2_000))
    number = collections.add(database, ANNE, None, view("a"))
    item = collections.one_collection(database, ANNE, number).items[0]
    with pytest.raises(StoreError, match="share"):
        collections.annotate(database, ANNE, item.id, "x" * 3_000)
    collections.annotate(database, ANNE, item.id, "short")
    assert collections.one_collection(database, ANNE, number).items[0].note == "short"


@pytest.mark.parametrize(
    "wrong",
    [
        {"picture": "data:text/html;base64,PHNjcmlwdD4="},
        {"picture": "javascript:alert(1)"},
        {"picture": "https://example.org/x.svg"},
        {"picture": "data:image/svg+xml;base64,<svg onload=alert(1)>"},
        {"picture": "data:image/svg+xml;base64," + "A" * collections.PICTURE},
        {"query": "//example.org"},
        {"query": "javascript:alert(1)"},
        {"note": "x" * (collections.NOTE + 1)},
        {"title": "x" * (collections.TITLE + 1)},
    ],
)
def test_what_is_no_picture_or_no_address_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(SpecError):
        view(**{"title": "a", **wrong})


@pytest.mark.parametrize("title", ["", "  ", "x" * (collections.TITLE + 1)])
def test_a_collection_needs_a_title_of_a_sensible_length(database: Database, title: str) -> None:
    with pytest.raises(SpecError):
        collections.create(database, ANNE, title)


def test_the_number_of_collections_is_bounded(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collections, "COLLECTIONS", 2)
    collections.create(database, ANNE, "a")
    collections.create(database, ANNE, "b")
    with pytest.raises(SpecError, match="2 collections"):
        collections.create(database, ANNE, "c")
