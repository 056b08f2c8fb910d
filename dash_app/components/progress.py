"""A job in the page: its progress bar, and what Dash is told of the callback that does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dash import Input, Output, ctx, html, set_props
from dash.development.base_component import Component
from dash.exceptions import PreventUpdate

from dash_app.shell import Context

BUSY, IDLE = "progress is-busy", "progress is-idle"


def progress(name: str, *buttons: Component) -> Component:
    """A bar of the id ``name`` and what is being done, seen while the job runs; then buttons."""
    fill = html.Div(id=_fill(name), className="progress-fill")
    label = html.Span(id=_label(name), className="progress-label")
    return html.Div(
        [html.Div(fill, className="progress-track"), label, *buttons],
        id=name,
        className=IDLE,
        role="status",
    )


def small_button(text: str, name: str) -> Component:
    """A button beside a job that starts one."""
    return html.Button(text, id=name, type="button", className="button button--small")


def stop_button(name: str) -> Component:
    """A button that stops a job, once it can (``begun``)."""
    return html.Button(
        "Stop", id=name, type="button", className="button button--small", disabled=True
    )


def job(
    context: Context, name: str, stop: str, running: Sequence[tuple[Output, Any, Any]] = ()
) -> dict[str, Any]:
    """What ``app.callback`` is told, beside inputs and outputs, to do a job in the background.

    Its function starts with ``begun``.

    Args:
        context: Has the manager of such jobs.
        name: Id of the job's ``progress``.
        stop: Id of the button that cancels it; it is off until the page knows the job.
        running: Further (output, while it runs, then).
    """
    return {
        "background": True,
        "manager": context.manager,
        "interval": context.settings.poll_ms,
        "progress": [
            Output(_fill(name), "style"),
            Output(_label(name), "children"),
            Output(name, "className"),
            Output(stop, "disabled"),
        ],
        "progress_default": [{"width": "0%"}, "", IDLE, True],
        "running": [(Output(name, "className"), BUSY, IDLE), *running],
        "cancel": [Input(stop, "n_clicks")],
        "prevent_initial_call": True,
    }


def begun(set_progress: Callable[[Any], None]) -> Callable[[Any], None]:
    """Tell the page that a job has begun, so that it can be stopped; gives what shows its progress.

    Dash cancels the jobs that the browser knows of. One that the server has not answered for yet
    would run on, however often it is told to stop; its first progress says that it is known. Every
    progress says so: where two runs are asked for before the first is known, the end of one would
    else leave the other without a bar and without a button.
    """

    def show(value: Any) -> None:
        set_progress([*value, BUSY, False])

    show([{"width": "0%"}, ""])
    return show


def hand_over(store: str, ready: Any) -> None:
    """Give what a job has found to the picture that listens to ``store``.

    Set, not returned: Dash would hold back the picture until the job is over.

    Raises:
        PreventUpdate: If it has found nothing, as the picture is there already.
    """
    if ready is None:
        raise PreventUpdate
    set_props(store, {"data": ready})


def news_of(store: str, ready: Any) -> Any:
    """What a job has just handed over; None where something else asks for the picture."""
    return ready if ctx.triggered_id == store else None


def _fill(name: str) -> str:
    return f"{name}-fill"


def _label(name: str) -> str:
    return f"{name}-label"
