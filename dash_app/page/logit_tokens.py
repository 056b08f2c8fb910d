"""The token of a logit, and the token whose logit is subtracted from it."""

from __future__ import annotations

from collections.abc import Sequence

from dash.development.base_component import Component

from analysis.contract.specs import Token
from analysis.lens.specs import LensSpec
from dash_app.page.panel import Option, control, segmented, switch
from dash_app.page.token_labels import label
from dash_app.state.context import Service, result_of, trace_of
from dash_app.state.selection import RunRef, Selection, resolve


def tokens_by_id(service: Service, run: RunRef, ids: list[int]) -> dict[int, Token]:
    """The run's tokens by id, with those of ``ids`` that the run does not contain."""
    result = result_of(service, run)
    known = {token.id: token for token in (*result.vocabulary, *result.tokens)}
    unknown = tuple(sorted({number for number in ids if 0 <= number < run.vocab} - known.keys()))
    if unknown:
        grid = service.ask(trace_of(run), LensSpec(target=unknown, positions=(0,), k=1))
        known |= {number: grid.token(number) for number in unknown}
    return known


def logit_options(
    service: Service, run: RunRef, selection: Selection
) -> tuple[list[Option], list[Option]]:
    """Tokens whose logit can be explained, and tokens whose logit can be subtracted from it."""
    result, pos = result_of(service, run), resolve(selection, run).pos
    own = int(result.top_ids[pos, 0])
    follows = run.token_ids[pos + 1 : pos + 2]
    chosen = [token for token in (selection.token, selection.foil) if token is not None]
    ids = [own, *result.top_ids[pos, 1:3].tolist(), *follows, *(selection.pins or ()), *chosen]
    ids = [token for token in dict.fromkeys(ids) if 0 <= token < run.vocab]
    named = tokens_by_id(service, run, ids)
    texts = {token: label(named[token], 14) for token in ids}
    target = own if selection.token is None else selection.token
    tokens = [Option("none", f"{texts[own]} (model's choice)")]
    tokens += [
        Option(str(token), texts[token])
        for token in ids
        if token != own or token == selection.token
    ]
    foils = [Option("none", "nothing")]
    foils += [Option(str(token), texts[token]) for token in ids if token != target]
    return tokens, foils


def logit_controls(
    selection: Selection, tokens: Sequence[Option], foils: Sequence[Option]
) -> list[Component]:
    """The two switches, for the fields ``token`` and ``foil`` of the selection."""
    chosen, foil = (
        "none" if token is None else str(token) for token in (selection.token, selection.foil)
    )
    return [
        control("Logit of", segmented(switch("token", tokens, chosen, "Logit of"))),
        control("minus that of", segmented(switch("foil", foils, foil, "Minus that of"))),
    ]
