"""``stratascope run LINK`` computes a view again; ``stratascope worker`` serves web processes."""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from analysis.contract.sheets import Frame, for_json
from analysis.errors import AnalysisError, SpecError, StoreError
from analysis.export.recipes import Recipe, identity, script, versions
from analysis.service import catalog_fingerprint
from analysis.worker.messages import Request
from dash_app import monitoring
from dash_app.server.server import service_settings
from dash_app.settings import Settings

#: Relative difference of two numbers that counts as drift: float32 on another machine.
TOLERANCE = 1e-4
#: Exit status if numbers have drifted.
DRIFTED = 2
#: Beginning of the line with the recipe in a CSV file.
_RECIPE = "# recipe "
_PANES = (
    "lens, emergence, disagreement, flow, links, check, curves, contributions, attention, ledger,"
    " weights, block, model, story, tokens; or a tab of the inspector: cell, link, head, promoted"
)


def add_to(commands: Any) -> None:
    """Add the command to a parser's sub-commands."""
    text = "compute the numbers of a link or of an exported file again"
    command = commands.add_parser("run", help=text, description=f"{text.capitalize()}.")
    command.add_argument(
        "source", metavar="LINK_OR_RECIPE", help="a link of the page, or an exported file"
    )
    command.add_argument("--view", default="", help=f"the view of a link: {_PANES}")
    command.add_argument("--csv", type=Path, metavar="FILE", help="write the main table")
    command.add_argument("--json", type=Path, metavar="FILE", help="write all tables")
    command.add_argument("--script", type=Path, metavar="FILE", help="write the Python script")
    command.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="write the picture: .svg, .png, .pdf or .html, with the caption in a .txt beside it",
    )
    command.add_argument("--width", type=float, metavar="MM", help="width of the picture on paper")
    command.add_argument("--title", action="store_true", help="set the title above the picture")
    command.add_argument(
        "--scale", type=float, default=2.0, metavar="N", help="pixels of a PNG for each pixel (2)"
    )
    command.set_defaults(work=run)


def run(chosen: argparse.Namespace) -> int:
    """Compute, write the files, and report what has drifted.

    Returns:
        0; 2 if numbers differ from those of the file.

    Raises:
        SpecError: If the source is neither a link nor an exported file, or a link has no view.
    """
    from dash_app import export

    path = Path(chosen.source)
    is_file = len(chosen.source) < 1000 and path.is_file()
    with _service() as context:
        if is_file:
            kept, before = read(path)
            taken = _again(context, kept)
        else:
            kept, before = None, []
            taken = _of_link(context, chosen.source, chosen.view)
        drift = () if kept is None else kept.drift(*export.infos(context.service, kept))
        written = _write_picture(context, chosen, taken) if chosen.out else []
    for file, write in ((chosen.csv, export.as_csv), (chosen.json, export.as_json),
                        (chosen.script, lambda found: script(found.recipe))):  # fmt: skip
        if file is not None:
            file.write_text(write(taken), encoding="utf-8", newline="")
    differing = differences(before, taken.tables)
    for line in (*drift, *differing):
        print(line, file=sys.stderr)
    _summary(taken, before, differing)
    if written:
        print(f"Written: {', '.join(str(file) for file in written)}.")
    return DRIFTED if differing else 0


def _summary(taken: Any, before: Sequence[Any], differing: Sequence[str]) -> None:
    rows = ", ".join(f"{one.name} ({len(one.rows):,} rows)" for one in taken.tables)
    print(f"Tables: {rows}.")
    if before:
        print("Numbers differ from the file." if differing else "Numbers equal those of the file.")


@contextmanager
def _service() -> Iterator[Any]:
    """The context of an app, with a service of this process."""
    from analysis.model import catalog
    from analysis.service import Service
    from dash_app.server.server import service_settings
    from dash_app.state.context import Context

    settings = Settings()
    models = tuple((entry.name, entry.title) for entry in catalog.entries())
    with Service(service_settings(settings)) as service:
        yield Context(service, settings, models)


def _of_link(context: Any, link: str, view: str) -> Any:
    """The numbers of a view of a link.

    Raises:
        SpecError: If it is no link, or there is no such view.
    """
    from dash_app import export
    from dash_app.app import VIEWS
    from dash_app.state.context import result_of
    from dash_app.state.update import from_link

    query = urlsplit(link).query
    if not query:
        raise SpecError(
            "This is neither a link of the page nor an exported file.",
            "Give an address with '?', or a file that the page exported.",
        )
    found = export.exports(VIEWS, view)
    reader = export.Joining(context.service, found)
    selection, ignored = from_link(query, context.base())
    if ignored:
        raise SpecError(
            f"The link has values without meaning: {', '.join(ignored)}.", "Copy it again."
        )
    chosen = None
    if not all(one.without_run for one in found):
        requests = next(view.requests for view in VIEWS if view.requests is not None)
        chosen = requests.perform(context, selection, lambda _start, _end: None)
        chosen = export.version_of(chosen, selection, view)
    specs = export.requested(reader, chosen, selection, found)
    if not specs:
        raise SpecError("The link chooses nothing in this view.", found[0].hint)
    made = export.recipe(context, reader, chosen, selection, view, specs)
    tokens = () if chosen is None else result_of(context.service, chosen).tokens
    return export.take(reader, made, tokens)


def recipe_of_link(context: Any, link: str, view: str) -> Recipe:
    """How the numbers of a view of a link are computed; its results are then in the memo.

    Raises:
        SpecError: If it is no link, or there is no such view.
    """
    made: Recipe = _of_link(context, link, view).recipe
    return made


def _write_picture(context: Any, chosen: argparse.Namespace, taken: Any) -> list[Path]:
    """Draw the view of a link, or the results of a recipe that has none.

    Raises:
        SpecError: If the name's ending or the size is not possible.
    """
    from dash_app import export
    from dash_app.app import VIEWS
    from dash_app.pictures import results
    from dash_app.pictures.documents import Paper, format_of, write

    paper = Paper(chosen.width, chosen.title, chosen.scale)
    dark = format_of(chosen.out) == "html"
    made = taken.recipe
    if made.link and made.view:
        if not chosen.source.endswith(made.link):  # the recipe of a file
            _of_link(context, made.link, made.view)
        drawn = export.drawn(context, VIEWS, made.view, made.link, dark=dark, compute=True)
    else:
        tokens = export.token_list(context.service, made)
        subjects = [export.subject(made.model, made.trace, spec) for spec in made.specs]
        found = [context.service.ask(*pair) for pair in zip(subjects, made.specs, strict=True)]
        drawn = results.of_results(found, tokens, made.as_json(), dark=dark)
    return write(drawn, chosen.out, paper)


def _again(context: Any, kept: Recipe) -> Any:
    """The numbers of a recipe, computed here."""
    from dash_app import export

    found = identity(*export.infos(context.service, kept))
    now = replace(kept, identity=found, versions=versions())
    return export.take(context.service, now, export.token_list(context.service, now))


def read(path: Path) -> tuple[Recipe, list[Frame]]:
    """The recipe and the tables of an exported file.

    Raises:
        StoreError: If it can't be read.
        SpecError: If it was not exported here.
    """
    from dash_app.pictures.documents import recipe_of

    try:
        data = path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path} can't be read.", "Give an exported file.") from error
    try:
        if (recipe := recipe_of(data)) is not None:
            return Recipe.from_json(recipe), []
        text = data.decode()
        if text.startswith("#"):
            return _read_csv(text)
        found = json.loads(text)
        tables = [
            Frame(
                one["name"],
                {column["name"]: column["unit"] for column in one["columns"]},
                [tuple(row) for row in one["rows"]],
            )
            for one in found.get("tables", ())
        ]
        return Recipe.from_json(found.get("recipe", found)), tables
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SpecError(f"{path} was not exported here.", "Export the view again.") from error


def _read_csv(text: str) -> tuple[Recipe, list[Frame]]:
    first, second, table = text.split("\r\n", 2)
    kept = Recipe.from_json(json.loads(second.removeprefix(_RECIPE)))
    head, *rows = list(csv.reader(io.StringIO(table, newline="")))
    name = first.removeprefix("# Table ").partition(" of ")[0]
    return kept, [Frame(name, dict.fromkeys(head, ""), [tuple(row) for row in rows])]


def differences(before: Sequence[Frame], now: Sequence[Frame]) -> list[str]:
    """What differs between the tables of a file and those computed now, one line each."""
    known = {one.name: one for one in now}
    lines = []
    for one in before:
        found = known.get(one.name)
        if found is None or len(found.rows) != len(one.rows):
            lines.append(f"Table {one.name} has other rows now.")
            continue
        names = [name for name in one.columns if name in found.columns]
        for name in names:
            pairs = zip(_column(one, name), _column(found, name), strict=True)
            largest = max((_difference(*pair) for pair in pairs), default=0.0)
            if largest > TOLERANCE:
                lines.append(f"Table {one.name}, column {name}: differs by up to {largest:.2g}.")
    return lines


def _column(table: Frame, name: str) -> list[Any]:
    at = list(table.columns).index(name)
    return [for_json(row[at]) for row in table.rows]


def _difference(before: Any, now: Any) -> float:
    """The relative difference of two numbers; 0 or 1 of texts."""
    old, new = _number(before), _number(now)
    if old is None or new is None:
        texts = ("" if value is None else str(value).removeprefix("'") for value in (before, now))
        return float(len(set(texts)) > 1)
    return abs(old - new) / max(abs(old), abs(new), 1e-3)


def _number(value: Any) -> float | None:
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def add_worker_to(commands: Any) -> None:
    """Add ``worker`` to the parser of ``stratascope``."""
    parser = commands.add_parser(
        "worker", help="compute requests that web processes send through Redis; one per device"
    )
    parser.add_argument("--device", default="", help="cpu, cuda or cuda:N; default: the best one")
    parser.set_defaults(work=work)


def work(chosen: argparse.Namespace) -> int:
    """Run a worker until a signal stops it.

    Raises:
        SpecError: If STRATASCOPE_REDIS_URL is not set.
    """
    settings = Settings()
    monitoring.configure_log(settings)
    if not settings.redis_url:
        raise SpecError(
            "STRATASCOPE_REDIS_URL is not set.", "Set it to the Redis of the web processes."
        )
    try:
        from analysis.scale.app import ScaleSettings
        from analysis.scale.worker import Worker
    except ImportError as error:
        raise SpecError(
            "Celery and redis are not installed.", ".venv/bin/pip install -e '.[scale]'"
        ) from error
    service = service_settings(settings)
    limits = service.worker_limits()
    if chosen.device:
        limits = replace(limits, device=chosen.device)
    scale = ScaleSettings(settings.redis_url, settings.redis_prefix, grace_s=settings.grace_s)
    return Worker(scale, service.function, limits).run(_first(settings.default_model, limits.dtype))


def _first(name: str, dtype: str | None) -> Request | None:
    """The default model, to load at once; None if this worker does not have it."""
    try:
        return Request("info", name, catalog_fingerprint(name, dtype))
    except AnalysisError:
        return None
