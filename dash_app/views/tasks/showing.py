"""A finished report, out of the memo: drawn, or as a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.contract.results import InfoSpec
from analysis.errors import AnalysisError
from analysis.tasks import export
from dash_app.errors import explain
from dash_app.page.panel import trouble
from dash_app.state.context import Service
from dash_app.views.tasks import actions, failures, suite, sums
from dash_app.views.tasks.sections import Drawn, chosen

DRAWING: dict[str, Callable[[Any, Mapping[str, Any], Mapping[str, Any], Any], Drawn]] = {
    "suite": suite.suite,
    "failure": failures.failure,
    "contributions": sums.contributions,
    "probes": sums.probes,
    "projection": sums.projection,
    "patching": sums.patching,
}
WRITTEN = {"label": "where the column is written", "value": ""}


@dataclass(frozen=True, slots=True)
class File:
    """A file to download."""

    name: str
    text: str


def show(
    service: Service, name: str, ready: Mapping[str, Any], options: Mapping[str, Any], theme: Any
) -> Drawn | None:
    """A finished report; None where the run ended without one."""
    if "form" not in ready:
        return None
    try:
        return DRAWING[name](_report(service, name, ready), ready["form"], options, theme)
    except Exception as error:  # noqa: BLE001 - said in the panel
        return Drawn(trouble(explain(error)))


def _report(service: Service, name: str, ready: Mapping[str, Any]) -> Any:
    asked = actions.spec(service, name, ready["form"])
    return service.ask(asked.model, asked)


def file_of(service: Service, name: str, part: str, ready: Any) -> File | None:
    """A report's table, or all of it, as a file; None where there is no report."""
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
    """Components, positions and columns to project, each with its value.

    Positions other than the one where the column is written are known once probes are fitted.
    """
    names = _components(service, model)
    form = probed.get("form") if isinstance(probed, dict) else None
    places: tuple[str, ...] = ()
    if form is not None and form["model"] == model and form["digits"] == digits:
        found = service.peek(model, actions.spec(service, "probes", form))
        places = found.places if found is not None else ()
    known = [{"label": name, "value": name} for name in dict.fromkeys(places) if name.strip()]
    columns = list(range(1, _columns(model, digits)))
    component, place, column = wanted
    return [
        names,
        chosen(names, component, "row 1" if "row 1" in names else names[0]),
        [WRITTEN, *known],
        chosen(["", *places], place, ""),
        [{"label": str(one), "value": one} for one in columns],
        chosen(columns, column, 1),
    ]


def _components(service: Service, model: Any) -> list[str]:
    """Names of a model's parts; of a model not loaded yet only the first rows."""
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
    """One more than the highest column whose digit sum there is."""
    from analysis.tasks.addition import padded_digits

    own = padded_digits(str(model))
    count = own or (digits if isinstance(digits, int) and 1 <= digits <= 15 else 2)
    return max(count, 2)
