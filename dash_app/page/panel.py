"""Panels, their help, figures that load, and messages."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape as html_escape
from typing import Any

from dash import dcc, html
from dash.development.base_component import Component

from dash_app.errors import Problem, explain
from dash_app.page.controls import aria

Children = Any

#: Class names of a figure's wrapper, at rest and while its data is computed.
FIGURE, FIGURE_LOADING = "figure scroll-x", "figure scroll-x is-loading"
#: Plotly's own buttons would cover the picture; the page has its own controls.
GRAPH_CONFIG: Any = {
    "displayModeBar": False,
    "doubleClick": False,
    "scrollZoom": False,
    "displaylogo": False,
}


def panel(
    name: str,
    title: str,
    body: Children,
    *,
    help_text: Sequence[str],
    subtitle: Children = "",
    subtitle_id: str | None = None,
    controls: Children = None,
    wide: bool = False,
) -> Component:
    """A panel: title, help and controls above, the picture below."""
    muted: dict[str, Any] = {"id": subtitle_id} if subtitle_id else {}
    heading = html.Div(
        [
            html.H2(title, className="panel-title", id=f"{name}-title"),
            help_button(title, help_text),
            html.P(subtitle, className="panel-subtitle", **muted),
        ],
        className="panel-heading",
    )
    return html.Section(
        [
            html.Div([heading, html.Div(controls, className="controls")], className="panel-header"),
            html.Div(body, className="panel-body"),
        ],
        className=f"panel panel-{name}{' panel--wide' if wide else ''}",
        **aria(labelledby=f"{name}-title"),
    )


def help_button(title: str, lines: Sequence[str]) -> Component:
    """A question mark that opens a few lines of help."""
    return html.Details(
        [
            html.Summary("?", **aria(label=f"Help: {title}")),
            html.Div([html.P(line) for line in lines], className="panel-help-body"),
        ],
        className="panel-help",
    )


def control(label: str, widget: Component, *, wide: bool = False) -> Component:
    """A labelled control."""
    return html.Div(
        [html.Span(label, className="control-label"), widget],
        className=f"control{' control--wide' if wide else ''}",
        role="group",
        **aria(label=label),
    )


def segmented(buttons: list[Component]) -> Component:
    """Buttons of one switch side by side."""
    return html.Div(buttons, className="segmented segmented--wrap")


def graph(name: str, label: str, *, height: int, fluid: bool = False, **more: Any) -> Component:
    """A figure with a placeholder until its data arrives.

    A ``fluid`` figure is as wide as its panel and ``height`` pixels tall. Any other figure sets its
    own width, and scrolls if the panel is narrower.
    """
    size: dict[str, Any] = {"style": {"height": f"{height}px"}} if fluid else {}
    return html.Div(
        dcc.Graph(
            id=name,
            figure=blank_figure(height),
            config=GRAPH_CONFIG,
            responsive=fluid,
            **size,
            **more,
        ),
        id=f"{name}-box",
        className=FIGURE,
        role="img",
        tabIndex="0",
        **aria(label=label),
    )


def blank_figure(height: int = 240, text: str = "") -> dict[str, Any]:
    """An empty figure, with a sentence if there is one."""
    note = {
        "text": text,
        "x": 0.5,
        "y": 0.5,
        "xref": "paper",
        "yref": "paper",
        "showarrow": False,
        "font": {"size": 13, "color": "#808a97"},
    }
    return {
        "data": [],
        "layout": {
            "height": height,
            "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
            "xaxis": {"visible": False},
            "yaxis": {"visible": False},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "annotations": [note] if text else [],
        },
    }


def error_figure(error: BaseException, height: int = 240) -> dict[str, Any]:
    """A figure that shows an error instead of data."""
    return problem_figure(explain(error), height)


def problem_figure(problem: Problem, height: int = 240) -> dict[str, Any]:
    """A figure that shows a problem instead of data."""
    lines = [problem.message, problem.hint, f"Request {problem.request}"]
    return blank_figure(height, "<br>".join(html_escape(line) for line in lines if line))


def problem_notice(problem: Problem) -> Component:
    """An error message: what happened, what to try, and the request's id."""
    return notice(problem.message, problem.hint, kind="error", request=problem.request)


def notice(message: str, hint: str = "", *, kind: str = "info", request: str = "") -> Component:
    """A message in the page."""
    mark = html.Span(f"Request {request}", className="mono muted alert-id") if request else None
    return html.Div(
        [
            html.Span(message, className="alert-title"),
            html.Span([hint, " ", mark] if mark else hint, className="alert-hint"),
        ],
        className=f"alert alert--{kind}",
        role="alert" if kind == "error" else "status",
    )


def fact(name: str, value: str) -> Component:
    """One row of an inspector: a name and its value."""
    return html.Div(
        [html.Dt(name, className="inspector-key"), html.Dd(value, className="inspector-value")],
        className="inspector-row",
    )


def empty_state(title: str, text: str) -> Component:
    """What a panel shows before there is anything to show."""
    return html.Div(
        [
            html.Div(title, className="empty-title"),
            html.Div(text, className="empty-text"),
        ],
        className="empty-state",
    )
