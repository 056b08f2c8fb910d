"""What one component adds to the logits, and what it takes from them, at the chosen cell."""

from __future__ import annotations

from dash import html
from dash.development.base_component import Component

from analysis.lens_specs import PromotedSpec
from analysis.results import Promoted
from dash_app.components.go import go, switch
from dash_app.components.panel import trouble
from dash_app.errors import explain
from dash_app.figures.text import label
from dash_app.shell import Service, result_of, trace_of
from dash_app.state import Selection
from dash_app.state_run import RunRef, pinned, resolve
from dash_app.state_sets import toggle

WHOSE = (
    ("", "None"),
    ("attention_output", "Attention"),
    ("mlp_output", "MLP"),
    ("head_output", "Head"),
    ("block_increment", "Block"),
)
HELP = (
    "U · N(part), the norm's scale frozen at the last state: what the part adds to each logit of"
    " this position directly (LLM Transparency Tool; direct logit attribution)."
)
COUNT = 6


def section(service: Service, run: RunRef, selection: Selection) -> list[Component]:
    """The choice of a component and, where one is chosen, its tokens."""
    try:
        return [*_choice(selection, run), *_lists(service, run, selection)]
    except Exception as error:  # noqa: BLE001 - said where the lists would be
        return [*_choice(selection, run), trouble(explain(error))]


def spec(run: RunRef, selection: Selection) -> PromotedSpec | None:
    """What is asked; None at the embedding, or where nothing is chosen."""
    chosen = resolve(selection, run)
    if not selection.adds or chosen.row == 0:
        return None
    head = min(selection.adder, run.heads - 1) if selection.adds == "head_output" else None
    return PromotedSpec(selection.adds, chosen.row - 1, chosen.pos, head=head, k=COUNT)


def _choice(selection: Selection, run: RunRef) -> list[Component]:
    buttons = switch("adds", WHOSE, selection.adds, "Promoted by")
    parts = [
        html.H3("Promoted and suppressed by", className="inspector-title"),
        html.Div(buttons, className="segmented segmented--wrap"),
    ]
    if selection.adds == "head_output":
        heads = tuple((str(head), str(head)) for head in range(run.heads))
        chosen = str(min(selection.adder, run.heads - 1))
        buttons = switch("adder", heads, chosen, "Head")
        parts.append(html.Div(buttons, className="segmented segmented--wrap"))
    return parts


def _lists(service: Service, run: RunRef, selection: Selection) -> list[Component]:
    asked = spec(run, selection)
    if asked is None:
        text = "Nothing was added at the embedding: choose a higher row." if selection.adds else ""
        return [html.P(text or HELP, className="prompt-hint")]
    found: Promoted = service.derive(trace_of(run), asked)
    own = result_of(service, run).top_ids[found.position, :2].tolist()
    pins = pinned(selection, run, own)
    note = f"Layer {found.layer}, norm {found.norm:.3g}. {HELP}"
    return [
        html.Div(
            [
                _list("Promotes", found, found.promoted.tolist(), found.promoted_logits, pins),
                _list(
                    "Suppresses", found, found.suppressed.tolist(), found.suppressed_logits, pins
                ),
            ],
            className="promoted",
        ),
        html.P(note, className="prompt-hint"),
    ]


def _list(
    title: str, found: Promoted, ids: list[int], values: object, pins: tuple[int, ...]
) -> Component:
    names = {token.id: token for token in found.vocabulary}
    pairs = zip(ids, values.tolist(), strict=True)  # type: ignore[attr-defined]
    rows = [
        go(
            [
                html.Span(label(names[number], 14), className="bar-label"),
                html.Span(f"{value:+.2f}".replace("-", "−"), className="bar-value num"),
            ],
            toggle("pins", number, pins),
            f"promoted-row{' is-pinned' if number in pins else ''}",
            label=f"{title} {label(names[number])} by {value:.2f} logits. Pin it",
            pressed=number in pins,
        )
        for number, value in pairs
    ]
    return html.Div([html.H4(title, className="promoted-title"), *rows])
