"""Every view's numbers are equal in CSV, JSON, data frames, the script and ``stratascope run``."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from xml.etree import ElementTree as ET

import pytest

from analysis.contract.sheets import for_json
from analysis.errors import SpecError
from analysis.export.recipes import Recipe
from dash_app import cli, export
from dash_app.app import VIEWS, create_app
from dash_app.page.layout import INSPECTED
from dash_app.page.panes import Pane
from dash_app.pictures.documents import recipe_of
from dash_app.server import run_command
from dash_app.settings import Settings
from dash_app.state.context import Context
from tests.support.repository import ROOT
from tests.support.true_service import TrueService

MODEL = "tiny"
LINK = {
    "model": MODEL, "prompt": "the capital of France", "new": 1, "row": 2, "pos": 3, "layer": 1,
    "heads": "1", "adds": "mlp_output", "link": "mlp:1:3:3:-1", "colour": "state_norm",
    "readers": "output,input", "clean": "the capital of France",
    "corrupted": "the capital of Paris", "answer": "x", "against": "y", "align": "token",
}  # fmt: skip
PANES = sorted({pane for view in VIEWS for pane in view.exports})
#: Panes without numbers here: each report of the tasks has files of its own
#: (``tests/wiring/views/test_tasks.py``), and the history has no numbers.
WITHOUT = {"tasks", "history", "collections"}


@dataclass(frozen=True)
class Page:
    """A server whose memo has all results of a link."""

    context: Context
    client: Any
    query: str

    def file(self, pane: str, kind: str) -> str:
        """What the page saves."""
        answer = self.client.get(f"/export/{pane}.{kind}{self.query}")
        assert answer.status_code == 200, answer.text
        return str(answer.text)


@pytest.fixture(scope="module")
def offered(tiny_llama_dir: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STRATASCOPE_MODELS", f"{MODEL}={tiny_llama_dir}")
        yield


@pytest.fixture(scope="module")
def page(offered: None, tmp_path_factory: pytest.TempPathFactory) -> Page:
    folder, service = tmp_path_factory.mktemp("data"), TrueService(MODEL)
    settings = Settings(data_dir=folder / "data", cache_dir=folder / "cache")
    app = create_app(service, settings)
    made = Page(
        Context(service, settings, ((MODEL, MODEL),)), app.server.test_client(),
        f"?{urlencode(LINK)}",
    )  # fmt: skip
    for pane in PANES:
        run_command._of_link(made.context, made.query, pane)
    return made


@pytest.fixture
def command(page: Page, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run ``stratascope run`` with the service of the page."""

    @contextmanager
    def service() -> Iterator[Context]:
        yield page.context

    monkeypatch.setattr(run_command, "_service", service)
    return lambda *words: cli.main(["run", *map(str, words)])


def test_every_pane_with_numbers_can_be_exported(page: Page) -> None:
    parts = [part for view in VIEWS for part in view.layout(page.context).values()]
    panes = {part.name for part in parts if isinstance(part, Pane)}
    assert panes - WITHOUT <= set(PANES)
    assert set(PANES) - panes == {*INSPECTED, "story", "tokens"}


@pytest.mark.parametrize("pane", PANES)
def test_all_ways_out_give_the_same_numbers(
    pane: str, page: Page, command: Any, tmp_path: Path
) -> None:
    whole = json.loads(page.file(pane, "json"))
    assert whole["tables"]
    again = tmp_path / "again.json"
    table = tmp_path / "again.csv"
    link = f"http://host/{page.query}"
    assert command(link, "--view", pane, "--json", again, "--csv", table) == 0
    assert json.loads(again.read_text(encoding="utf-8")) == whole
    text = page.file(pane, "csv")
    assert table.read_bytes().decode() == text
    check_csv(text, whole["tables"][0])
    check_script(page.file(pane, "py"), whole["tables"])
    check_page(page.file(pane, "html"), whole["recipe"])
    for file in (again, table):
        assert command(file) == 0


def check_csv(text: str, table: Any) -> None:
    """The CSV file is the main table: each number exactly, each text as it is."""
    head, *rows = csv.reader(io.StringIO("".join(text.splitlines(keepends=True)[2:]), newline=""))
    assert head == [column["name"] for column in table["columns"]]
    assert len(rows) == len(table["rows"])
    for written, values in zip(rows, table["rows"], strict=True):
        for cell, value in zip(written, values, strict=True):
            if isinstance(value, bool) or value is None or isinstance(value, str):
                wanted = "" if value is None else str(value)
                assert cell.removeprefix("'") == wanted.removeprefix("'")
            else:
                assert float(cell) == value


def check_page(text: str, recipe: Any) -> None:
    """The interactive page holds the recipe, has a picture or a table, and loads nothing."""
    assert recipe_of(text.encode()) == recipe
    assert 'class="part"' in text
    loaded = re.findall(r"""(?:src|href)=["']([^"'#][^"']*)""", text.partition("<script>")[0])
    assert all(one.startswith("data:") for one in loaded)


def check_script(code: str, tables: Any) -> None:
    """The script, run as it is, makes data frames with the numbers of the tables."""
    printed: list[Any] = []
    names: dict[str, Any] = {"print": printed.append}
    exec(compile(code, "script.py", "exec"), names)  # noqa: S102
    assert printed
    for table in tables:
        technique, _, sheet = table["name"].partition(".")
        tokens = names["trace"].tokens if "trace" in names else ()
        found = names[technique].to_dataframe(tokens, sheet)
        assert list(found.columns) == [column["name"] for column in table["columns"]]
        rows = [
            [None if missing else for_json(value) for value, missing in zip(*pair, strict=True)]
            for pair in zip(found.to_numpy(object).tolist(), found.isna().to_numpy(), strict=True)
        ]
        assert rows == table["rows"], table["name"]


def test_a_file_says_what_its_numbers_are(page: Page) -> None:
    first, second, *_ = page.file("lens", "csv").splitlines()
    assert first.startswith("# Table decode.cells of lens, model tiny.")
    assert "entropy in nats" in first
    made = Recipe.from_json(json.loads(second.removeprefix("# recipe ")))
    assert made.model == MODEL
    assert made.prompt == LINK["prompt"]
    assert made.versions["numpy"]
    assert made.identity["fingerprint"]
    assert "row=2" in made.link
    whole = json.loads(page.file("lens", "json"))
    assert Recipe.from_json(whole["recipe"]) == made
    assert [one["name"] for one in whole["tables"]] == [
        "decode.cells", "colours.cells", "colours.shares"
    ]  # fmt: skip


def test_drift_of_numbers_versions_and_weights_is_named(
    page: Page, command: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = json.loads(page.file("lens", "json"))
    file = tmp_path / "old.json"
    whole["tables"][0]["rows"][3][2] += 0.5
    whole["recipe"]["versions"]["numpy"] = "0.1"
    whole["recipe"]["identity"] |= {"fingerprint": "another", "revision": "older"}
    file.write_text(json.dumps(whole), encoding="utf-8")
    assert command(file) == run_command.DRIFTED
    told = capsys.readouterr()
    assert "Table decode.cells, column entropy: differs by up to" in told.err
    assert "version of numpy is" in told.err
    assert "fingerprint is" in told.err
    assert "revision is" in told.err
    assert "not older" in told.err
    assert "Numbers differ from the file." in told.out
    whole["tables"][0]["rows"].pop()
    file.write_text(json.dumps(whole), encoding="utf-8")
    assert command(file) == run_command.DRIFTED
    assert "has other rows now" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("no-link",), "neither a link of the page nor an exported file"),
        (("http://h/?prompt=a",), "There are no numbers to export in ''"),
        (("http://h/?prompt=a", "--view", "tasks"), "no numbers to export in 'tasks'"),
        (("http://h/?prompt=a&row=x", "--view", "lens"), "values without meaning: row"),
        ((str(ROOT / "README.md"),), "was not exported here"),
    ],
)
def test_a_wrong_source_is_explained(
    words: tuple[str, ...], said: str, command: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*words) == 1
    assert said in capsys.readouterr().err


def test_the_page_exports_only_what_is_computed(offered: None, tmp_path: Path) -> None:
    service = TrueService(MODEL)
    client = create_app(service, Settings(data_dir=tmp_path)).server.test_client()
    answer = client.get(f"/export/lens.csv?{urlencode(LINK)}")
    assert answer.status_code == 409
    assert "not computed yet" in answer.json["problem"]["message"]
    assert not service.memo


def test_each_tab_of_the_inspector_exports_its_own_numbers(page: Page) -> None:
    mains = {tab: json.loads(page.file(tab, "json"))["tables"][0] for tab in INSPECTED}
    assert {tab: main["name"] for tab, main in mains.items()} == {
        "cell": "decode.cells", "link": "link.tokens", "head": "promoted.tokens",
        "promoted": "promoted.tokens",
    }  # fmt: skip
    assert mains["head"]["rows"] != mains["promoted"]["rows"]
    names = [column["name"] for column in mains["cell"]["columns"]]
    whole = json.loads(page.file("lens", "json"))["tables"][0]["rows"]
    place = names.index("row"), names.index("position")
    same = [row for row in whole if tuple(row[at] for at in place) == (2, 3)]
    assert len(mains["cell"]["rows"]) == len(same) > 0
    for own, drawn in zip(mains["cell"]["rows"], same, strict=True):
        for value, wanted in zip(own, drawn, strict=True):
            is_number = isinstance(wanted, float)
            assert value == (pytest.approx(wanted, abs=1e-5) if is_number else wanted)


def test_the_tabs_of_the_inspector_are_computed_when_they_are_exported(
    offered: None, tmp_path: Path
) -> None:
    service, settings = TrueService(MODEL), Settings(data_dir=tmp_path)
    client = create_app(service, settings).server.test_client()
    context = Context(service, settings, ((MODEL, MODEL),))
    run_command._of_link(context, f"?{urlencode(LINK)}", "tokens")
    for tab in INSPECTED:
        assert client.get(f"/export/{tab}.csv?{urlencode(LINK)}").status_code == 200
    several = {**LINK, "heads": "0,1"}
    found = client.get(f"/export/head.json?{urlencode(several)}").json["tables"]
    names = [one["name"] for one in found]
    assert names[0] == "promoted.tokens"
    assert "promoted_2.tokens" in names
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("pane", "hint"),
    [
        ("check", "Press 'Cut the drawn links'"),
        ("disagreement", "Press 'Compare decoders'"),
        ("link", "Choose a link"),
        ("head", "Choose a head"),
        ("promoted", "Choose a component"),
        ("block", "Open the view"),
    ],
)
def test_the_hint_says_what_computes_a_view(
    pane: str, hint: str, offered: None, tmp_path: Path
) -> None:
    service, settings = TrueService(MODEL), Settings(data_dir=tmp_path)
    client = create_app(service, settings).server.test_client()
    plain = {name: LINK[name] for name in ("model", "prompt", "new")}
    context = Context(service, settings, ((MODEL, MODEL),))
    run_command._of_link(context, f"?{urlencode(plain)}", "tokens")
    answer = client.get(f"/export/{pane}.csv?{urlencode(plain)}")
    assert answer.status_code == 409
    assert answer.json["problem"]["hint"].startswith(hint)


def test_the_command_draws_the_flow_without_a_browser(
    page: Page, command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRATASCOPE_CHROMIUM", "/no/such/browser")
    file, link = tmp_path / "flow.svg", f"http://host/{page.query}"
    assert command(link, "--view", "flow", "--out", file, "--width", 120, "--title") == 0
    root = ET.fromstring(file.read_text(encoding="utf-8"))  # noqa: S314
    assert root.get("width") == "120mm"
    name = "{http://www.w3.org/2000/svg}"
    assert len([one for one in root.iter(f"{name}path") if "link" in one.get("class", "")]) > 1
    assert root.findtext(f"{name}title") in [one.text for one in root.iter(f"{name}text")]
    assert "font/woff2;base64" in "".join(one.text or "" for one in root.iter(f"{name}style"))
    assert "of the flow" in file.with_suffix(".txt").read_text(encoding="utf-8")
    assert recipe_of(file.read_bytes()) == json.loads(page.file("flow", "json"))["recipe"]
    again = tmp_path / "again.svg"
    assert command(file, "--out", again, "--width", 120, "--title") == 0
    assert again.read_bytes() == file.read_bytes()
    table = tmp_path / "contributions.svg"
    assert command(link, "--view", "contributions", "--out", table) == 0
    assert "contribution" in table.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--out", "flow.gif"), "flow.gif is no picture"),
        (("--out", "flow.svg", "--width", "5"), "can't be 5 mm wide"),
        (("--out", "flow.png", "--scale", "90"), "scale can't be 90"),
        (("--out", "flow.png"), "needs Chromium or Chrome"),
    ],
)
def test_an_impossible_picture_is_refused(
    words: tuple[str, ...], said: str, page: Page, command: Any, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("STRATASCOPE_CHROMIUM", "/no/such/browser")
    monkeypatch.chdir(tmp_path)
    assert command(f"http://host/{page.query}", "--view", "flow", *words) == 1
    assert said in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_refusals(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    assert page.client.get(f"/export/lens.exe{page.query}").status_code == 404
    wrong = page.client.get(f"/export/none.csv{page.query}")
    assert wrong.status_code == 400
    assert "Choose one of" in wrong.json["problem"]["hint"]
    monkeypatch.setattr(export, "MOST_ROWS", 10)
    large = page.client.get(f"/export/lens.csv{page.query}")
    assert large.status_code == 400
    assert "at most 10" in large.json["problem"]["message"]


@pytest.mark.parametrize("pane", ["lens", "curves", "attention", "emergence", "model"])
def test_figures_are_drawn_for_a_light_page(pane: str, page: Page) -> None:
    found = json.loads(page.file(pane, "figures"))
    assert found["figures"]
    assert Recipe.from_json(found["recipe"]).view == pane
    for figure in found["figures"]:
        assert figure["data"]


def test_a_recipe_without_its_pass_is_refused(page: Page) -> None:
    made = Recipe.from_json(json.loads(page.file("lens", "json"))["recipe"])
    with pytest.raises(SpecError, match="no forward pass"):
        export.take(page.context.service, dataclasses.replace(made, trace=None), ())
