"""From what the form holds to a spec, and from a spec to a report in the memo."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dash import html
from dash.development.base_component import Component

from analysis.errors import CancelledError, SpecError
from analysis.tasks import addition, suite_files, suites
from analysis.tasks.suite_specs import OWN, FailureSpec, SuiteSpec
from analysis.tasks.sum_specs import ContributionSpec, PatchSpec, ProbeSpec, ProjectionSpec
from dash_app.errors import Problem, explain
from dash_app.jobs.progress import failure, trouble_in
from dash_app.page.controls import go, target
from dash_app.page.panel import empty, notice, trouble
from dash_app.state.context import NewJob, Service
from dash_app.views.tasks.ids import Option

#: Digits of a sum, for models that have no count of their own.
DIGITS = 2
GONE = ("The list is no longer here.", "Upload the file again.")


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What became of a file: what is said of it, and, where it is good, how it is kept."""

    said: Any
    kept: dict[str, Any] | None = None


def run(service: Service, name: str, form: Mapping[str, Any], job: NewJob) -> dict[str, Any]:
    """Compute a report; the form that it came of, for drawing, or how else that ended."""
    try:
        asked = spec(service, name, form)
        service.ask(asked.model, asked, job(0.0, 1.0))
        return {"form": dict(form)}
    except CancelledError:
        return {"cancelled": True}
    except Exception as error:  # noqa: BLE001 - said in the panel
        return failure(error)


def spec(service: Service, name: str, form: Mapping[str, Any]) -> Any:
    """What a report's button asks for.

    Raises:
        SpecError: If the form holds nonsense, or names a list that is not kept any more.
    """
    model, digits = str(form["model"]), _whole(form["digits"], "Digits")
    if name == "suite":
        return _suite(service, form)
    size = _whole(form["own"], "The report's size")
    if name == "failure":
        return FailureSpec(_suite(service, form), size)
    if name == "contributions":
        return ContributionSpec(model, digits, size)
    if name == "probes":
        return ProbeSpec(model, digits, size)
    if name == "projection":
        component, place = str(form[Option.COMPONENT] or "row 1"), str(form[Option.PLACE] or "")
        column = _whole(form[Option.COLUMN] or 1, "Columns")
        return ProjectionSpec(model, component, place, column, max(digits, column), size)
    travels, positions = form[Option.TRAVELS] == "yes", form[Option.POSITIONS]
    return PatchSpec(model, digits, size, travels=travels, positions=positions)


def _whole(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise SpecError(f"{name} must be a whole number.", "Try 60 prompts of 2 digits.")
    return value


def _suite(service: Service, form: Mapping[str, Any]) -> SuiteSpec:
    model, suite = str(form["model"]), str(form["suite"])
    size, digits = _whole(form["size"], "Prompts"), _whole(form["digits"], "Digits")
    if suite != OWN:
        return SuiteSpec(model, suite, size, 0, digits)
    kept = form.get("list") or {}
    content = service.kept(str(kept.get("hash")))
    if content is None:
        raise SpecError(*GONE)
    return SuiteSpec(
        model, OWN, size, digits=digits, content=content, title=str(kept.get("name", ""))[:80]
    )


def ended(ready: Mapping[str, Any]) -> Component | None:
    """What to say of a run that ended without a report; None where there is one."""
    if ready.get("cancelled"):
        return cancelled()
    wrong = trouble_in(ready)
    return trouble(wrong) if wrong else None


def cancelled() -> Component:
    """After a cancel."""
    return empty("Cancelled", "What was finished is kept: start it again to go on.")


def upload(
    service: Service, contents: Any, filename: Any, *, most_bytes: int, most_rows: int
) -> Uploaded:
    """Read a file that a person chose: its mistakes by line, or how many prompts it holds."""
    name = str(filename or "list")[:80]
    try:
        suite = suite_files.parse(
            _decoded(contents, name, most_bytes), _kind(name), name, most_rows
        )
        kept = {"hash": service.keep(suite_files.as_lines(suite)), "name": name}
    except Exception as error:  # noqa: BLE001 - said beside the button
        return Uploaded(_mistakes(explain(error), name))
    count = len(suite.prompts)
    said = f"{name}: {count} prompts. It is chosen as the suite; run it."
    return Uploaded(notice(said), {**kept, "count": count})


def _kind(name: str) -> str:
    kind = name.lower().rpartition(".")[2]
    if kind not in ("csv", "jsonl"):
        raise SpecError(f"{name} is neither .csv nor .jsonl.", "Save it as one of them.")
    return kind


def _decoded(contents: Any, name: str, most: int) -> bytes:
    """The file's bytes out of the browser's data URL."""
    text = contents.partition(",")[2] if isinstance(contents, str) else ""
    if len(text) * 3 // 4 > most + 3:
        raise SpecError(
            f"{name} is larger than {most >> 10} KiB.",
            "Split it, or raise STRATASCOPE_MAX_LIST_KIB.",
        )
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SpecError(f"{name} did not arrive whole.", "Choose it again.") from error


def _mistakes(problem: Problem, name: str) -> Component:
    """Each bad line on a line of its own; what was run before stays."""
    lines = problem.message.split(" Line ")
    listed = [lines[0], *(f"Line {line}" for line in lines[1:])]
    return html.Div(
        [
            html.Span(
                f"{name} was not taken; what was run before is kept.", className="alert-title"
            ),
            html.Ul([html.Li(line) for line in listed]),
            html.Span(problem.hint, className="alert-hint"),
        ],
        className="alert alert--error",
        role="alert",
    )


def suite_options(kept: Mapping[str, Any] | None) -> list[dict[str, str]]:
    """The suites on offer, a list of one's own among them once there is one."""
    options = [{"label": suites.title(name), "value": name} for name in suites.NAMES]
    if kept:
        options.append({"label": f"Own list: {kept['name']} ({kept['count']})", "value": OWN})
    return options


def digits_of(model: str, digits: Any, fixed: bool) -> tuple[Any, bool]:
    """What the digits' control shows, and whether it is fixed: a trained adder has its own."""
    own = addition.padded_digits(model)
    if own is not None:
        return own, True
    return (DIGITS if fixed else digits), False


def own_sum(model: str) -> list[Any]:
    """The notes' own sum for a model, as a button, and why it is what it is."""
    example = addition.example_sum(model)
    button = go(
        example.prompt,
        target(model=model, prompt=example.prompt, new=example.new_tokens),
        "example",
        label=f"Open {example.prompt} on {model}",
    )
    return [html.Span("The notes' own sum:", className="control-label"), button,
            html.Span(example.note, className="control-help")]  # fmt: skip
