"""The list of runs: one entry a request, per user, searchable, bounded, and deleted for good."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from analysis.errors import StoreError
from dash_app.history import collections, runs
from dash_app.history.collections import NewItem
from dash_app.history.database import Database, Share

ANNE, BOB = "user:anne", "user:bob"


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "data" / "history.sqlite", Share(1000, 10_000_000))


def request(prompt: str, model: str = "m") -> dict[str, object]:
    return {"model": model, "prompt": prompt, "new": 2, "template": "off"}


def prompts(database: Database, owner: str, search: str = "") -> list[str]:
    return [run.prompt for run in runs.listed(database, owner, search).runs]


def on_disk(database: Database, text: str) -> list[str]:
    """The files of the folder that contain a text, in UTF-8 or UTF-16."""
    return [
        path.name
        for path in database.path.parent.iterdir()
        if text.encode() in (raw := path.read_bytes()) or text.encode("utf-16-le") in raw
    ]


def test_a_run_is_listed_with_its_answer(database: Database) -> None:
    runs.record(database, ANNE, request("The capital of France is"), " Paris", now=5.0)
    (run,) = runs.listed(database, ANNE).runs
    assert (run.prompt, run.model, run.answer, run.last) == (
        "The capital of France is", "m", " Paris", 5.0,
    )  # fmt: skip
    assert run.request == request("The capital of France is")


def test_equal_requests_are_one_entry_that_moves_to_the_top(database: Database) -> None:
    for moment, prompt in enumerate(("a", "b", "a"), 1):
        runs.record(database, ANNE, request(prompt), "", now=float(moment))
    page = runs.listed(database, ANNE)
    assert [(run.prompt, run.times, run.first, run.last) for run in page.runs] == [
        ("a", 2, 1.0, 3.0), ("b", 1, 2.0, 2.0),
    ]  # fmt: skip


def test_requests_that_differ_in_any_field_are_two_entries(database: Database) -> None:
    runs.record(database, ANNE, request("a"), "")
    runs.record(database, ANNE, {**request("a"), "edits": "zero:3:1"}, "")
    assert len(runs.listed(database, ANNE).runs) == 2


def test_two_users_do_not_see_or_delete_each_others_runs(database: Database) -> None:
    runs.record(database, ANNE, request("of Anne"), "")
    runs.record(database, BOB, request("of Bob"), "")
    (hers,) = runs.listed(database, ANNE).runs
    assert (prompts(database, ANNE), prompts(database, BOB)) == (["of Anne"], ["of Bob"])
    assert not runs.delete(database, BOB, hers.id)
    runs.delete_all(database, BOB)
    assert (prompts(database, ANNE), prompts(database, BOB)) == (["of Anne"], [])


@pytest.mark.parametrize("text", ["ÉCOLE", "école", "  l'école ", "l'ÉC"])
def test_a_search_ignores_case_also_beyond_ascii(database: Database, text: str) -> None:
    runs.record(database, ANNE, request("Je vais à l'école"), "")
    runs.record(database, ANNE, request("something else"), "")
    assert prompts(database, ANNE, text) == ["Je vais à l'école"]


@pytest.mark.parametrize("text", ["%", "_", "'", '"; DROP TABLE runs; --', "*"])
def test_a_search_takes_every_character_literally(database: Database, text: str) -> None:
    runs.record(database, ANNE, request("plain words"), "")
    assert prompts(database, ANNE, text) == []
    runs.record(database, ANNE, request(f"with {text} in it"), "")
    assert prompts(database, ANNE, text) == [f"with {text} in it"]


def test_a_search_finds_models_and_answers(database: Database) -> None:
    runs.record(database, ANNE, request("one", "gpt2"), "")
    runs.record(database, ANNE, request("two"), " Paris")
    assert prompts(database, ANNE, "gpt") == ["one"]
    assert prompts(database, ANNE, "paris") == ["two"]


def test_the_list_comes_in_pages(database: Database) -> None:
    for number in range(7):
        runs.record(database, ANNE, request(str(number)), "", now=1.0 + number)
    page = runs.listed(database, ANNE, start=3, count=2)
    assert ([run.prompt for run in page.runs], page.found, page.entries) == (["3", "2"], 7, 7)


def test_deleted_text_leaves_the_disk(database: Database) -> None:
    secret = "the code is XYZZY-7731 " * 400  # long enough for overflow pages
    runs.record(database, ANNE, request("kept prompt"), "")
    runs.record(database, ANNE, request(secret), "an answer ABRACADABRA")
    run = runs.listed(database, ANNE).runs[0]
    number = collections.add(database, ANNE, None, viewed(run.request, note="a note PLUGH"))
    assert on_disk(database, "XYZZY-7731")
    assert on_disk(database, "PLUGH")
    assert runs.delete(database, ANNE, run.id)
    assert not on_disk(database, "XYZZY-7731")
    assert not on_disk(database, "ABRACADABRA")
    assert not on_disk(database, "PLUGH")
    assert collections.one_collection(database, ANNE, number).items == ()
    assert prompts(database, ANNE) == ["kept prompt"]


def test_deleted_text_leaves_the_disk_while_another_connection_is_open(database: Database) -> None:
    runs.record(database, ANNE, request("the code is XYZZY-7731"), "")
    with database.reading() as other:
        other.execute("SELECT count(*) FROM runs").fetchone()
        runs.delete_all(database, ANNE)
        assert not on_disk(database, "XYZZY-7731")


def test_deleting_says_so_if_a_reader_keeps_the_text_on_disk(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dash_app.history.database.PATIENCE_S", 0.05)
    runs.record(database, ANNE, request("the code is XYZZY-7731"), "")
    with database.reading() as other:
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM runs").fetchone()
        with pytest.raises(StoreError, match="copy may remain"):
            runs.delete_all(database, ANNE)
        other.execute("COMMIT")
    runs.delete_all(database, ANNE)
    assert not on_disk(database, "XYZZY-7731")


def viewed(request_: dict[str, object], note: str = "", picture: str = "") -> NewItem:
    return NewItem("Heatmap", runs.digest_of(request_), "?row=3", "about", note, picture)


def test_the_oldest_runs_that_no_collection_shows_go_first(tmp_path: Path) -> None:
    database = Database(tmp_path / "history.sqlite", Share(4, 10_000_000))
    for number in range(3):
        runs.record(database, ANNE, request(str(number)), "", now=1.0 + number)
    collections.add(database, ANNE, None, viewed(request("0")))
    runs.record(database, BOB, request("of Bob"), "", now=0.5)
    assert runs.record(database, ANNE, request("3"), "", now=9.0)
    assert prompts(database, ANNE) == ["3", "2", "0"]
    assert prompts(database, BOB) == ["of Bob"]


def test_the_share_bounds_bytes_too(tmp_path: Path) -> None:
    database = Database(tmp_path / "history.sqlite", Share(1000, 20_000))
    for number in range(20):
        runs.record(database, ANNE, request(f"{number} " + "x" * 1000), "", now=1.0 + number)
    page = runs.listed(database, ANNE)
    assert 1 < len(page.runs) < 20
    assert page.bytes <= 20_000
    assert page.runs[0].prompt.startswith("19 ")


def test_a_run_is_not_recorded_where_collections_fill_the_share(tmp_path: Path) -> None:
    database = Database(tmp_path / "history.sqlite", Share(2, 10_000_000))
    runs.record(database, ANNE, request("a"), "")
    collections.add(database, ANNE, None, viewed(request("a")))
    assert not runs.record(database, ANNE, request("b"), "")
    assert prompts(database, ANNE) == ["a"]


def test_entries_of_browsers_that_are_gone_are_deleted(database: Database) -> None:
    runs.record(database, "browser:old", request("old XYZZY-7731"), "", now=10.0)
    runs.record(database, "browser:new", request("new"), "", now=1000.0)
    runs.record(database, ANNE, request("of Anne"), "", now=10.0)
    assert runs.forget_unused(database, "browser:", 500.0) == 1
    assert not on_disk(database, "XYZZY-7731")
    assert prompts(database, "browser:new") == ["new"]
    assert prompts(database, ANNE) == ["of Anne"]


def test_only_its_owner_can_read_the_file(database: Database) -> None:
    runs.record(database, ANNE, request("a"), "")
    assert stat.S_IMODE(database.path.stat().st_mode) == 0o600


def test_a_file_of_a_later_version_is_refused(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="later version"):
        runs.listed(database, ANNE)


def test_a_damaged_file_is_refused_in_words(database: Database) -> None:
    database.path.parent.mkdir()
    database.path.write_bytes(b"this is not a database at all, but a text" * 100)
    with pytest.raises(StoreError, match="damaged"):
        runs.listed(database, ANNE)


def test_threads_record_at_the_same_time_without_loss(database: Database) -> None:
    def work(name: str) -> None:
        for number in range(10):
            runs.record(database, name, request(f"{name} {number}"), "")

    threads = [threading.Thread(target=work, args=(f"user:{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(prompts(database, f"user:{n}")) for n in range(6)] == [10] * 6
