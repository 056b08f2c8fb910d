"""For notebooks: the objects behind a link or an exported file, and the page in a cell."""

from __future__ import annotations

import atexit
import re
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from importlib import import_module
from os import PathLike, fspath
from pathlib import Path
from threading import Lock, Thread
from typing import Any, ClassVar
from urllib.parse import urlsplit

from pydantic import ValidationError
from werkzeug.serving import WSGIRequestHandler, make_server

import analysis
from analysis.errors import AnalysisError, PromptError, SpecError
from analysis.export.apply import LocalService
from analysis.export.in_process import LoadedModel
from analysis.export.recipes import Recipe, names, recipe
from analysis.model.handle import Model
from analysis.tracing.capture import Trace
from analysis.tracing.tokens import encode_prompt

#: A longer text is no path.
_LONGEST_PATH = 1000
#: Smallest and largest height of the page in a cell, in pixels.
_HEIGHTS = (200, 5000)
_WIDTH = re.compile(r"\d{1,5}(px|%)?")
#: Longest prompt of a page in a cell, in tokens; the largest that the settings allow.
_LONGEST_PROMPT = 8192


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
    from dash_app.state.context import Context
    from dash_app.state.update import from_link

    made = source if isinstance(source, Recipe) else None
    text = "" if made is not None else fspath(source)
    if text and len(text) < _LONGEST_PATH and Path(text).is_file():
        made = run_command.read(Path(text))[0]
    if made is not None:
        dtype = None if made.identity.get("quantised") else made.identity.get("dtype")
        return made, LocalService(model or analysis.load_model(made.model, dtype=dtype), made.other)
    settings = Settings()
    context = Context(None, settings, ())
    chosen, _ = from_link(urlsplit(text).query, context.base())
    service = LocalService(model or analysis.load_model(chosen.model), chosen.other)
    context = Context(service, settings, ((chosen.model, chosen.model),))
    return run_command.recipe_of_link(context, text, view), service


@dataclass(eq=False)
class Page:
    """The page that ``show`` serves.

    Attributes:
        url: Its address, with what it shows.
        drift: What differs between the recipe of a file and the model and versions here.
    """

    url: str
    drift: tuple[str, ...]
    _server: _Server = field(repr=False)

    def close(self) -> None:
        """End the server: all cells that show this model are then without it."""
        self._server.close()


def show(
    model: Model,
    at: Trace | Recipe | str | PathLike[str] | None = None,
    *,
    height: int = 800,
    width: str | int = "100%",
) -> Page:
    """Show the whole linked page in a cell of a notebook, on a model that is already loaded.

    A server on the loopback address, in threads of this process, computes with the given model and
    loads no other. Only pages of this machine may show it in a frame. It keeps the model in memory
    until ``close``. Another ``show`` of the same model uses the same server. Outside of a notebook
    it prints the address.

    Args:
        model: From ``load_model``.
        at: What the page shows: a trace, a link of the page, an exported file, or a recipe. None:
            the page's first example.
        height: Height in the cell, 200 to 5000 pixels.
        width: Width in the cell, in pixels, or as text such as "100%".

    Returns:
        ``url``, and ``close()``, which ends the server.

    Raises:
        SpecError: If ``at`` is none of these or belongs to another model, if the tokens of a trace
            are not those of a text, or if a size is not possible.
    """
    if not _HEIGHTS[0] <= height <= _HEIGHTS[1] or not _WIDTH.fullmatch(str(width)):
        raise SpecError(
            f"The page can't be {width} wide and {height} pixels high.",
            "Use a height of 200 to 5000, and a width such as 900 or '100%'.",
        )
    server = _Server.of(model)
    given = _recipe_of(at) if at is not None and not isinstance(at, Trace) else at
    drift = given.drift(model.info) if isinstance(given, Recipe) else ()
    page = Page(server.url + server.query(given), drift, server)
    _display(page.url, height, str(width))
    return page


def _recipe_of(at: Recipe | str | PathLike[str]) -> Recipe | str:
    """The recipe of a file, or the recipe or link itself."""
    if isinstance(at, Recipe):
        return at
    text = fspath(at)
    if len(text) >= _LONGEST_PATH or not Path(text).is_file():
        return text
    from dash_app.server.run_command import read

    return read(Path(text))[0]


def _display(url: str, height: int, width: str) -> None:
    """Put the page into the cell that runs; outside of a notebook, print its address."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if not hasattr(shell, "kernel"):
        print(f"Stratascope is at {url}", flush=True)
        return
    import_module("IPython.display").display(
        {"text/html": frame(url, height, width), "text/plain": url}, raw=True
    )


def frame(url: str, height: int, width: str) -> str:
    """The page in a frame, as HTML, with a link for front ends that show no frames."""
    address = escape(url)
    return (
        f'<iframe src="{address}" title="Stratascope" width="{escape(width)}" height="{height}"'
        ' style="border:1px solid rgba(128,128,128,.4)" allow="clipboard-write; fullscreen">'
        f'</iframe><div><a href="{address}" target="_blank" rel="noopener">Open in a tab</a></div>'
    )


@atexit.register
def close_all() -> None:
    """End the servers of all pages."""
    for server in list(_Server.running.values()):
        server.close()


class _Quiet(WSGIRequestHandler):
    """Answers requests without lines in the notebook, and without the software's name."""

    def log_request(self, *_: Any) -> None:
        """Write nothing: a line for each request would fill the notebook."""

    def version_string(self) -> str:
        """What the header ``Server`` says."""
        return "stratascope"


class _Server:
    """The page's server for one model, in threads of this process.

    Args:
        model: The model.
    """

    running: ClassVar[dict[int, _Server]] = {}
    guard: ClassVar[Lock] = Lock()

    def __init__(self, model: Model) -> None:
        from dash_app.app import create_app
        from dash_app.jobs import job_and_draw
        from dash_app.jobs.manager import JobManager
        from dash_app.state.context import Context

        name = model.info.name
        settings = _settings(name, model.info.max_positions)
        self.loaded = LoadedModel(model, settings.limits())
        self.manager = JobManager(max_jobs=settings.max_jobs)
        models = ((name, name),)
        app = create_app(
            self.loaded.service, settings, manager=self.manager, jobs=job_and_draw.stages,
            models=models, framed=True,
        )  # fmt: skip
        self._context = Context(self.loaded.service, settings, models)
        self._web = make_server(settings.host, 0, app.server, threaded=True, request_handler=_Quiet)
        self.url = f"http://{settings.host}:{self._web.server_port}/"
        Thread(target=self._web.serve_forever, name="stratascope-page", daemon=True).start()

    @classmethod
    def of(cls, model: Model) -> _Server:
        """The server of a model, started unless it runs."""
        with cls.guard:
            found = cls.running.get(id(model))
            if found is None:
                found = cls.running[id(model)] = cls(model)
        found.loaded.require_unchanged()
        return found

    def close(self) -> None:
        """End the server, cancel what it computes, and let the model go."""
        with self.guard:
            if self.running.pop(id(self.loaded.model), None) is None:
                return
        self._web.shutdown()
        self._web.server_close()
        self.manager.close()
        self.loaded.close()

    def query(self, at: Trace | Recipe | str | None) -> str:
        """The query of the address at which the page shows a trace, a recipe or a link."""
        from dash_app.state.context import to_query

        base = self._context.base()
        chosen = base if at is None else self._selection(at, base)
        self._require(chosen.model)
        return to_query(chosen, base, ("model", "prompt", "new"))

    def _require(self, model: str) -> None:
        shown = self.loaded.model.info.name
        if model != shown:
            raise SpecError(
                f"This belongs to the model {model}, and the page shows {shown}.",
                "Load that model and show it, or give something of this one.",
            )

    def _selection(self, at: Trace | Recipe | str, base: Any) -> Any:
        if isinstance(at, str):
            return _of_link(urlsplit(at).query, base)
        if isinstance(at, Recipe):
            self._require(at.model)
            return _of_link(at.link, base) if at.link else self._of_tokens(at, base)
        at.require_model(self.loaded.model)
        made = recipe(self.loaded.model, at)
        self.loaded.use(at, made.trace.edits if made.trace else ())
        return self._of_tokens(made, base)

    def _of_tokens(self, made: Recipe, base: Any) -> Any:
        """The selection of a recipe that was not made in the page."""
        from analysis.tracing.edits import to_text

        values: dict[str, Any] = {"model": made.model}
        if made.trace is not None:
            text = _text(self.loaded.model, made.trace.token_ids)
            edits = [to_text(edit) for edit in made.trace.edits]
            values |= {"prompt": text, "new": 0, "edits": edits}
        try:
            return type(base).model_validate(base.model_dump() | values)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise SpecError(
                f"The page can't show this: {reason}.", "Show a shorter text, or fewer edits."
            ) from error


def _settings(model: str, max_positions: int) -> Any:
    """Settings of a page for this process alone, whatever the environment says of a server."""
    from dash_app.cli import explain_settings
    from dash_app.settings import Settings

    try:
        return Settings(
            host="127.0.0.1", port=0, url_prefix="/", login="off", debug=False, redis_url="",
            web_processes=1, trusted_proxies="", allowed_hosts="", default_model=model,
            secret_key=secrets.token_hex(32),
            max_prompt_tokens=min(max_positions or _LONGEST_PROMPT, _LONGEST_PROMPT),
        )  # fmt: skip
    except ValidationError as error:
        raise AnalysisError(" ".join(explain_settings(error)), "Change the variable.") from error


def _of_link(query: str, base: Any) -> Any:
    """The selection of a link.

    Raises:
        SpecError: If it is no link of the page.
    """
    from dash_app.state.update import from_link

    if not query.removeprefix("?"):
        raise SpecError(
            "This is neither a link of the page nor an exported file.",
            "Give an address with '?', a file that the page exported, or a trace of the text.",
        )
    chosen, ignored = from_link(query, base)
    if ignored:
        raise SpecError(
            f"The link has values without meaning: {', '.join(ignored)}.", "Copy it again."
        )
    return chosen


def _text(model: Model, token_ids: tuple[int, ...]) -> str:
    """The text that has these tokens.

    Raises:
        SpecError: If there is none.
    """
    for skip in (True, False):
        text = str(model.tokenizer.decode(token_ids, skip_special_tokens=skip))
        try:
            if encode_prompt(model.tokenizer, text) == tuple(token_ids):
                return text
        except PromptError:
            continue
    raise SpecError(
        "These tokens are not those of any text, and the page shows texts.",
        "Show the trace of a text: analysis.trace(model, 'some text').",
    )
