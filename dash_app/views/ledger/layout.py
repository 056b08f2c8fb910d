"""The badge beside the model picker, and the panel with every identity."""

from __future__ import annotations

from enum import StrEnum

from dash import html
from dash.development.base_component import Component

from analysis.contract.ledger import Ledger, LedgerEntry
from dash_app.page.controls import aria
from dash_app.page.panel import panel
from dash_app.state.context import Context


class LedgerId(StrEnum):
    """What callbacks of this view name."""

    MODEL = "ledger-model"
    RUN = "ledger-run"
    SUBTITLE = "ledger-subtitle"
    FILL = "ledger-progress-fill"
    LABEL = "ledger-progress-label"


HELP = (
    "Every picture here stands on identities: the parts of a state add up to it, the lens at the"
    " last row gives the model's own logits, what flows in flows out. They are measured on this"
    " model when it is loaded (on two short probes of random tokens) and on this run.",
    "An error is relative: the norm of the difference over the largest norm among the parts."
    " float32 sums are held to 1e-5 and logits to 1e-4; 16-bit and quantised models to 2e-2"
    " (the heads of quantised weights to 5e-2), and"
    " their badge is amber. A model that fails one of the first five is refused.",
)
#: colour of a ledger -> (class, mark, word)
BADGES = {
    "green": ("is-ok", "✓", "adds up"),
    "amber": ("is-warn", "≈", "adds up roughly"),
    "red": ("is-bad", "✕", "does not add up"),
}


def layout(_context: Context) -> Component:
    """Two tables side by side: the model's, and this run's."""
    return panel(
        "ledger",
        "Does it add up?",
        [
            _progress(),
            html.Div(
                [
                    html.Div(_waiting("The model"), id=LedgerId.MODEL, className="ledger-part"),
                    html.Div(_waiting("This run"), id=LedgerId.RUN, className="ledger-part"),
                ],
                className="ledger-parts",
            ),
        ],
        help_text=HELP,
        subtitle="The identities that the pictures stand on, and how closely they hold.",
        subtitle_id=LedgerId.SUBTITLE,
        wide=True,
    )


def _progress() -> Component:
    fill = html.Div(id=LedgerId.FILL, className="progress-fill")
    return html.Div(
        [
            html.Div(fill, className="visually-hidden"),
            html.Span("", id=LedgerId.LABEL, className="progress-label"),
        ],
        role="status",
    )


def _waiting(title: str) -> list[Component]:
    return [html.H3(title), html.P("Measured once there is a run.", className="muted")]


def badge(ledger: Ledger) -> Component:
    """One chip that says whether the model adds up, and how closely; leads to the panel."""
    style, mark, word = BADGES[ledger.colour]
    error = f"{ledger.largest_error:.0e}"
    return html.A(
        f"{mark} {word}, error {error}",
        href="#ledger-title",
        className=f"model-chip ledger-badge {style}",
        title=f"Largest relative error of {len(ledger.entries)} identities: {error}. See below.",
    )


def table(title: str, ledger: Ledger) -> list[Component]:
    """A table of identities."""
    heads = ("", "Identity", "Largest error", "Allowed")
    return [
        html.H3(title),
        html.Table(
            [
                html.Thead(html.Tr([html.Th(head, scope="col") for head in heads])),
                html.Tbody([_row(entry, exact=ledger.exact) for entry in ledger.entries]),
            ],
            className="ledger-table",
        ),
    ]


def _row(entry: LedgerEntry, *, exact: bool) -> Component:
    colour = "red" if not entry.passed else "green" if exact else "amber"
    style, mark, word = BADGES[colour]
    note = html.Div(entry.note, className="muted") if entry.note else None
    return html.Tr(
        [
            html.Td(mark, className=f"ledger-mark {style}", **aria(label=word)),
            html.Td([entry.name, note]),
            html.Td(f"{entry.error:.1e}", className="num"),
            html.Td(f"{entry.tolerance:.0e}", className="num"),
        ]
    )
