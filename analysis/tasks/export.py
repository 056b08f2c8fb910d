"""Reports on tasks as tidy tables, CSV, JSON and text."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from analysis.tasks.suite_specs import (
    EmergenceCurve,
    EmergenceReport,
    FailureReport,
    Share,
    SuiteReport,
)
from analysis.tasks.sum_specs import ContributionReport, PatchReport, ProbeReport, Projection


def as_json(report: Any) -> str:
    """Any report on a task as JSON; NaN becomes null."""
    return json.dumps(_plain(asdict(report)), indent=1)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def text(report: EmergenceReport) -> str:
    """Accuracy and mean rows with their intervals, one line each."""
    lines = [
        f"right: {one.name:28s} {one.hits:5d} of {one.total:5d}  "
        f"{100 * one.share:6.2f} %  [{100 * one.low:.2f}, {100 * one.high:.2f}]"
        for one in (report.accuracy, *report.by_label)
    ]
    lines.append(f"row of {report.measure} (mean of the tokens that emerge, 95 % interval):")
    for curve in report.curves:
        if not curve.count:
            lines.append(f"  {curve.name:44s} no tokens")
            continue
        interval = (
            f"[{curve.mean_low:.2f}, {curve.mean_high:.2f}]"
            if math.isfinite(curve.mean_low)
            else "(too few prompts for an interval)"
        )
        row = f"row {curve.mean:.2f} {interval}"
        lines.append(
            f"  {curve.name:44s} {curve.count:5d} tokens, never {curve.never:5d}, "
            f"{row if curve.never < curve.count else 'none emerges'}"
        )
    return "\n".join(lines)


Row = Sequence[Any]

#: Characters at which a spreadsheet starts a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


@dataclass(frozen=True, slots=True)
class Sheet:
    """One table.

    Attributes:
        name: Its content, in one word.
        header: Names of the columns.
        rows: Gives the rows of a report.
    """

    name: str
    header: tuple[str, ...]
    rows: Callable[[Any], Iterable[Row]]


def sheets(report: Any) -> tuple[Sheet, ...]:
    """The tables of a report on a task."""
    return SHEETS[type(report)]


def as_csv(report: Any, name: str) -> str:
    """One table of a report as CSV text.

    A text that a spreadsheet would run as a formula gets an apostrophe in front (OWASP, CSV
    injection), as prompts and answers can't be trusted. JSON has it unchanged.

    Raises:
        KeyError: If the report has no table of that name.
    """
    sheet = {one.name: one for one in sheets(report)}[name]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(sheet.header)
    writer.writerows([_field(value) for value in row] for row in sheet.rows(report))
    return text.getvalue()


def _field(value: Any) -> Any:
    if isinstance(value, str):
        return f"'{value}" if value.lstrip(" ").startswith(_FORMULA) else value
    if isinstance(value, np.generic):
        value = value.item()
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value


def _prompts(report: SuiteReport) -> Iterator[Row]:
    groups = report.groups or ("",) * len(report.prompts)
    yield from zip(
        report.prompts, report.answers, report.written, report.right, report.rows, groups,
        strict=True,
    )  # fmt: skip


def _shares(report: SuiteReport) -> Iterator[Row]:
    found: tuple[Share, ...] = (report.emergence.accuracy, *report.emergence.by_label)
    for one in found:
        yield one.name, one.hits, one.total, one.share, one.low, one.high


def _curves(report: SuiteReport) -> Iterator[Row]:
    found = report.emergence
    every: tuple[EmergenceCurve, ...] = (*found.curves, *found.by_digit)
    for one in every:
        mean = (one.count, one.never, one.mean, one.mean_low, one.mean_high)
        for row, values in enumerate(zip(one.by_row, one.low, one.high, strict=True)):
            yield one.name, row, *values, *mean


def _logits(report: ContributionReport) -> Iterator[Row]:
    for place, column in enumerate(report.columns):
        for carry in (0, 1):
            group = (column, carry, report.counts[place, carry])
            yield *group, "embedding", report.embedding[place, carry], None
            for (layer, head), value in np.ndenumerate(report.heads[place, carry]):
                half = report.spread[place, carry, layer, head]
                yield *group, f"head {layer}.{head}", value, half
            for layer, value in enumerate(report.mlps[place, carry]):
                yield *group, f"mlp {layer}", value, None


def _attention(report: ContributionReport) -> Iterator[Row]:
    for (place, layer, head, source), value in np.ndenumerate(report.attention):
        yield report.columns[place], layer, head, source, report.sources[source], value


def _probes(report: ProbeReport) -> Iterator[Row]:
    for (target, component, place), value in np.ndenumerate(report.accuracy):
        yield (
            report.targets[target], report.components[component], report.places[place], value,
            report.control[target, component, place], report.chance[target],
        )  # fmt: skip


def _points(report: Projection) -> Iterator[Row]:
    prompts = report.prompts or ("",) * len(report.points)
    for prompt, point, total, carry in zip(
        prompts, report.points, report.digit_sum, report.carry, strict=True
    ):
        yield prompt, *point, total, carry


def _patches(report: PatchReport) -> Iterator[Row]:
    for (column, component, place), value in np.ndenumerate(report.effect):
        if not math.isnan(value):
            yield (
                report.columns[column], report.components[component], report.places[place], value,
                report.control[column, component, place], report.pairs[column],
            )  # fmt: skip


def _states(report: FailureReport) -> Iterator[Row]:
    for number, pair in enumerate(report.pairs):
        for (row, pos), value in np.ndenumerate(pair.rows):
            flows = [None, None] if pair.flows is None else [
                pair.flows.right[row, pos], pair.flows.wrong[row, pos]
            ]  # fmt: skip
            yield (
                number, row, pos, pair.right_tokens[pos], pair.wrong_tokens[pos], value, *flows
            )  # fmt: skip


def _parts(report: FailureReport) -> Iterator[Row]:
    for number, pair in enumerate(report.pairs):
        for (layer, head), value in np.ndenumerate(pair.heads):
            yield number, f"head {layer}.{head}", value
        for layer, value in enumerate(pair.mlps):
            yield number, f"mlp {layer}", value


def _links(report: FailureReport) -> Iterator[Row]:
    for number, pair in enumerate(report.pairs):
        found = pair.flows
        if found is not None:
            for row in zip(
                found.kinds, found.layers, found.heads, found.sources, found.targets,
                found.right_links, found.wrong_links, strict=True,
            ):  # fmt: skip
                yield number, *row


SHEETS: dict[type[Any], tuple[Sheet, ...]] = {
    SuiteReport: (
        Sheet("prompts", ("prompt", "answer", "written", "right", "mean_row", "group"), _prompts),
        Sheet("accuracy", ("group", "right", "prompts", "share", "low", "high"), _shares),
        Sheet(
            "emergence",
            (
                "curve", "row", "share", "low", "high", "tokens", "never", "mean_row",
                "mean_low", "mean_high",
            ),
            _curves,
        ),
    ),
    ContributionReport: (
        Sheet("logits", ("column", "carry", "sums", "part", "logits", "half_interval"), _logits),
        Sheet(
            "attention", ("column", "layer", "head", "position", "place", "mean_pattern"),
            _attention,
        ),
    ),
    ProbeReport: (
        Sheet(
            "probes", ("target", "component", "place", "accuracy", "control", "chance"), _probes
        ),
    ),
    Projection: (Sheet("points", ("prompt", "axis1", "axis2", "digit_sum", "carry"), _points),),
    PatchReport: (
        Sheet(
            "patches", ("column", "component", "place", "effect", "control", "pairs"), _patches
        ),
    ),
    FailureReport: (
        Sheet(
            "states",
            (
                "pair", "row", "position", "right_token", "wrong_token", "distance", "right_flow",
                "wrong_flow",
            ),
            _states,
        ),
        Sheet("parts", ("pair", "part", "distance"), _parts),
        Sheet(
            "flows",
            (
                "pair", "kind", "layer", "head", "source", "target", "right_flow", "wrong_flow",
            ),
            _links,
        ),
    ),
}  # fmt: skip
