"""Computes the reports of the tasks view, draws them, and exports them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dash.development.base_component import Component

from analysis.contract.specs import InfoSpec
from analysis.errors import AnalysisError, CancelledError, SpecError
from analysis.tasks import addition, export, suite_files, suites
from analysis.tasks.suite_effects import SuiteEffectSpec
from analysis.tasks.suite_specs import OWN, FailureSpec, SuiteSpec
from analysis.tasks.sum_specs import (
    CarryCircuitSpec,
    ContributionSpec,
    PatchSpec,
    ProbeSpec,
    ProjectionSpec,
)
from dash_app.errors import Problem, explain
from dash_app.jobs.job_and_draw import problem_to_store, stored_problem
from dash_app.page.panel import empty_state, notice, problem_notice, select_button, target
from dash_app.page.thin_layout import html
from dash_app.state.context import NewJob, Service
from dash_app.state.selection import Selection
from dash_app.views.tasks import failures, suite, sums
from dash_app.views.tasks.figure_parts import part_name
from dash_app.views.tasks.layout import Drawn, chosen
from dash_app.views.tasks.reports import ReportOption

#: Digits of a sum, for models without a fixed number of digits.
DIGITS = 2
#: The flow methods whose links are checked.
COMPARED = ("effect", "value_weighted", "proximity", "rollout")
GONE = ("The server no longer has the list.", "Upload the file again.")


@dataclass(frozen=True, slots=True)
class Uploaded:
    """An uploaded file: the message about it, and a reference to it if it is valid."""

    message: Any
    kept: dict[str, Any] | None = None


def run(service: Service, name: str, form: Mapping[str, Any], job: NewJob) -> dict[str, Any]:
    """Compute a report.

    Returns:
        The form, from which the report is drawn; or ``{"cancelled": True}``, or a problem.
    """
    try:
        spec = spec_of(service, name, form)
        service.ask(spec.model, spec, job(0.0, 1.0))
        return {"form": dict(form)}
    except CancelledError:
        return {"cancelled": True}
    except Exception as error:  # noqa: BLE001 - shown in the panel
        return problem_to_store(error)


def from_address(form: Mapping[str, Any], chosen: Selection) -> dict[str, Any]:
    """A report's form with what the address says; an uploaded list stays the suite."""
    digits, _ = digits_of(str(form["model"]), chosen.digits, fixed=False)
    suite = {} if form["suite"] == OWN else {"suite": chosen.suite}
    return {**form, **suite, "size": chosen.prompts, "digits": digits}


def known(service: Service, name: str, form: Mapping[str, Any]) -> dict[str, Any] | None:
    """What ``run`` would return if the memo has the report; else None."""
    try:
        spec = spec_of(service, name, form)
        found = service.peek(spec.model, spec)
    except (AnalysisError, ValueError):  # running it reports the error
        return None
    return None if found is None else {"form": dict(form)}


def spec_of(service: Service, name: str, form: Mapping[str, Any]) -> Any:
    """The spec of a report.

    Raises:
        SpecError: If the form has an invalid value, or its list is no longer stored.
    """
    model, digits = str(form["model"]), _whole(form["digits"], "Digits")
    if name == "circuits":
        return CarryCircuitSpec(model, digits)
    if name in ("suite", "effects"):
        return (_suite if name == "suite" else _effects)(service, form)
    size = _whole(form["own"], "The report's size")
    if name == "failure":
        return FailureSpec(_suite(service, form), size)
    if name in ("contributions", "probes"):
        return (ContributionSpec if name == "contributions" else ProbeSpec)(model, digits, size)
    if name == "projection":
        component, place = (
            str(form[ReportOption.COMPONENT] or "row 1"),
            str(form[ReportOption.PLACE] or ""),
        )
        column = _whole(int(form[ReportOption.COLUMN] or 1), "Columns")
        return ProjectionSpec(model, component, place, column, max(digits, column), size)
    travels, positions = form[ReportOption.TRAVELS] == "yes", form[ReportOption.POSITIONS]
    return PatchSpec(model, digits, size, travels=travels, positions=positions)


def _effects(service: Service, form: Mapping[str, Any]) -> SuiteEffectSpec:
    """The check of the suite by each of ``COMPARED``."""
    suite = _suite(service, form)
    return SuiteEffectSpec(
        suite.model, suite.suite, suite.size, suite.seed, suite.digits, methods=COMPARED,
        content=suite.content, title=suite.title,
    )  # fmt: skip


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


def message_without_report(ready: Mapping[str, Any]) -> Component | None:
    """The message about a job that ended without a report; None if there is one."""
    if ready.get("cancelled"):
        return cancelled()
    problem = stored_problem(ready)
    return problem_notice(problem) if problem else None


def cancelled() -> Component:
    """The message after a cancel."""
    return empty_state("Cancelled", "Finished prompts are kept. Start again to continue.")


def upload(
    service: Service, contents: Any, filename: Any, *, most_bytes: int, most_rows: int
) -> Uploaded:
    """Read an uploaded list; the message has its errors by line, or its number of prompts."""
    name = str(filename or "list")[:80]
    try:
        suite = suite_files.parse(
            _decoded(contents, name, most_bytes), _kind(name), name, most_rows
        )
        kept = {"hash": service.keep(suite_files.as_lines(suite)), "name": name}
    except Exception as error:  # noqa: BLE001 - shown beside the button
        return Uploaded(_errors(explain(error), name))
    count = len(suite.prompts)
    message = f"{name}: {count} prompts. It is selected as the suite. Press Run suite."
    return Uploaded(notice(message), {**kept, "count": count})


def _kind(name: str) -> str:
    kind = name.lower().rpartition(".")[2]
    if kind not in ("csv", "jsonl"):
        raise SpecError(f"{name} is not a .csv or .jsonl file.", "Save the list as one of them.")
    return kind


def _decoded(contents: Any, name: str, most: int) -> bytes:
    """The file's bytes from the browser's data URL."""
    text = contents.partition(",")[2] if isinstance(contents, str) else ""
    if len(text) * 3 // 4 > most + 3:
        raise SpecError(
            f"{name} is larger than {most >> 10} KiB.",
            "Split it, or raise STRATASCOPE_MAX_LIST_KIB.",
        )
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SpecError(f"The upload of {name} is incomplete.", "Upload it again.") from error


def _errors(problem: Problem, name: str) -> Component:
    """The errors of a list, one for each bad line."""
    lines = problem.message.split(" Line ")
    listed = [lines[0], *(f"Line {line}" for line in lines[1:])]
    return html.Div(
        [
            html.Span(
                f"{name} was not accepted. Earlier results are kept.", className="alert-title"
            ),
            html.Ul([html.Li(line) for line in listed]),
            html.Span(problem.hint, className="alert-hint"),
        ],
        className="alert alert-danger",
        role="alert",
    )


def suite_options(kept: Mapping[str, Any] | None) -> list[dict[str, str]]:
    """The suites to choose from, with the uploaded list if there is one."""
    options = [{"label": suites.title(name), "value": name} for name in suites.NAMES]
    if kept:
        options.append({"label": f"Own list: {kept['name']} ({kept['count']})", "value": OWN})
    return options


def digits_of(model: str, digits: Any, fixed: bool) -> tuple[Any, bool]:
    """The value of the digits' control, and whether it is fixed, as for a trained adder."""
    own = addition.padded_digits(model)
    if own is not None:
        return own, True
    return (DIGITS if fixed else digits), False


def own_sum(model: str) -> list[Any]:
    """A button that opens an example sum for a model, and why that sum was chosen."""
    example = addition.example_sum(model)
    button = select_button(
        example.prompt,
        target(model=model, prompt=example.prompt, new=example.new_tokens),
        "btn btn-outline-secondary example",
        label=f"Open {example.prompt} on {model}",
    )
    return [html.Span("Example sum:", className="control-label"), button,
            html.Span(example.note, className="control-help")]  # fmt: skip


DRAW: dict[str, Callable[[Any, Mapping[str, Any], Mapping[str, Any], Any], Drawn]] = {
    "suite": suite.suite,
    "failure": failures.failure,
    "effects": suite.effects,
    "contributions": sums.contributions,
    "circuits": sums.circuits,
    "probes": sums.probes,
    "projection": sums.projection,
    "patching": sums.patching,
}
WRITTEN = {"label": "where the column's digit is written", "value": ""}


@dataclass(frozen=True, slots=True)
class File:
    """A file to download."""

    name: str
    text: str


def draw(
    service: Service, name: str, ready: Mapping[str, Any], options: Mapping[str, Any], theme: Any
) -> Drawn | None:
    """A finished report; None if the job ended without one."""
    if "form" not in ready:
        return None
    try:
        return DRAW[name](_report(service, name, ready), ready["form"], options, theme)
    except Exception as error:  # noqa: BLE001 - shown in the panel
        return Drawn(problem_notice(explain(error)))


def _report(service: Service, name: str, ready: Mapping[str, Any]) -> Any:
    spec = spec_of(service, name, ready["form"])
    return service.ask(spec.model, spec)


def file_of(service: Service, name: str, part: str, ready: Any) -> File | None:
    """A table of a report, or the whole report, as a file; None if there is no report."""
    if not isinstance(ready, dict) or "form" not in ready:
        return None
    report = _report(service, name, ready)
    stem = f"{name}-{ready['form']['model']}".replace("/", "-")
    if part == "json":
        return File(f"{stem}.json", export.as_json(report))
    sheet = part.removeprefix("csv-")
    return File(f"{stem}-{sheet}.csv", export.as_csv(report, sheet))


def projection_lists(
    service: Service, model: Any, probed: Any, digits: Any, wanted: Sequence[Any]
) -> list[Any]:
    """The choices of components, positions and columns to project, each with its value.

    Positions other than the one that writes the column are known only after probes are fitted.
    """
    names = _components(service, model)
    form = probed.get("form") if isinstance(probed, dict) else None
    places: tuple[str, ...] = ()
    if form is not None and form["model"] == model and form["digits"] == digits:
        found = service.peek(model, spec_of(service, "probes", form))
        places = found.places if found is not None else ()
    known = [{"label": name, "value": name} for name in dict.fromkeys(places) if name.strip()]
    columns = list(range(1, _columns(model, digits)))
    component, place, column = wanted
    return [
        [{"label": part_name(name), "value": name} for name in names],
        chosen(names, component, "row 1" if "row 1" in names else names[0]),
        [WRITTEN, *known],
        chosen(["", *places], place, ""),
        [{"label": str(one), "value": str(one)} for one in columns],
        chosen([str(one) for one in columns], str(column), "1"),
    ]


def _components(service: Service, model: Any) -> list[str]:
    """Names of a model's components; for a model that is not loaded yet, only the first rows."""
    try:
        info = service.peek(str(model), InfoSpec())
    except AnalysisError:
        info = None
    if info is None:
        return ["row 0", "row 1"]
    made = ["row 0"]
    for layer in range(info.layers):
        heads = [f"head {layer}.{head}" for head in range(info.heads)]
        made += [f"attention {layer}", *heads, f"mlp {layer}", f"row {layer + 1}"]
    return made


def _columns(model: Any, digits: Any) -> int:
    """One more than the highest column that has a digit sum."""
    own = addition.padded_digits(str(model))
    count = own or (digits if isinstance(digits, int) and 1 <= digits <= 15 else 2)
    return max(count, 2)
