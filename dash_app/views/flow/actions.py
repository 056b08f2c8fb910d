"""From the chosen state to the flow into it."""

from __future__ import annotations

from typing import Any

from dash.development.base_component import Component

from analysis.errors import CancelledError
from analysis.results import Graph, Token
from analysis.specs import LensSpec
from dash_app.components.panel import blank, failed, told
from dash_app.errors import Trouble, explain
from dash_app.figures.flow import describe, sankey
from dash_app.figures.flow_select import select
from dash_app.figures.flow_signed import select_signed, signed_caption, signed_figure
from dash_app.figures.flow_table import signed_rows
from dash_app.figures.text import label
from dash_app.shell import NewJob, Service, result_of, trace_of
from dash_app.state import RunRef, Selection, resolve
from dash_app.views.flow.options import Choices, options
from dash_app.views.flow.specs import answer, rule, wanted

AT_THE_BOTTOM = "Row 0 is the embedding: nothing flows into it. Choose a higher row."


def follow(
    service: Service, run: RunRef, selection: Selection, job: NewJob
) -> dict[str, Any] | None:
    """Compute the graph unless the memo has it; how that ended, None if it was cancelled."""
    try:
        spec = wanted(run, selection)
        if spec is not None:
            service.flow(trace_of(run), spec, job(0.0, 1.0))
        return {"done": repr(spec) if spec else None}
    except CancelledError:
        return None
    except Exception as error:  # noqa: BLE001 - said where the figure would be
        problem = explain(error)
        return {"trouble": [problem.message, problem.hint, problem.request]}


def draw(
    service: Service, run: RunRef, selection: Selection, theme: Any, ready: dict[str, Any] | None
) -> tuple[Any, str] | None:
    """The picture and how much of the flow it shows; None while the graph is being computed."""
    try:
        if ready is not None and "trouble" in ready:
            return told(Trouble(*ready["trouble"])), ""
        spec = wanted(run, selection)
        if spec is None:
            return blank(240, AT_THE_BOTTOM), ""
        flow = service.peek(trace_of(run), spec)
        if flow is None and ready is not None and ready.get("done") == repr(spec):
            flow = service.flow(trace_of(run), spec)  # the memo could not keep it
        return None if flow is None else _drawn(service, run, selection, flow, theme)
    except Exception as error:  # noqa: BLE001 - said where the figure would be
        return failed(error), ""


def _drawn(
    service: Service, run: RunRef, selection: Selection, flow: Graph, theme: Any
) -> tuple[Any, str]:
    result = result_of(service, run)
    if flow.method == "signed":
        return _drawn_signed(service, run, selection, flow, theme)
    grid = service.grid(trace_of(run), LensSpec())
    pos = resolve(selection, run).pos
    drawing = select(flow, rule(selection))
    figure = sankey(flow, result, grid, theme=theme, row=flow.row, pos=pos, drawing=drawing)
    return figure, describe(drawing, flow, result, grid)


def _drawn_signed(
    service: Service, run: RunRef, selection: Selection, flow: Graph, theme: Any
) -> tuple[Any, str]:
    result, drawing = result_of(service, run), select_signed(flow, rule(selection))
    named = names(service, run, [flow.token, flow.foil])
    figure = signed_figure(flow, drawing, result, theme=theme)
    figure["layout"]["meta"]["table"] = signed_rows(drawing, flow, result)
    return figure, signed_caption(flow, drawing, named)


def names(service: Service, run: RunRef, ids: list[int]) -> dict[int, Token]:
    """Tokens by id: those of the run, and whatever else a lens can be asked for."""
    result = result_of(service, run)
    known = {token.id: token for token in (*result.vocabulary, *result.tokens)}
    rest = tuple(sorted({number for number in ids if 0 <= number < run.vocab} - known.keys()))
    if rest:
        grid = service.grid(trace_of(run), LensSpec(target=rest, positions=(0,), k=1))
        known |= {number: grid.token(number) for number in rest}
    return known


def controls(service: Service, run: RunRef | None, selection: Selection) -> list[Component]:
    """The controls, with the tokens to choose from where the flow is signed."""
    if run is None:
        return options(selection)
    if selection.method != "signed":
        return options(selection, answer=len(answer(run)) > 1)
    tokens, foils = _choices(service, run, selection)
    return options(selection, tokens=tokens, foils=foils)


def _choices(service: Service, run: RunRef, selection: Selection) -> tuple[Choices, Choices]:
    """Tokens whose logit may be asked for, and what it may be held against."""
    result, pos = result_of(service, run), resolve(selection, run).pos
    own = int(result.top_ids[pos, 0])
    follows = run.token_ids[pos + 1 : pos + 2]
    chosen = [token for token in (selection.token, selection.foil) if token is not None]
    ids = [own, *result.top_ids[pos, 1:3].tolist(), *follows, *(selection.pins or ()), *chosen]
    ids = [token for token in dict.fromkeys(ids) if 0 <= token < run.vocab]
    named = names(service, run, ids)
    texts = {token: label(named[token], 14) for token in ids}
    target = own if selection.token is None else selection.token
    tokens = [("none", f"{texts[own]} (its choice)")]
    tokens += [
        (str(token), texts[token]) for token in ids if token != own or token == selection.token
    ]
    foils = [("none", "nothing")]
    foils += [(str(token), texts[token]) for token in ids if token != target]
    return tuple(tokens), tuple(foils)
