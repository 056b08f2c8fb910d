"""From the chosen position and tokens to what each part adds to the logit."""

from __future__ import annotations

from typing import Any

from dash.development.base_component import Component

from analysis.attribution.specs import Attribution, AttributionSpec, Contribution
from dash_app.errors import explain
from dash_app.page.logit_tokens import logit_controls, logit_options, names
from dash_app.page.panel import trouble
from dash_app.page.token_labels import quoted
from dash_app.state.context import Service, result_of, trace_of
from dash_app.state.selection import Chosen, RunRef, Selection, resolve
from dash_app.views.contributions.layout import table

#: Line, switches of the tokens, table.
Shown = tuple[str, list[Component], list[Component]]


def spec(run: RunRef, selection: Selection) -> AttributionSpec:
    """The attribution that is selected; tokens that the model does not have are left out."""
    token, foil = (
        one if one is not None and one < run.vocab else None
        for one in (selection.token, selection.foil)
    )
    return AttributionSpec(resolve(selection, run).pos, token, foil)


def draw(service: Service, run: RunRef, selection: Selection, order: str, count: int) -> Shown:
    """The table, the tokens to choose from, and a line that says what is explained.

    Args:
        service: Computes.
        run: The run shown.
        selection: Position, tokens, and the layer, heads and row that are marked.
        order: "size", "raises", "lowers" or "model".
        count: How many parts are listed; 0: all.
    """
    controls: list[Component] = []
    try:
        tokens, foils = logit_options(service, run, selection)
        controls = logit_controls(selection, tokens, foils)
        found = service.ask(trace_of(run), spec(run, selection))
        listed = ranked(found, order)[: count or None]
        line = _line(service, run, found)
        return line, controls, table(found, listed, _chosen(found, resolve(selection, run)))
    except Exception as error:  # noqa: BLE001 - said where the table would be
        return "", controls, [trouble(explain(error))]


def ranked(found: Attribution, order: str) -> list[Contribution]:
    """The parts in one of the orders."""
    if order == "model":
        return list(found.parts)
    if order == "size":
        return sorted(found.parts, key=lambda part: -abs(part.logit))
    return sorted(found.parts, key=lambda part: part.logit, reverse=order == "raises")


def _chosen(found: Attribution, chosen: Chosen) -> Contribution | None:
    """The part that is selected elsewhere: one head of the chosen layer, else the row's MLP."""
    head = chosen.heads[0] if len(chosen.heads) == 1 else None
    for part in found.parts:
        if head is not None and (part.layer, part.head) == (chosen.layer, head):
            return part
        if head is None and part.kind == "mlp" and part.layer == chosen.row - 1:
            return part
    return found.parts[0] if head is None and chosen.row == 0 else None


def _line(service: Service, run: RunRef, found: Attribution) -> str:
    tokens = [found.token] if found.foil is None else [found.token, found.foil]
    known = names(service, run, tokens)
    logit = f"the logit of {quoted(known[found.token])}"
    if found.foil is not None:
        logit += f" minus that of {quoted(known[found.foil])}"
    last: Any = result_of(service, run).tokens[found.position]
    return f"What each part adds to {logit} after {quoted(last)} (position {found.position})."
