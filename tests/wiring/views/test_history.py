"""The History page: what is recorded, listed, reopened, changed and exported, without a browser."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl

import pytest

from dash_app.app import create_app
from dash_app.state.context import PARTS, from_query, split
from dash_app.state.selection import RunRef, Selection
from dash_app.views.history import actions
from tests.support.dash_client import DashClient
from tests.support.fake_service import FakeService

LIST, COLLECTIONS = "history-list", "history-collections"
PICTURE = "data:image/svg+xml;base64,PHN2Zy8+"


@pytest.fixture
def page(app: Any) -> DashClient:
    return DashClient(app)


def record(page: DashClient, run: RunRef) -> None:
    page.answer("history-recorded.data", {"run.data"}, {"run.data": run.model_dump(mode="json")})


def act(page: DashClient, do: str = "list", **more: Any) -> dict[str, Any]:
    return page.answer(
        f"{LIST}.children", {"history-act.data"}, {"history-act.data": {"do": do, **more}}
    )


def search(page: DashClient, text: str) -> dict[str, Any]:
    return page.answer(f"{LIST}.children", {"history-search.value"}, {"history-search.value": text})


def found(node: Any, name: str) -> list[Any]:
    """The values of a property anywhere in a part of the page."""
    if isinstance(node, list):
        return [value for each in node for value in found(each, name)]
    if not isinstance(node, dict):
        return []
    own = [node[name]] if name in node else []
    return own + [value for key, each in node.items() if key != name for value in found(each, name)]


def add_view(page: DashClient, run: RunRef, selected: Selection, **view: Any) -> dict[str, Any]:
    stores = {f"{part}.data": values for part, values in split(selected).items()}
    return page.answer(
        "history-added.children",
        {"history-add.data"},
        {
            **stores,
            "run.data": run.model_dump(mode="json"),
            "history-add.data": {"title": "Heatmap", "picture": PICTURE, **view},
        },
    )


def test_a_run_is_recorded_and_listed_with_its_answer(
    page: DashClient, run_ref: RunRef, service: FakeService
) -> None:
    record(page, run_ref)
    shown = act(page)
    assert "1 run." in json.dumps(shown["history-summary"])
    assert run_ref.prompt in json.dumps(shown[LIST])
    assert run_ref.model in json.dumps(shown[LIST])
    assert service.calls.count("run") == 1  # for the answer's text; the true memo has it


def test_two_browsers_do_not_see_each_others_runs(app: Any, run_ref: RunRef) -> None:
    anne, bob = DashClient(app), DashClient(app)
    record(anne, run_ref)
    assert run_ref.prompt in json.dumps(act(anne)[LIST])
    assert run_ref.prompt not in json.dumps(act(bob))


def test_a_link_of_the_list_is_the_request_that_was_recorded(
    page: DashClient, run_ref: RunRef, asked: Selection
) -> None:
    record(page, run_ref)
    shown = act(page)[LIST]
    (target,) = found(shown, "data-history-open")
    assert dict(parse_qsl(target)) == {
        "page": "explore",
        "model": run_ref.model, "prompt": run_ref.prompt, "new": "2", "template": "off",
    }  # fmt: skip
    (address,) = found(shown, "href")
    opened, ignored = from_query(address.partition("?")[2], Selection())
    assert not ignored
    names = [name for name in PARTS["request"] if name != "attempt"]
    assert [getattr(opened, name) for name in names] == [getattr(asked, name) for name in names]


def test_a_search_shows_the_runs_that_match(page: DashClient, run_ref: RunRef) -> None:
    record(page, run_ref)
    record(page, run_ref.model_copy(update={"prompt": "7 2 9 4"}))
    shown = search(page, "FRANCE")
    assert "7 2 9 4" not in json.dumps(shown[LIST])
    assert "1 run with" in json.dumps(shown["history-summary"], ensure_ascii=False)
    assert "No run matches." in json.dumps(search(page, "nothing like it"))


def test_a_deleted_run_is_gone(page: DashClient, run_ref: RunRef, settings: Any) -> None:
    record(page, run_ref)
    (number,) = {int(each) for each in found(act(page)[LIST], "data-history-id") if each != "0"}
    shown = act(page, "delete-run", id=number)
    assert "There are no runs yet." in json.dumps(shown[LIST])
    assert run_ref.prompt.encode() not in (settings.data_dir / "history.sqlite").read_bytes()


def test_a_view_is_added_with_its_address_and_picture(
    page: DashClient, app: Any, run_ref: RunRef, asked: Selection
) -> None:
    record(page, run_ref)
    chosen = asked.model_copy(update={"row": 3, "pos": 2, "decoder": "input", "theme": "dark"})
    message = add_view(page, run_ref, chosen, note="look", new="Carries")
    assert "Added to “Carries”" in json.dumps(message, ensure_ascii=False)
    shown = act(page)[COLLECTIONS]
    opened, ignored = from_query(found(shown, "href")[-1].partition("?")[2], Selection())
    assert not ignored
    assert opened == chosen.model_copy(update={"attempt": 0, "theme": "auto"})
    (source,) = found(shown, "src")
    picture = page.get(f"/{source}")
    assert (picture.data, picture.mimetype) == (b"<svg/>", "image/svg+xml")
    assert DashClient(app).get(f"/{source}").status_code == 404


def test_a_collection_is_exported_and_shared(
    page: DashClient, app: Any, run_ref: RunRef, asked: Selection
) -> None:
    record(page, run_ref)
    add_view(page, run_ref, asked, note="look <here>", new="Carries")
    exported = page.get("/collections/1/export")
    assert exported.headers["Content-Disposition"] == 'attachment; filename="carries.html"'
    assert "look &lt;here&gt;" in exported.get_data(as_text=True)
    assert PICTURE in exported.get_data(as_text=True)
    other = DashClient(app)
    assert other.get("/collections/1/export").status_code == 404
    address = next(
        href for href in found(act(page, "share", id=1)[COLLECTIONS], "href") if "http" in href
    )
    path = "/" + address.split("/", 3)[3]
    assert "look &lt;here&gt;" in other.get(path).get_data(as_text=True)
    act(page, "unshare", id=1)
    assert other.get(path).status_code == 404


@pytest.mark.parametrize(
    "wrong",
    [
        {"do": "drop"}, {"do": "delete-run", "id": "x"}, {"do": "note", "id": -1},
        {"do": "rename", "id": 1, "text": ["a"]}, {"do": None}, {"do": "create", "text": "x" * 999},
        {"do": "note", "id": 7, "text": "a"}, {"do": "delete-collection", "id": 2**53 + 1},
    ],
)  # fmt: skip
def test_an_invalid_report_changes_nothing(
    page: DashClient, run_ref: RunRef, wrong: dict[str, Any]
) -> None:
    record(page, run_ref)
    shown = page.answer(f"{LIST}.children", {"history-act.data"}, {"history-act.data": wrong})
    assert run_ref.prompt in json.dumps(shown[LIST])
    assert "alert" in json.dumps(shown["history-message"])


def test_a_browser_without_cookies_is_told_why_it_has_no_history(app: Any, run_ref: RunRef) -> None:
    page = DashClient(app)
    page.forget_cookies()
    record(page, run_ref)
    shown = act(page)
    assert "no cookie" in json.dumps(shown["history-message"])
    assert run_ref.prompt not in json.dumps(shown)


def test_every_field_of_a_request_is_recorded(run_ref: RunRef) -> None:
    names = {name for name in PARTS["request"] if name != "attempt"}
    drawn = {"sampling": "sampled", "temperature": 0.7, "nucleus": 0.9, "seed": 3, "branch": "5=x"}
    assert set(actions.request_of(run_ref.model_copy(update=drawn))) == names
    assert names - set(actions.request_of(run_ref)) == set(drawn)  # the usual ones say nothing


def test_the_list_says_what_part_of_the_share_is_used(
    page: DashClient, run_ref: RunRef, settings: Any
) -> None:
    record(page, run_ref)
    text = json.dumps(act(page)["history-summary"])
    assert f"1 of your {settings.history_entries:,} entries" in text
    assert f"of {settings.history_mib} MiB" in text


def test_every_address_works_below_a_path(
    service: FakeService, settings: Any, run_ref: RunRef, asked: Selection
) -> None:
    below = settings.model_copy(update={"url_prefix": "/lab/lens/"})
    page = DashClient(create_app(service, below), "/lab/lens")
    record(page, run_ref)
    add_view(page, run_ref, asked, new="Carries")
    shown = act(page, "share", id=1)
    addresses = [*found(shown, "href"), *found(shown, "src")]
    assert not [one for one in addresses if one.startswith("/")]
    (link,) = {one for one in addresses if one.startswith("http")}
    assert link.startswith("http://localhost/lab/lens/collections/")
    document = page.get(link.removeprefix("http://localhost")).get_data(as_text=True)
    assert 'href="../?' in document
    exported = page.get("/lab/lens/collections/1/export").get_data(as_text=True)
    assert 'href="http://localhost/lab/lens/?' in exported
