"""One head's circuits as tables: read from embeddings, or from the states of a row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from dash.development.base_component import Component

from analysis.contract.specs import Ints, Token
from analysis.weights.specs import Circuits, CircuitSpec, StateCircuits, StateCircuitSpec
from dash_app.errors import explain
from dash_app.page.panel import (
    Option,
    aria,
    control,
    menu,
    options_of,
    problem_notice,
    segmented,
    switch,
)
from dash_app.page.thin_layout import html
from dash_app.page.token_labels import label, percent
from dash_app.state.context import Service, trace_of
from dash_app.state.options import CIRCUIT_INPUTS
from dash_app.state.selection import RunRef, Selection, resolve


def chosen_head(run: RunRef, selection: Selection) -> tuple[int, int]:
    """The chosen layer and head; head 0 if none is chosen."""
    chosen = resolve(selection, run)
    return chosen.layer, chosen.heads[0] if chosen.heads else 0


def circuit_spec(run: RunRef, selection: Selection) -> CircuitSpec:
    """The spec of the chosen head's circuits; an unknown token is ignored."""
    token = selection.token
    known = token if token is not None and token < run.vocab else None
    return CircuitSpec(*chosen_head(run, selection), known)


def state_spec(run: RunRef, selection: Selection) -> StateCircuitSpec:
    """The spec of the chosen head's circuits for the states of the chosen row."""
    return StateCircuitSpec(*chosen_head(run, selection), resolve(selection, run).row)


def of_head(service: Service, run: RunRef, selection: Selection) -> list[Component]:
    """The pickers of layer and head, and the chosen head's circuits."""
    pickers = head_pickers(run, selection)
    try:
        if selection.reads == "states":
            found = service.ask(trace_of(run), state_spec(run, selection))
            return [pickers, *state_readings(found)]
        return [pickers, *circuits(service.ask(run.model, circuit_spec(run, selection)))]
    except Exception as error:  # noqa: BLE001 - shown in place of the circuits
        return [pickers, problem_notice(explain(error))]


def head_pickers(run: RunRef, selection: Selection) -> Component:
    """A menu of layers, a switch of heads, what is read, and a menu of rows for states."""
    layer, head = chosen_head(run, selection)
    layers = [Option(str(one), str(one)) for one in range(run.layers)]
    options = [Option(str(one), str(one)) for one in range(run.heads)]
    pickers = [
        menu("layer", "Layer", layers, str(layer), short=True, derived=True),
        control("Head", segmented(switch("heads", options, str(head), "Head"))),
        control("Reads", segmented(switch("reads", options_of(CIRCUIT_INPUTS), selection.reads,
                                          "Reads"))),
    ]  # fmt: skip
    if selection.reads == "states":
        rows = [Option(str(one), str(one)) for one in range(run.layers + 1)]
        row = str(resolve(selection, run).row)
        pickers.append(menu("row", "Row", rows, row, short=True, derived=True))
    return html.Div(pickers, className="controls")


def words(ids: Iterable[int], known: dict[int, Token]) -> str:
    """Tokens side by side."""
    return "  ".join(label(known[int(one)], 14) for one in ids)


def circuits(found: Circuits) -> list[Component]:
    """A head's circuits: a sentence, what it reads and writes, its singular vectors."""
    known = {token.id: token for token in found.vocabulary}
    which = "all tokens" if found.exact else f"{found.sampled:,} sampled tokens"
    text = (
        f"Layer {found.layer}, head {found.head}: copying score {percent(found.copying)} of"
        f" {which}."
        f" The head raises a token's own logit above the mean for {percent(found.raised)} of them"
        " (chance: 50 %)."
    )
    readings = [
        (label(known[int(token)], 14), words(found.promoted[at], known),
         words(found.suppressed[at], known), words(found.keys[at], known))
        for at, token in enumerate(found.tokens)
    ]  # fmt: skip
    return [
        html.P(text, className="report-sentence"),
        _table("Tokens", ("Token", "Promotes", "Suppresses", "Looks for"), readings),
        _table("OV: singular vectors", ("Value", "Reads", "Writes"),
               _directions(found.ov_values, found.ov_read, found.ov_write, known)),
        _table("QK: singular vectors", ("Value", "Query", "Key"),
               _directions(found.qk_values, found.qk_query, found.qk_key, known)),
        html.P(" ".join(found.notes), className="prompt-hint"),
    ]  # fmt: skip


def state_readings(found: StateCircuits) -> list[Component]:
    """What a head does with each state of a row: a sentence and a table."""
    known = {token.id: token for token in found.vocabulary}
    text = (
        f"Layer {found.layer}, head {found.head}, reading the states of row {found.row}: it"
        f" promotes the position's own token most at {percent(found.copying)} of the positions."
    )
    if found.row == found.layer:
        text += " These are the states that it reads in the model."
    readings = [
        (f"{label(known[int(token)], 14)} ({at})", str(found.own_ranks[at]),
         words(found.promoted[at], known), words(found.suppressed[at], known),
         words(found.keys[at], known))
        for at, token in enumerate(found.tokens)
    ]  # fmt: skip
    head = ("State", "Own token", "Promotes", "Suppresses", "Looks for")
    note = "Own token: the rank of the position's own token among all tokens. "
    return [
        html.P(text, className="report-sentence"),
        _table("States", head, readings),
        html.P(note + " ".join(found.notes), className="prompt-hint"),
    ]


def _directions(
    values: Any, left: Ints, right: Ints, known: dict[int, Token]
) -> list[tuple[str, str, str]]:
    """One row for each end of each pair of vectors."""
    return [
        (f"{values[at]:.3g}\u00a0{sign}", words(left[at, end], known), words(right[at, end], known))
        for at in range(len(left))
        for end, sign in enumerate("+−")
    ]


def _table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> Component:
    made = [
        html.Tr([html.Th(name, scope="row"), *(html.Td(text, className="mono") for text in texts)])
        for name, *texts in rows
    ]
    return html.Section(
        html.Div(
            [
                html.H3(title, className="sheet-group"),
                html.Table(
                    [html.Thead(html.Tr([html.Th(one, scope="col") for one in head])),
                     html.Tbody(made)],
                    className="table contributions",
                ),
            ],
            className="scroll-x", tabIndex="0", **aria(label=title),
        )
    )  # fmt: skip
