"""The objects behind a link of the page or an exported file, for notebooks and scripts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from os import PathLike, fspath
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import analysis
from analysis.export.apply import LocalService
from analysis.export.recipes import Recipe, names

#: A longer text is no path.
_LONGEST_PATH = 1000


@dataclass(frozen=True, slots=True)
class Opened:
    """What a view shows, as objects.

    Attributes:
        model: The model.
        trace: The forward pass; None for results that need none.
        results: The results by the name of their technique, the main one first.
        recipe: How they are computed.
        drift: What differs between the recipe of a file and the model and versions here.
    """

    model: Any
    trace: Any
    results: Mapping[str, Any]
    recipe: Recipe
    drift: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        lines = [f"<b>{escape(self.recipe.view or 'Results')}</b> of {escape(self.recipe.model)}"]
        lines += [f"{escape(name)}: {type(one).__name__}" for name, one in self.results.items()]
        lines += [f"<b>{escape(line)}</b>" for line in self.drift]
        return f'<div style="color:inherit">{"<br>".join(lines)}</div>'


def open(source: str | PathLike[str] | Recipe, view: str = "", *, model: Any = None) -> Opened:
    """The objects behind a view: of a link of the page, of an exported file, or of a recipe.

    Args:
        source: A link, the path of an exported file (CSV, JSON, SVG, PNG, HTML), or a recipe.
        view: The view of a link, such as "lens" or "flow".
        model: The loaded model; the one that the source names is loaded unless given.

    Returns:
        ``model``, ``trace``, and ``results`` by name: ``opened.results["flow"]``.

    Raises:
        SpecError: If the source is none of these, or a link has no such view.
        StoreError: If the file can't be read.
    """
    from dash_app import export

    made, service = _read(source, view, model)
    states = made.trace
    trace = None
    if states is not None:
        trace = analysis.trace(service.model, states.token_ids, states.edits)
    results = {
        name: service.ask(export.subject(made.model, states, spec), spec)
        for name, spec in zip(names(made.specs), made.specs, strict=True)
    }
    drift = made.drift(service.model.info)
    return Opened(service.model, trace, results, made, drift)


def _read(source: Any, view: str, model: Any) -> tuple[Recipe, LocalService]:
    """The recipe of a source, and a service with its model."""
    from dash_app.server import run_command
    from dash_app.settings import Settings
    from dash_app.state.context import Context, from_query

    made = source if isinstance(source, Recipe) else None
    text = "" if made is not None else fspath(source)
    if text and len(text) < _LONGEST_PATH and Path(text).is_file():
        made = run_command.read(Path(text))[0]
    if made is not None:
        dtype = None if made.identity.get("quantised") else made.identity.get("dtype")
        return made, LocalService(model or analysis.load_model(made.model, dtype=dtype))
    settings = Settings()
    context = Context(None, settings, ())
    chosen, _ = from_query(urlsplit(text).query, context.base())
    service = LocalService(model or analysis.load_model(chosen.model))
    context = Context(service, settings, ((chosen.model, chosen.model),))
    return run_command.recipe_of_link(context, text, view), service
