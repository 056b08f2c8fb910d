"""The site of ``make docs``: no warning, no dead link, nothing loaded from a network."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import analysis
from analysis.registry import TECHNIQUES
from tests.support.repository import ROOT

pytestmark = pytest.mark.full
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
PAGES = (
    "docs/index", "docs/tutorial", "docs/how-to/patch-a-fact", "docs/how-to/compare-two-models",
    "docs/how-to/bring-your-model", "docs/methods", "docs/reference", "docs/python", "docs/server",
    "docs/operations", "docs/glossary", "docs/coming-from", "README", "CONTRIBUTING",
)  # fmt: skip


class Page(HTMLParser):
    """The ids of a page, where its links lead, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") in {
            "stylesheet",
            "preload",
            "icon",
            "shortcut icon",
        }:
            self.loaded.append(given["href"])
        self.loaded += [given["src"]] if "src" in given else []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site; a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    (options,) = re.findall(r"python (-m sphinx .*) build/docs$", MAKEFILE, re.MULTILINE)
    command = [sys.executable, *options.split(), str(folder / "html"), "-d", str(folder / "cache")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    found = {path.resolve(): Page(path.read_text("utf-8")) for path in site.rglob("*.html")}
    assert len(found) > 30
    return found


def inner_links(pages: dict[Path, Page]) -> Iterator[tuple[Path, str, Path, str]]:
    """(page, link, file that it leads to, place in it) of each link within the site."""
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if not parts.scheme and not parts.netloc:
                target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
                yield path, link, target, unquote(parts.fragment)


def test_the_site_has_every_page(site: Path) -> None:
    assert not [name for name in PAGES if not (site / f"{name}.html").is_file()]
    assert 'url=docs/index.html"' in (site / "index.html").read_text("utf-8")


def test_no_link_within_the_site_is_dead(pages: dict[Path, Page]) -> None:
    links = list(inner_links(pages))
    dead = {
        f"{path.name}: {link}"
        for path, link, target, place in links
        if not target.is_file() or (place and target in pages and place not in pages[target].ids)
    }
    assert len(links) > 500
    assert not dead


def test_links_to_other_sites_have_a_valid_form(pages: dict[Path, Page]) -> None:
    valid = re.compile(r"https?://(127\.0\.0\.1|[\w-]+(\.[\w-]+)+)(:\d+)?(/\S*)?|mailto:\S+@\S+")
    outer = {link for page in pages.values() for link in page.links if urlsplit(link).scheme}
    assert not [link for link in outer if not valid.fullmatch(link)]


def test_the_site_loads_nothing_from_a_network(site: Path, pages: dict[Path, Page]) -> None:
    assert not [url for page in pages.values() for url in page.loaded if urlsplit(url).netloc]
    sheets = {path.name: path.read_text("utf-8") for path in site.rglob("*.css")}
    assert sheets
    assert not [
        name for name, text in sheets.items()
        if re.search(r"(url\(\s*['\"]?|@import\s+['\"])(https?:)?//", text)
    ]  # fmt: skip


def test_every_public_name_is_on_the_page_of_the_package(pages: dict[Path, Page]) -> None:
    (page,) = [page for path, page in pages.items() if path.match("docs/python.html")]
    names = {f"analysis.{name}" for name in analysis.__all__ if name != "interventions"}
    edits = [one for one in vars(analysis.interventions).values() if isinstance(one, type)]
    names |= {f"analysis.interventions.{one.__name__}" for one in edits}
    results = {f"{one.result.__module__}.{one.result.__qualname__}" for one in TECHNIQUES}
    assert not (names | results) - page.ids
