"""Reports on tasks as tidy tables, CSV, JSON and text."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from analysis.contract.sheets import (
    COUNT,
    HEAD,
    INDEX,
    LAYER,
    LOGITS,
    NUMBER,
    POSITION,
    RANK,
    ROW,
    SHARE,
    TEXT,
    Row,
    Sheet,
    csv_text,
    for_json,
)
from analysis.tasks.neuron_text_specs import NeuronTexts
from analysis.tasks.suite_effects import SHEETS as EFFECT_SHEETS
from analysis.tasks.suite_specs import (
    EmergenceCurve,
    EmergenceReport,
    FailureReport,
    Share,
    SuiteReport,
)
from analysis.tasks.sum_specs import (
    CarryCircuits,
    ContributionReport,
    PatchReport,
    ProbeReport,
    Projection,
)


def as_json(report: Any) -> str:
    """Any report on a task as JSON; NaN becomes null."""
    return json.dumps(for_json(report), indent=1)


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


def sheets(report: Any) -> tuple[Sheet, ...]:
    """The tables of a report on a task."""
    return SHEETS[type(report)]


def as_csv(report: Any, name: str) -> str:
    """One table of a report as CSV text.

    Raises:
        KeyError: If the report has no table of that name.
    """
    sheet = {one.name: one for one in sheets(report)}[name]
    return csv_text(sheet.header, sheet.rows(report))


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


def _firings(found: NeuronTexts) -> Iterator[Row]:
    for neuron in range(len(found.best)):
        for rank, one in enumerate(found.of(neuron)):
            yield neuron, rank, *one


def _carry_heads(report: CarryCircuits) -> Iterator[Row]:
    for (at, place), value in np.ndenumerate(report.carry):
        head = (report.layers[at], report.heads[at])
        yield *head, report.columns[place], report.below[at, place], value, report.scores[at]


def _carry_reads(report: CarryCircuits) -> Iterator[Row]:
    for (at, place, column), value in np.ndenumerate(report.reads):
        yield report.layers[at], report.heads[at], report.columns[place], column, value


def _carry_outputs(report: CarryCircuits) -> Iterator[Row]:
    for (at, place, total), value in np.ndenumerate(report.outputs):
        yield report.layers[at], report.heads[at], report.columns[place], total, value


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
    **EFFECT_SHEETS,
    SuiteReport: (
        Sheet(
            "prompts",
            {
                "prompt": TEXT, "answer": TEXT, "written": TEXT, "right": COUNT,
                "mean_row": NUMBER, "group": TEXT,
            },
            _prompts,
        ),
        Sheet(
            "accuracy",
            {
                "group": TEXT, "right": COUNT, "prompts": COUNT, "share": SHARE, "low": SHARE,
                "high": SHARE,
            },
            _shares,
        ),
        Sheet(
            "emergence",
            {
                "curve": TEXT, "row": ROW, "share": SHARE, "low": SHARE, "high": SHARE,
                "tokens": COUNT, "never": COUNT, "mean_row": NUMBER, "mean_low": NUMBER,
                "mean_high": NUMBER,
            },
            _curves,
        ),
    ),
    ContributionReport: (
        Sheet(
            "logits",
            {
                "column": INDEX, "carry": INDEX, "sums": COUNT, "part": TEXT, "logits": LOGITS,
                "half_interval": LOGITS,
            },
            _logits,
        ),
        Sheet(
            "attention",
            {
                "column": INDEX, "layer": LAYER, "head": HEAD, "position": INDEX, "place": TEXT,
                "mean_pattern": SHARE,
            },
            _attention,
        ),
    ),
    ProbeReport: (
        Sheet(
            "probes",
            {
                "target": TEXT, "component": TEXT, "place": TEXT, "accuracy": SHARE,
                "control": SHARE, "chance": SHARE,
            },
            _probes,
        ),
    ),
    Projection: (
        Sheet(
            "points",
            {"prompt": TEXT, "axis1": NUMBER, "axis2": NUMBER, "digit_sum": COUNT, "carry": COUNT},
            _points,
        ),
    ),
    NeuronTexts: (
        Sheet(
            "neurons",
            {
                "neuron": INDEX, "rank": RANK, "text": INDEX, "position": POSITION,
                "activation": NUMBER, "before": TEXT, "token": TEXT, "after": TEXT,
            },
            _firings,
        ),
    ),
    CarryCircuits: (
        Sheet(
            "heads",
            {
                "layer": LAYER, "head": HEAD, "column": INDEX, "reads_below": SHARE,
                "carry": SHARE, "score": SHARE,
            },
            _carry_heads,
        ),
        Sheet(
            "reads",
            {
                "layer": LAYER, "head": HEAD, "column": INDEX, "read_column": INDEX,
                "weight": SHARE,
            },
            _carry_reads,
        ),
        Sheet(
            "outputs",
            {
                "layer": LAYER, "head": HEAD, "column": INDEX, "digit_sum": COUNT,
                "output": NUMBER,
            },
            _carry_outputs,
        ),
    ),
    PatchReport: (
        Sheet(
            "patches",
            {
                "column": INDEX, "component": TEXT, "place": TEXT, "effect": SHARE,
                "control": SHARE, "pairs": COUNT,
            },
            _patches,
        ),
    ),
    FailureReport: (
        Sheet(
            "states",
            {
                "pair": INDEX, "row": ROW, "position": INDEX, "right_token": TEXT,
                "wrong_token": TEXT, "distance": NUMBER, "right_flow": SHARE, "wrong_flow": SHARE,
            },
            _states,
        ),
        Sheet("parts", {"pair": INDEX, "part": TEXT, "distance": NUMBER}, _parts),
        Sheet(
            "flows",
            {
                "pair": INDEX, "kind": TEXT, "layer": LAYER, "head": HEAD, "source": INDEX,
                "target": INDEX, "right_flow": SHARE, "wrong_flow": SHARE,
            },
            _links,
        ),
    ),
}  # fmt: skip
