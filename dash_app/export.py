"""Takes the numbers of a view away: CSV, JSON, a script, and figures for a white page.

One address serves all views: ``export/PANE.KIND`` with the query of the page's link. A view says
which requests its numbers come from (``context.Export``). The server reads the memo here: what a
pane shows has been computed. It computes only what a tab of the inspector needs, as little as a
click does (``Export.small``). The command ``stratascope run`` computes everything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, request
from plotly.io.json import to_json_plotly

from analysis.contract.sheets import TEXT, Frame, csv_text, for_json
from analysis.contract.specs import InfoSpec, ModelInfo, Spec, Token
from analysis.errors import AnalysisError, SpecError
from analysis.export.recipes import Recipe, identity, names, script
from analysis.export.sheets import frames
from analysis.registry import technique_for
from analysis.tracing.specs import RunSpec, TraceSpec
from dash_app.security.responses import Refusal
from dash_app.state.context import Context, Service, View, result_of, to_query, trace_of
from dash_app.state.drawings import MemoOnly
from dash_app.state.exports import Export
from dash_app.state.selection import RunRef, Selection, applied
from dash_app.state.update import from_link

if TYPE_CHECKING:
    from dash_app.pictures.results import Drawn

#: More rows are too many for one response of the page; the script has no limit.
MOST_ROWS = 400_000
#: Lines at the top of a CSV file before the table.
COMMENTS = 2


class NotComputedError(AnalysisError):
    """The memo does not have the results of a view yet."""


@dataclass(frozen=True, slots=True)
class Taken:
    """The numbers of a view.

    Attributes:
        recipe: How they were computed.
        tables: Tables by name, the main one first.
    """

    recipe: Recipe
    tables: tuple[Frame, ...]


def take(service: Any, made: Recipe, tokens: Sequence[Token]) -> Taken:
    """The results of a recipe's requests, as tables.

    Args:
        service: Computes, or reads the memo.
        made: The recipe.
        tokens: [pos] of its forward pass.

    Raises:
        SpecError: If a request needs a forward pass and the recipe has none.
    """
    tables: list[Frame] = []
    for name, spec in zip(names(made.specs), made.specs, strict=True):
        found = service.ask(subject(made.model, made.trace, spec), spec)
        tables += [one._replace(name=f"{name}.{one.name}") for one in frames(found, tokens)]
    return Taken(made, tuple(tables))


def subject(model: str, states: TraceSpec | None, spec: Spec[Any]) -> Any:
    """What a request is applied to: a forward pass, or a model.

    Raises:
        SpecError: If the forward pass is missing.
    """
    if technique_for(spec).subject != "trace":
        return model
    if states is None:
        raise SpecError("The recipe has no forward pass.", "Export the view again.")
    return states


def token_list(service: Any, made: Recipe) -> tuple[Token, ...]:
    """The tokens of a recipe's forward pass; none without one."""
    if made.trace is None:
        return ()
    found = service.ask(made.model, RunSpec(made.model, token_ids=made.trace.token_ids))
    return tuple(found.tokens)


def require_size(taken: Taken) -> None:
    """Refuse numbers that are too many for a response of the page.

    Raises:
        SpecError: With the number of rows.
    """
    rows = sum(len(one.rows) for one in taken.tables)
    if rows > MOST_ROWS:
        raise SpecError(
            f"The view has {rows:,} rows; the page exports at most {MOST_ROWS:,}.",
            "Copy the view as Python, or show fewer positions.",
        )


def exports(views: Sequence[View], pane: str) -> tuple[Export, ...]:
    """What the views declare for a pane.

    Raises:
        SpecError: If nothing of that pane can be exported.
    """
    found = tuple(view.exports[pane] for view in views if pane in view.exports)
    if not found:
        known = sorted({name for view in views for name in view.exports})
        raise SpecError(
            f"There are no numbers to export in {pane!r}.", f"Choose one of: {', '.join(known)}."
        )
    return found


def requested(
    service: Service, run: RunRef | None, selection: Selection, found: Sequence[Export]
) -> tuple[Spec[Any], ...]:
    """The requests of a pane, each once."""
    specs = [spec for one in found for spec in one.specs(service, run, selection)]
    return tuple(dict.fromkeys(specs))


class Joining:
    """A service that joins the parts of results that the page computes in parts.

    Args:
        service: Has the parts, or computes them.
        found: What the views declare for a pane.
    """

    def __init__(self, service: Any, found: Sequence[Export]) -> None:
        self._service = service
        self._joined = [one.joined for one in found if one.joined is not None]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._service, name)

    def ask(self, subject: Any, spec: Any, job: Any = None) -> Any:
        """The service's result, or the one that its parts give."""
        for join in self._joined:
            if (whole := join(self._service, spec)) is not None:
                return whole
        return self._service.ask(subject, spec, job)

    def peek(self, subject: Any, spec: Any) -> Any:
        """The memo's result, or the one that its parts give."""
        try:
            return self.ask(subject, spec) if self._joined else self._service.peek(subject, spec)
        except NotComputedError:
            return None


def recipe(
    context: Context,
    service: Service,
    run: RunRef | None,
    selection: Selection,
    view: str,
    specs: Any,
) -> Recipe:
    """How the numbers of a view are computed."""
    model = selection.model if run is None else run.model
    states, prompt = (None, "") if run is None else (trace_of(run), run.prompt)
    link = to_query(selection, context.base(), ("model", "prompt", "new"))
    made = Recipe(model, {}, states, tuple(specs), prompt, view, link)
    return replace(made, identity=identity(*infos(service, made)))


def infos(service: Service, made: Recipe) -> list[ModelInfo]:
    """The descriptions of a recipe's models: of one, or of two."""
    return [service.ask(name, InfoSpec()) for name in (made.model, made.other) if name]


def from_memo(context: Context, views: Sequence[View], pane: str, query: str) -> Taken:
    """The numbers that a pane shows, from the memo.

    A pane that draws some results on request has those that were computed. Small results are
    computed here.

    Raises:
        NotComputedError: If the memo has none of them.
        SpecError: If the pane has none, or too many.
    """
    found = exports(views, pane)
    missing = _not_computed(found[0].hint)
    reader, run, selection = _read(context, views, query, missing, found)
    run = version_of(run, selection, pane)
    small = all(one.small for one in found)
    reader = context.service if small else Joining(reader, found)
    model, states = _subjects(run, selection)
    specs = [
        spec
        for spec in requested(reader, run, selection, found)
        if small or reader.peek(subject(model, states, spec), spec) is not None
    ]
    if not specs:
        raise missing
    made = recipe(context, reader, run, selection, pane, specs)
    taken = take(reader, made, () if run is None else result_of(reader, run).tokens)
    require_size(taken)
    return taken


def version_of(run: RunRef | None, selection: Selection, pane: str) -> RunRef | None:
    """The run of a pane: without its edits where the heatmap shows the baseline."""
    if run is not None and selection.version == "baseline" and pane in ("lens", "cell"):
        return run.baseline
    return run


def _subjects(run: RunRef | None, selection: Selection) -> tuple[str, TraceSpec | None]:
    """The model and the forward pass of a pane."""
    return (selection.model, None) if run is None else (run.model, trace_of(run))


def _read(
    context: Context,
    views: Sequence[View],
    query: str,
    missing: NotComputedError,
    found: Sequence[Export],
) -> tuple[Any, RunRef | None, Selection]:
    """The memo, the run and the selection of a link; no run for a pane that needs none."""
    selection, _ = from_link(query, context.base())
    reader = MemoOnly(context.service, missing)
    if all(one.without_run for one in found):
        return reader, None, selection
    requests = next(view.requests for view in views if view.requests is not None)
    status = requests.remembered(context, selection)
    if status is None:
        raise missing
    run = RunRef.model_validate(status["run"]).model_copy(update={"edits": applied(selection)})
    return reader, run, selection


def _not_computed(hint: str) -> NotComputedError:
    return NotComputedError("This view is not computed yet.", hint)


def as_csv(taken: Taken) -> str:
    """The main table as CSV, after two lines of comments: what it is, and its recipe as JSON."""
    main, *others = taken.tables
    made = taken.recipe
    about = f"Table {main.name} of {made.view or 'results'}, model {made.model}"
    units = ", ".join(
        f"{name} in {unit}" for name, unit in main.columns.items() if unit not in (name, TEXT)
    )
    more = f" The JSON file also has: {', '.join(one.name for one in others)}." if others else ""
    first = f"# {about}. Read it with pandas.read_csv(path, skiprows={COMMENTS}).{more} {units}."
    lines = [first, f"# recipe {json.dumps(made.as_json())}"]
    return "\r\n".join([*(line.replace("\n", " ") for line in lines), ""]) + csv_text(
        main.columns, main.rows
    )


def as_json(taken: Taken) -> str:
    """All tables, with units and the recipe."""
    return json.dumps({"recipe": taken.recipe.as_json(), "tables": [*_tables(taken.tables)]})


def _tables(tables: Sequence[Frame]) -> Iterator[dict[str, Any]]:
    for one in tables:
        columns = [{"name": name, "unit": unit} for name, unit in one.columns.items()]
        yield {"name": one.name, "columns": columns, "rows": for_json(one.rows)}


def as_figures(context: Context, views: Sequence[View], pane: str, query: str) -> str:
    """The pane's plotly figures for a light page, and the recipe, as JSON."""
    found = drawn(context, views, pane, query)
    figures = [one for one in found.parts if isinstance(one, Mapping) and "layout" in one]
    return str(to_json_plotly({"recipe": found.recipe, "figures": figures}))


def as_html(context: Context, views: Sequence[View], pane: str, query: str) -> str:
    """The pane as one interactive page that needs no server."""
    from dash_app.pictures.documents import as_html as page

    return page(drawn(context, views, pane, query, dark=True))


def drawn(
    context: Context,
    views: Sequence[View],
    pane: str,
    query: str,
    *,
    dark: bool = False,
    compute: bool = False,
) -> Drawn:
    """The pictures of a pane, from the memo; its tables if it has no picture.

    Args:
        context: Has the service.
        views: All views.
        pane: A pane, or a tab of the inspector.
        query: The query of the page's link.
        dark: Whether to draw for a dark page too.
        compute: Whether to compute what only the picture needs, such as the labels of nodes.

    Raises:
        NotComputedError: If the memo has none of the results.
        SpecError: If the pane has no export, or too many rows.
    """
    from dash_app.pictures import results

    taken = from_memo(context, views, pane, query)
    found = exports(views, pane)
    missing = _not_computed(found[0].hint)
    reader, run, selection = _read(context, views, query, missing, found)
    reader = context.service if compute else reader
    return results.drawn(context, views, pane, taken, (reader, run, selection), dark=dark)


#: (media type, text) by the ending of the address.
_Writer = Callable[[Context, Sequence[View], str, str], str]
_WRITERS: dict[str, tuple[str, _Writer]] = {
    "csv": ("text/csv", lambda *found: as_csv(from_memo(*found))),
    "json": ("application/json", lambda *found: as_json(from_memo(*found))),
    "py": ("text/x-python", lambda *found: script(from_memo(*found).recipe)),
    "figures": ("application/json", as_figures),
    "html": ("text/html", as_html),
}


def install(server: Flask, context: Context, views: Sequence[View]) -> None:
    """Add the address to a server; the gate checks every request before."""

    def export(pane: str, kind: str) -> Response:
        if kind not in _WRITERS:
            raise Refusal(404, "There is no such export.", "Choose csv, json, py or html.")
        media, write = _WRITERS[kind]
        try:
            text = write(context, views, pane, request.query_string.decode("utf-8", "replace"))
        except NotComputedError as error:
            raise Refusal(409, error.message, error.hint) from error
        except AnalysisError as error:
            raise Refusal(400, error.message, error.hint) from error
        name = f'attachment; filename="stratascope-{pane}.{kind}"'
        return Response(text, mimetype=media, headers={"Content-Disposition": name})

    server.add_url_rule("/export/<pane>.<kind>", "export", export)
