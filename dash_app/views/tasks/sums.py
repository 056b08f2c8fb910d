"""The reports on sums: what writes each digit, and which states have the carry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from analysis.tasks.sum_specs import (
    CarryCircuits,
    ContributionReport,
    PatchReport,
    ProbeReport,
    Projection,
)
from dash_app.page.thin_layout import html
from dash_app.views.tasks import sum_figures
from dash_app.views.tasks.layout import Drawn, chosen, part_target, picture
from dash_app.views.tasks.reports import ReportOption

#: The column's list if no state was patched on its own.
NOT_EACH: tuple[list[dict[str, Any]], Any] = (
    [{"label": "Patch each state first", "value": "", "disabled": True}], "",
)  # fmt: skip


def contributions(
    report: ContributionReport, form: Mapping[str, Any], options: Mapping[str, Any], theme: Any
) -> Drawn:
    """The heatmap of contributions, and what one head reads."""
    _, layers, heads, _ = report.attention.shape
    names = [f"{layer}.{head}" for layer in range(layers) for head in range(heads)]
    size = np.nan_to_num(np.abs(report.heads)).max((0, 1)).reshape(-1)
    head = chosen(names, options.get(ReportOption.HEAD), names[int(size.argmax())])
    to = _example(
        form, report.prompts, report.length,
        lambda n: report.carry[:, n // 2] == n % 2 if len(report.carry) else [],
    )  # fmt: skip
    layer, number = (int(part) for part in head.split("."))
    figures = [
        picture(
            sum_figures.contributions(report, to, theme=theme),
            "Purple: raises the right digit above the digit that the other carry would give."
            " Orange: lowers it. Empty: there is no such sum. Click a cell to open a sum of its"
            " group at its component." + sum_figures.left_out(report),
            wide=True,
        ),
        picture(
            sum_figures.attention(report, layer, number, to, theme=theme),
            "Mean over sums." + sum_figures.unread(report, layer, number),
            wide=True,
        ),
    ]
    total = int(report.counts[0].sum())
    rows = [{"label": name, "value": name} for name in names]
    summary = f"{total} sums on {form['model']}; {layers} layers of {heads} heads and an MLP."
    return Drawn(html.P(summary), figures, {ReportOption.HEAD: (rows, head)})


def probes(
    report: ProbeReport, form: Mapping[str, Any], options: Mapping[str, Any], theme: Any
) -> Drawn:
    """Accuracy by component where each column is written, and the heatmap of one fact."""
    named = [(name, sum_figures.titled(name)) for name in report.targets]
    target = chosen(
        [name for name, _ in named], options.get(ReportOption.TARGET), report.targets[0]
    )
    number = report.targets.index(target)
    to = _example(
        form, report.prompts, report.length,
        lambda n: report.values[:, n] == report.values[:, n].max() if len(report.values) else [],
    )  # fmt: skip
    mixed = options.get(ReportOption.CONTROL) == "yes"
    lines = [
        picture(
            sum_figures.probe_lines(report, to, kind=kind, theme=theme),
            f"{what}, at the state that writes the column. Dashed: the control, with labels"
            f" shuffled among the sums. Tested on {report.held_out} sums.",
            wide=True,
        )
        for kind, what in (
            ("carry", "The carry into each column"),
            ("sum", "Each column's raw sum"),
        )
    ]
    chart = picture(
        sum_figures.probes(report, number, to, control=mixed, theme=theme),
        f"Tested on {report.held_out} held-out sums; chance is {report.chance[number]:.0%}. Click a"
        " cell to open a sum at that state.",
        wide=True,
    )
    most = float(
        np.nanmax(report.control[[n for n, (name, _) in enumerate(named) if name[0] == "c"]])
    )
    summary = (
        f"{report.fitted} sums fitted, {report.held_out} held out, on {form['model']}. With"
        f" shuffled labels no carry probe is above {most:.1%}.{_rows_only(report)}"
    )
    rows = [{"label": label, "value": name} for name, label in named]
    return Drawn(html.P(summary), [*lines, chart], {ReportOption.TARGET: (rows, target)})


def _rows_only(report: ProbeReport) -> str:
    if any(not name.startswith("row") for name in report.components):
        return ""
    return (
        " This model is large, so only its residual states are probed, not its heads, attention"
        " and MLPs."
    )


def projection(
    report: Projection, form: Mapping[str, Any], options: Mapping[str, Any], theme: Any
) -> Drawn:
    """The same dots twice: coloured by digit sum and by carry."""
    model = str(form["model"])
    to = [
        part_target(model, text, report.length, report.component, report.position)
        for text in report.prompts
    ]
    captions = {
        "digit_sum": f"Colour: the sum of the two digits of column {report.column}, 0 to 18.",
        "carry": f"Orange diamonds: a carry into column {report.column}. Blue: no carry.",
    }
    figures = [
        picture(
            sum_figures.projection(report, colour=colour, theme=theme, links=to),
            captions[colour],
        )
        for colour in ("digit_sum", "carry")
    ]
    share = float(report.explained.sum())
    summary = f"{len(report.points)} sums; the two axes have {share:.0%} of the variance."
    return Drawn(html.P(summary), figures)


def circuits(
    report: CarryCircuits, form: Mapping[str, Any], options: Mapping[str, Any], theme: Any
) -> Drawn:
    """The two shares of each head, and what the chosen head writes for each digit sum."""
    names = [report.name(at).removeprefix("head ") for at in range(len(report.heads))]
    head = chosen(names, options.get(ReportOption.HEAD), names[int(report.order[0])])
    figures = [
        picture(
            sum_figures.carry_heads(report, theme=theme),
            f"By the weights of {form['model']} alone; no pass through the model. The"
            " last column is the score.",
            wide=True,
        ),
        picture(
            sum_figures.carry_steps(report, names.index(head), theme=theme),
            "Mean over the pairs of digits with each sum. A head that makes carries has a step"
            " between 9 and 10.",
            wide=True,
        ),
    ]
    rows = [{"label": name, "value": name} for name in names]
    return Drawn(html.P(report.sentence), figures, {ReportOption.HEAD: (rows, head)})


def patching(
    report: PatchReport, form: Mapping[str, Any], options: Mapping[str, Any], theme: Any
) -> Drawn:
    """Effect or control of patching each component, and one column by position."""
    counts = ", ".join(
        f"{n} of {report.requested} into column {column}"
        for n, column in zip(report.pairs, report.columns, strict=True)
    )
    lines = [html.P(f"Pairs that {form['model']} answers correctly without a patch: {counts}.")]
    if np.isnan(report.effect).all():
        few = (
            "Nothing was patched, because fewer than five pairs are too few for a result. A "
            "model that can't add does not pass carries on."
        )
        return Drawn([*lines, html.P(few, className="muted")])
    mixed = options.get(ReportOption.CONTROL) == "yes"
    to = _example(form, report.receivers, report.length, lambda n: np.eye(len(report.columns))[n])
    figures = [
        picture(
            sum_figures.patches(report, to, control=mixed, theme=theme),
            "There: at the state that writes the digit. Everywhere: at all states up to it."
            f" {_margin(report)} Click a cell to open the patched sum." + _blanks(report),
            wide=True,
        )
    ]
    columns = [str(column) for column in report.columns]
    column = chosen(columns, str(options.get(ReportOption.COLUMN)), columns[0])
    if form.get(ReportOption.POSITIONS) != "all":
        return Drawn(lines, figures, {ReportOption.COLUMN: NOT_EACH})
    chart = sum_figures.patch_positions(
        report, columns.index(column), to, control=mixed, theme=theme
    )
    figures.append(picture(chart, "Each state patched on its own.", wide=True))
    rows = [{"label": f"into {name}", "value": name} for name in columns]
    return Drawn(lines, figures, {ReportOption.COLUMN: (rows, column)})


def _blanks(report: PatchReport) -> str:
    """Why columns are empty, and why heads are missing."""
    few = np.isnan(report.effect[..., -1]).any()
    note = " Empty: fewer than five pairs." if few else ""
    if any(name.startswith("head") for name in report.components):
        return note
    return f"{note} Heads are not patched: there are too many, or they can't be separated."


def _margin(report: PatchReport) -> str:
    """The error of a share in the patched column with the fewest pairs."""
    patched = ~np.isnan(report.effect).all((1, 2))
    pairs = int(report.pairs[patched].min())
    half = 0.98 / pairs**0.5  # 1.96 standard errors of a half
    return f"With {pairs} pairs, the fewest of any column, the error of 50 % is ± {half:.0%}."


def _example(
    form: Mapping[str, Any], prompts: tuple[str, ...], length: int, fits: Callable[[int], Any]
) -> sum_figures.Link:
    """A link that opens the first prompt of a group, at a component and position."""
    model = str(form["model"])

    def link(group: int, part: str, position: int) -> str:
        which = np.flatnonzero(np.asarray(fits(group))[: len(prompts)])
        text = prompts[int(which[0])] if len(which) else ""
        return part_target(model, text, length, part, position)

    return link
