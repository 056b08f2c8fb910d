"""A pane of the page as pictures, drawn without the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from analysis.contract.specs import Token
from analysis.export.sheets import frames
from dash_app.page.panel import seen
from dash_app.page.panes import Pane
from dash_app.page.theme import Theme
from dash_app.pictures.documents import Drawn
from dash_app.pictures.figures import PICTURES
from dash_app.pictures.flow_svg import FlowPicture
from dash_app.pictures.results import figure
from dash_app.state.context import Context, Drawing, View
from dash_app.state.drawings import PageState, call
from dash_app.state.selection import RunRef, Selection


def drawn(
    context: Context,
    views: Sequence[View],
    pane: str,
    taken: Any,
    shown: tuple[Any, RunRef | None, Selection],
    *,
    dark: bool,
) -> Drawn:
    """The pictures of a pane; its tables if it has no picture.

    Args:
        context: Makes the panes.
        views: All views.
        pane: A pane, or a tab of the inspector.
        taken: Its numbers and their recipe (``dash_app.export.Taken``).
        shown: The service or the memo, the run, and the selection.
        dark: Whether to draw for a dark page too.
    """
    reader, run, selection = shown
    selection = selection.model_copy(update={"panes": (*selection.panes, pane)})
    names = {view.exports[pane].drawing for view in views if pane in view.exports}
    drawings = [one for view in views for one in view.drawings if one.name in names]
    named = _pane(context, views, pane)

    def values(scheme: str) -> list[Any]:
        page = PageState(run, selection, scheme=scheme)
        found = [call(one, reader, page) for one in drawings]
        return [getattr(one, "values", one) for one in found]

    light = values("light")
    made, others = list(figures_in(light)), list(figures_in(values("dark"))) if dark else []
    if not made:  # the pane lists its numbers in tables
        made, others = [*taken.tables], []
    title = named.title if named else pane.capitalize()
    caption = _caption(drawings, light, named.caption_id if named else "")
    return Drawn(title, caption, tuple(made), taken.recipe.as_json(), tuple(others))


def of_results(
    found: Sequence[Any], tokens: Sequence[Token], recipe: Mapping[str, Any], *, dark: bool
) -> Drawn:
    """The main picture of each result; the tables of a result that has none.

    Args:
        found: Results.
        tokens: [pos] of their run.
        recipe: How they were computed, as JSON values.
        dark: Whether to draw for a dark page too.
    """

    def parts(theme: Theme) -> Iterator[Any]:
        for one in found:
            if type(one) in PICTURES:
                made = figure(one, tokens, theme=theme)
                yield made.picture if isinstance(made, FlowPicture) else made
            else:
                yield from frames(one, tokens)

    names = ", ".join(type(one).__name__ for one in found)
    others = tuple(parts("dark")) if dark else ()
    return Drawn(names, "", tuple(parts("light")), recipe, others)


def _pane(context: Context, views: Sequence[View], name: str) -> Pane | None:
    parts = [
        part for view in views if name in view.exports for part in view.layout(context).values()
    ]
    return next((one for one in parts if isinstance(one, Pane) and one.name == name), None)


def _caption(drawings: Sequence[Drawing], values: Sequence[Any], wanted: str) -> str:
    """The text of the pane's caption, among what its drawings return."""
    for drawing, value in zip(drawings, values, strict=True):
        several = [value] if len(drawing.outputs) == 1 else list(value)
        for output, one in zip(drawing.outputs, several, strict=False):
            if wanted and output.component_id == wanted:
                return seen(one)
    return ""


def figures_in(value: Any) -> Iterator[Any]:
    """The figures and flow pictures in what a drawing returns, in the order of the page."""
    if isinstance(value, Mapping):
        if value.get("view") == "flow" or (value.get("data") and "layout" in value):
            yield value
        return
    if isinstance(value, list | tuple):
        for part in value:
            yield from figures_in(part)
    elif hasattr(value, "_prop_names"):
        figure = getattr(value, "figure", None)
        yield from figures_in(figure if figure is not None else getattr(value, "children", None))
