"""The report on a suite: how many answers are right, and after which layer they emerge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from dash.development.base_component import Component

from analysis.tasks.suite_effects import SuiteEffects
from analysis.tasks.suite_specs import OWN, EmergenceCurve, SuiteReport
from dash_app.page.panel import select_button
from dash_app.page.thin_layout import html
from dash_app.views.tasks import suite_figures
from dash_app.views.tasks.figure_parts import mean_layer
from dash_app.views.tasks.layout import Drawn, picture, prompt_target

SHOWN = 12
LISTED = 200


def suite(
    report: SuiteReport, form: Mapping[str, Any], options: Mapping[str, Any], theme: Any
) -> Drawn:
    """Accuracy, emergence by curve and by digit, a dot for each prompt, wrong answers."""
    model, found = str(form["model"]), report.emergence
    to = [
        prompt_target(model, prompt, length)
        for prompt, length in zip(report.prompts, report.lengths, strict=True)
    ]
    shares = (found.accuracy, *found.by_label)
    examples = [to[0], *(to[report.groups.index(one.name)] for one in found.by_label)]
    figures = [
        picture(
            suite_figures.accuracy(shares, theme=theme, links=examples),
            "Share of right answers; bars: 95 % Wilson intervals. Wide bars mean few prompts.",
        ),
        picture(
            suite_figures.by_digit(found, theme=theme, links=to),
            "Mean layer after which each digit's choice ranks first to the end; bars: 95 %"
            " bootstrap intervals over prompts, if there are at least ten.",
        ),
        picture(
            suite_figures.emergence(found, theme=theme, links=to),
            "Same frequency: another prompt's answer token, followed in this prompt. Shuffled: "
            "the right token after the prompt's tokens are shuffled. In brackets: number of answer"
            " tokens.",
            wide=True,
        ),
        picture(
            suite_figures.prompts(report, to, theme=theme),
            "One dot for each prompt. Click a dot to open its prompt.",
            wide=True,
            name="tasks-prompts",
        ),
        html.Div(_listed(report, to), className="tasks-figure--wide"),
    ]
    return Drawn([*_summary(model, report), *_not_run(form, report)], figures)


def effects(
    report: SuiteEffects, form: Mapping[str, Any], options: Mapping[str, Any], theme: Any
) -> Drawn:
    """The strongest roles with their intervals, and how well each method agrees with the cuts."""
    shown = suite_figures.roles_shown(report)
    figures = [
        picture(
            suite_figures.effects(report, theme=theme),
            f"Median effect of a cut by role, the {len(shown)} largest of {len(report.order)} roles"
            " that at least half of the prompts have. To the right: the answer loses. Colour:"
            " attention or MLP. The CSV has all roles.",
            wide=True,
        ),
        picture(
            suite_figures.agreement(report, theme=theme),
            "Rank correlation of drawn flow and absolute effect: 1 means the same order.",
        ),
    ]
    left = f" {report.skipped} prompts have no such token." if report.skipped else ""
    count = len(report.prompts)
    summary = f"{report.title}: {count} {'prompt' if count == 1 else 'prompts'} on {form['model']}."
    return Drawn(html.P(summary + left), figures)


def _summary(model: str, report: SuiteReport) -> list[Component]:
    one = report.emergence.accuracy
    lines = [
        f"{report.title} on {model}: {one.hits} of {one.total} right "
        f"({one.share:.1%}; 95 % interval {one.low:.1%} to {one.high:.1%})."
    ]
    right, wrong = report.emergence.curves[:2]
    emergence = [
        _mean_layer(name, curve)
        if np.isfinite(curve.mean_low)
        else f"{name} answers: {suite_figures.few(curve)} for a mean layer"
        for name, curve in (("Right", right), ("Wrong", wrong))
        if curve.count
    ]
    return [html.P(line) for line in (*lines, ". ".join(emergence) + ".")]


def _mean_layer(name: str, curve: EmergenceCurve) -> str:
    mean, low, high = mean_layer(curve.mean, curve.mean_low, curve.mean_high)
    note = "; the embedding is -1" if curve.mean_low < 1 else ""
    return f"{name} answers emerge after layer {mean} on average ({low} to {high}{note})"


def _not_run(form: Mapping[str, Any], report: SuiteReport) -> list[Component]:
    """A note if a list has more prompts than were run, or a suite fewer than requested."""
    count, own = len(report.prompts), form["suite"] == OWN
    listed = (form.get("list") or {}).get("count", count)
    if own and listed > count:
        return [html.P(f"The list has {listed} prompts. The first {count} were run.")]
    if not own and form["size"] > count:
        return [html.P(f"The suite has only {count} prompts.")]
    return []


def _listed(report: SuiteReport, to: list[str]) -> list[Component]:
    """The first wrong answers, and a list of prompts, as buttons that open them."""
    wrong = [place for place, right in enumerate(report.right) if not right]
    parts: list[Component] = [html.P("There are no wrong answers.", className="muted")]
    if wrong:
        more = f" (the first {SHOWN} of {len(wrong)})" if len(wrong) > SHOWN else ""
        parts = [
            html.P(f"Wrong answers, up to the first wrong token{more}:"),
            html.Ul([_item(report, to, n) for n in wrong[:SHOWN]]),
        ]
    count = min(len(to), LISTED)
    return [
        *parts,
        html.Details(
            [
                html.Summary(f"List of prompts ({count} of {len(to)})"),
                html.Ul([_item(report, to, n) for n in range(count)]),
            ],
            className="flow-list",
        ),
    ]


def _item(report: SuiteReport, to: list[str], n: int) -> Component:
    last = report.prompts[n].splitlines()[-1]
    verdict = "right" if report.right[n] else f"expected {report.answers[n]!r}"
    return html.Li(
        [
            select_button(
                last, to[n], "btn btn-outline-secondary example", label=f"Open {report.prompts[n]}"
            ),
            html.Span(f" answer {report.written[n]!r}, {verdict}"),
        ]
    )
