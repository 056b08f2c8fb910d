"""From a suite to its report, and from a dot to its prompt."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import parse_qsl

from dash import html
from dash.development.base_component import Component

from analysis.errors import CancelledError, SpecError
from analysis.results.tasks import SuiteReport
from analysis.tasks.spec import SuiteSpec
from dash_app.components.go import go, target
from dash_app.components.panel import empty, trouble
from dash_app.errors import Trouble, explain
from dash_app.figures import tasks as figures
from dash_app.shell import NewJob, Service
from dash_app.state import RunRef, Selection, ask, parse

SHOWN = 12


@dataclass(frozen=True, slots=True)
class Shown:
    """What the panel shows.

    Attributes:
        summary: The first line, or why there is no report.
        bars, curves, dots: Figures; None without a report.
        wrong: Wrong answers to open.
    """

    summary: Any
    bars: Any = None
    curves: Any = None
    dots: Any = None
    wrong: Any = None


def run(
    service: Service, model: str, suite: Any, size: Any, digits: Any, job: NewJob
) -> dict[str, Any]:
    """Run a suite; the spec of what is in the memo now, or how else that ended."""
    try:
        spec = _spec(model, suite, size, digits)
        service.suite(spec, job(0.0, 1.0))
        return {"spec": asdict(spec)}
    except CancelledError:
        return {"cancelled": True}
    except Exception as error:  # noqa: BLE001 - said in the panel
        problem = explain(error)
        return {"trouble": [problem.message, problem.hint, problem.request]}


def _spec(model: str, suite: Any, size: Any, digits: Any) -> SuiteSpec:
    if not isinstance(size, int) or not isinstance(digits, int):
        raise SpecError("Prompts and digits must be whole numbers.", "Try 60 and 2.")
    return SuiteSpec(model, str(suite), size, 0, digits)


def show(service: Service, ready: dict[str, Any], theme: Any) -> Shown:
    """The report of a finished run, or why there is none."""
    if ready.get("cancelled"):
        text = "What was finished is kept: run the suite again to go on."
        return Shown(empty("Cancelled", text))
    if "trouble" in ready:
        return Shown(trouble(Trouble(*ready["trouble"])))
    try:
        spec = SuiteSpec(**ready["spec"])
        return _shown(spec, service.suite(spec), theme)
    except Exception as error:  # noqa: BLE001 - said in the panel
        return Shown(trouble(explain(error)))


def _shown(spec: SuiteSpec, report: SuiteReport, theme: Any) -> Shown:
    found = report.emergence
    links = [
        target(model=spec.model, prompt=prompt, new=length)
        for prompt, length in zip(report.prompts, report.lengths, strict=True)
    ]
    shares = (found.accuracy, *found.by_label)
    return Shown(
        summary_line(spec, report),
        figures.accuracy(shares, theme=theme),
        figures.emergence(found, theme=theme),
        figures.prompts(report, links, theme=theme),
        wrong_answers(report, links),
    )


def summary_line(spec: SuiteSpec, report: SuiteReport) -> Component:
    """How many are right, with the interval."""
    one = report.emergence.accuracy
    return html.P(
        f"{report.title} on {spec.model}: {one.hits} of {one.total} right "
        f"({one.share:.1%}; 95 % interval {one.low:.1%} to {one.high:.1%})."
    )


def wrong_answers(report: SuiteReport, links: list[str]) -> list[Component]:
    """The first wrong answers, as buttons that open them; what is right stands beside."""
    wrong = [place for place, right in enumerate(report.right) if not right][:SHOWN]
    if not wrong:
        return [html.P("No wrong answers.", className="muted")]
    rows = [
        html.Li(
            [
                go(report.prompts[n], links[n], "example", label=f"Open {report.prompts[n]}"),
                html.Span(f" says {report.written[n]!r}, right is {report.answers[n]!r}"),
            ]
        )
        for n in wrong
    ]
    return [html.P("Wrong answers, up to the first wrong token:"), html.Ul(rows)]


def opened(value: Any, selection: Selection, _run: RunRef | None) -> Selection:
    """The prompt whose dot was clicked, in the page."""
    points = value.get("points", []) if isinstance(value, dict) else []
    link = points[0].get("customdata") if points else None
    if not isinstance(link, str):
        return selection
    chosen, _ = parse(parse_qsl(link, keep_blank_values=True), selection)
    return ask(chosen, model=chosen.model, prompt=chosen.prompt, new=chosen.new)
