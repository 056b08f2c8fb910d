"""Computes the contributions to a logit at the chosen position, and ranks them."""

from __future__ import annotations

from typing import Any

from dash.development.base_component import Component

from analysis.attribution.specs import Attribution, AttributionSpec, Contribution
from dash_app.errors import explain
from dash_app.page.logit_tokens import logit_controls, logit_options, tokens_by_id
from dash_app.page.panel import problem_notice
from dash_app.page.token_labels import quoted
from dash_app.state.context import Service, result_of, trace_of
from dash_app.state.selection import Chosen, RunRef, Selection, resolve
from dash_app.views.contributions.layout import table

#: Line, switches of the tokens, table.
Shown = tuple[str, list[Component], list[Component]]


def spec(run: RunRef, selection: Selection) -> AttributionSpec:
    """The spec of the selected attribution; unknown tokens are ignored."""
    token, foil = (
        one if one is not None and one < run.vocab else None
        for one in (selection.token, selection.foil)
    )
    return AttributionSpec(resolve(selection, run).pos, token, foil)


def draw(service: Service, run: RunRef, selection: Selection, order: str, count: str) -> Shown:
    """The subtitle, the tokens to choose from, and the table.

    Args:
        service: Computes.
        run: The run.
        selection: The position and the tokens; its layer, heads and row are marked.
        order: "size", "raises", "lowers" or "model".
        count: Number of parts to list; "0": all.
    """
    controls: list[Component] = []
    try:
        tokens, foils = logit_options(service, run, selection)
        controls = logit_controls(selection, tokens, foils)
        found = service.ask(trace_of(run), spec(run, selection))
        listed = ranked(found, order)[: int(count) or None]
        line = _line(service, run, found)
        return line, controls, table(found, listed, _chosen(found, resolve(selection, run)))
    except Exception as error:  # noqa: BLE001 - shown in place of the table
        return "", controls, [problem_notice(explain(error))]


def ranked(found: Attribution, order: str) -> list[Contribution]:
    """The parts in one of the orders."""
    if order == "model":
        return list(found.parts)
    if order == "size":
        return sorted(found.parts, key=lambda part: -abs(part.logit))
    return sorted(found.parts, key=lambda part: part.logit, reverse=order == "raises")


def _chosen(found: Attribution, chosen: Chosen) -> Contribution | None:
    """The part that is selected: one head of the chosen layer, else the MLP of the chosen row."""
    head = chosen.heads[0] if len(chosen.heads) == 1 else None
    for part in found.parts:
        if head is not None and (part.layer, part.head) == (chosen.layer, head):
            return part
        if head is None and part.kind == "mlp" and part.layer == chosen.row - 1:
            return part
    return found.parts[0] if head is None and chosen.row == 0 else None


def _line(service: Service, run: RunRef, found: Attribution) -> str:
    tokens = [found.token] if found.foil is None else [found.token, found.foil]
    known = tokens_by_id(service, run, tokens)
    logit = f"the logit of {quoted(known[found.token])}"
    if found.foil is not None:
        logit += f" minus that of {quoted(known[found.foil])}"
    last: Any = result_of(service, run).tokens[found.position]
    return f"Contribution of each part to {logit} after {quoted(last)} (position {found.position})."
