"""What the sections on sums show: what writes each digit, and where a carry is held."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from dash import html

from analysis.tasks.sum_specs import ContributionReport, PatchReport, ProbeReport, Projection
from dash_app.views.tasks import figures as figures_module
from dash_app.views.tasks import sections, sum_figures
from dash_app.views.tasks.ids import Option
from dash_app.views.tasks.sections import Drawn, chosen, picture

#: What the column's list holds where no state was patched on its own.
NOT_EACH: tuple[list[dict[str, Any]], Any] = (
    [{"label": "Patch each first", "value": "", "disabled": True}], "",
)  # fmt: skip


def contributions(
    report: ContributionReport, form: Mapping[str, Any], options: Mapping[str, Any], theme: Any
) -> Drawn:
    """The map of contributions, and what one head reads."""
    _, layers, heads, _ = report.attention.shape
    names = [f"{layer}.{head}" for layer in range(layers) for head in range(heads)]
    size = np.nan_to_num(np.abs(report.heads)).max((0, 1)).reshape(-1)
    head = chosen(names, options.get(Option.HEAD), names[int(size.argmax())])
    to = _example(
        form, report.prompts, report.length,
        lambda n: report.carry[:, n // 2] == n % 2 if len(report.carry) else [],
    )  # fmt: skip
    layer, number = (int(part) for part in head.split("."))
    figures = [
        picture(
            sum_figures.contributions(report, to, theme=theme),
            "Purple: raises the right digit over the one that the other carry would give; orange:"
            " lowers it. Empty: no such sum. A click opens a sum of that group at that part."
            + sum_figures.left_out(report),
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
    said = html.P(f"{total} sums on {form['model']}; {layers} layers of {heads} heads and an MLP.")
    return Drawn(said, figures, {Option.HEAD: (rows, head)})


def probes(
    report: ProbeReport, form: Mapping[str, Any], options: Mapping[str, Any], theme: Any
) -> Drawn:
    """Accuracy by component where each column is written, and the map of one fact."""
    named = [(name, sum_figures.titled(name)) for name in report.targets]
    target = chosen([name for name, _ in named], options.get(Option.TARGET), report.targets[0])
    number = report.targets.index(target)
    to = _example(
        form, report.prompts, report.length,
        lambda n: report.values[:, n] == report.values[:, n].max() if len(report.values) else [],
    )  # fmt: skip
    mixed = options.get(Option.CONTROL) == "yes"
    lines = [
        picture(
            sum_figures.probe_lines(report, to, kind=kind, theme=theme),
            f"{what} at the state that writes the column. Dashed: the control, labels shuffled"
            f" among the sums. Judged on {report.held_out} sums.",
            wide=True,
        )
        for kind, what in (
            ("carry", "The carry into each column"),
            ("sum", "Each column's raw sum"),
        )
    ]
    chart = picture(
        sum_figures.probes(report, number, to, control=mixed, theme=theme),
        f"Judged on {report.held_out} sums not fitted on; guessing gives"
        f" {report.chance[number]:.0%}. A click opens a sum at that state.",
        wide=True,
    )
    most = float(
        np.nanmax(report.control[[n for n, (name, _) in enumerate(named) if name[0] == "c"]])
    )
    said = html.P(
        f"{report.fitted} sums fitted, {report.held_out} held out, on {form['model']}. With"
        f" shuffled labels no carry probe is above {most:.1%}.{_rows_only(report)}"
    )
    rows = [{"label": label, "value": name} for name, label in named]
    return Drawn(said, [*lines, chart], {Option.TARGET: (rows, target)})


def _rows_only(report: ProbeReport) -> str:
    if any(not name.startswith("row") for name in report.components):
        return ""
    return " This model has many parts: its rows are probed, its heads, attention and MLPs are not."


def projection(
    report: Projection, form: Mapping[str, Any], options: Mapping[str, Any], theme: Any
) -> Drawn:
    """The same dots twice: by digit sum and by carry."""
    model = str(form["model"])
    to = [
        sections.part(model, text, report.length, report.component, report.position)
        for text in report.prompts
    ]
    captions = {
        "digit_sum": f"Colour: the two digits of column {report.column} added, 0 to 18.",
        "carry": f"Orange diamonds: a carry goes into column {report.column}; blue: none.",
    }
    figures = [
        picture(
            figures_module.projection(report, colour=colour, theme=theme, links=to),
            captions[colour],
        )
        for colour in ("digit_sum", "carry")
    ]
    share = float(report.explained.sum())
    said = f"{len(report.points)} sums; the two axes hold {share:.0%} of the variance."
    return Drawn(html.P(said), figures)


def patching(
    report: PatchReport, form: Mapping[str, Any], options: Mapping[str, Any], theme: Any
) -> Drawn:
    """Effect or control of patching each component, and one column position by position."""
    counts = ", ".join(
        f"{n} of {report.requested} into column {column}"
        for n, column in zip(report.pairs, report.columns, strict=True)
    )
    said = [html.P(f"Pairs that {form['model']} has right without a patch: {counts}.")]
    if np.isnan(report.effect).all():
        few = "Fewer than five say nothing, so nothing was patched: a model that can't add hands no"
        return Drawn([*said, html.P(few + " carry over.", className="muted")])
    mixed = options.get(Option.CONTROL) == "yes"
    to = _example(form, report.receivers, report.length, lambda n: np.eye(len(report.columns))[n])
    figures = [
        picture(
            sum_figures.patches(report, to, control=mixed, theme=theme),
            "There: at the state that writes the digit. Everywhere: at all states up to it."
            f" {_margin(report)} A click opens the sum that is patched." + _blanks(report),
            wide=True,
        )
    ]
    columns = [str(column) for column in report.columns]
    column = chosen(columns, str(options.get(Option.COLUMN)), columns[0])
    if form.get(Option.POSITIONS) != "all":
        return Drawn(said, figures, {Option.COLUMN: NOT_EACH})
    chart = sum_figures.patch_positions(
        report, columns.index(column), to, control=mixed, theme=theme
    )
    figures.append(picture(chart, "Each state patched on its own.", wide=True))
    rows = [{"label": f"into {name}", "value": name} for name in columns]
    return Drawn(said, figures, {Option.COLUMN: (rows, column)})


def _blanks(report: PatchReport) -> str:
    """Why columns are empty, and which parts are no rows."""
    few = np.isnan(report.effect[..., -1]).any()
    said = " Empty: of fewer than five pairs nothing is said." if few else ""
    if any(name.startswith("head") for name in report.components):
        return said
    return f"{said} Heads are not patched: they are too many, or can't be told apart."


def _margin(report: PatchReport) -> str:
    """How surely a share is known in the column of fewest pairs, of those that were patched."""
    patched = ~np.isnan(report.effect).all((1, 2))
    pairs = int(report.pairs[patched].min())
    half = 0.98 / pairs**0.5  # 1.96 standard errors of a half
    return f"With {pairs} pairs, the fewest of a column, 50 % is known to ± {half:.0%}."


def _example(
    form: Mapping[str, Any], prompts: tuple[str, ...], length: int, fits: Callable[[int], Any]
) -> sum_figures.Link:
    """Opens the first prompt for which ``fits(group)`` holds, at a part and position."""
    model = str(form["model"])

    def link(group: int, part: str, position: int) -> str:
        which = np.flatnonzero(np.asarray(fits(group))[: len(prompts)])
        text = prompts[int(which[0])] if len(which) else ""
        return sections.part(model, text, length, part, position)

    return link
