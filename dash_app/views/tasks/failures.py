"""The report on failures: one pair of a right and a wrong answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dash.development.base_component import Component

from analysis.tasks.suite_specs import AnsweredPrompt, AnswerPair, FailureReport, FlowChange
from dash_app.page.panel import select_button
from dash_app.page.thin_layout import html
from dash_app.page.token_labels import row_name
from dash_app.views.tasks import failure_figures
from dash_app.views.tasks.layout import (
    Drawn,
    chosen,
    part_target,
    picture,
    prompt_target,
    state_target,
)
from dash_app.views.tasks.reports import ReportOption

#: Links in the table.
LISTED = 12


def failure(
    report: FailureReport, form: Mapping[str, Any], options: Mapping[str, Any], theme: Any
) -> Drawn:
    """The chosen pair: states, components, probabilities and flows."""
    model = str(form["model"])
    if not report.pairs:
        return Drawn(_nothing(report, model))
    names = [str(n) for n in range(len(report.pairs))]
    number = chosen(names, options.get(ReportOption.PAIR), "0")
    pair = report.pairs[int(number)]
    rows = [{"label": _name(one), "value": n} for n, one in zip(names, report.pairs, strict=True)]
    return Drawn(
        _summary(report, pair, model),
        _pictures(pair, model, theme),
        {ReportOption.PAIR: (rows, number)},
    )


def _name(pair: AnswerPair) -> str:
    assert pair.wrong_prompt is not None  # noqa: S101 - every pair of the service has both
    assert pair.right_prompt is not None  # noqa: S101
    wrong, right = (_last(one.prompt) for one in (pair.wrong_prompt, pair.right_prompt))
    return f"{wrong} beside {right}"


def _last(prompt: str) -> str:
    line = prompt.splitlines()[-1].strip()
    return line if len(line) <= 32 else "…" + line[-31:]


def _nothing(report: FailureReport, model: str) -> Any:
    if not report.wrong:
        text = f"All {report.right} answers of {model} are right, so there is no failure to show."
    elif not report.right:
        text = f"All {report.wrong} answers of {model} are wrong, so there is none to compare with."
    else:
        text = (
            f"{report.wrong} answers of {model} are wrong, but no right one has the same number of"
            " tokens (or they are wrong only after the answer)."
        )
    return html.P(text, className="muted")


def _summary(report: FailureReport, pair: AnswerPair, model: str) -> list[Component]:
    lines: list[Any] = [html.P(_counts(report, model))]
    for name, one in (("Wrong", pair.wrong_prompt), ("Right", pair.right_prompt)):
        if one is not None:
            lines.append(_answer(name, one, model))
    if pair.first is not None:
        row, pos = pair.first
        token = pair.wrong_tokens[pos]
        lines.append(
            html.P(
                f"The state {row_name(row)} at position {pos} ({token!r}) is the first that differs"
                " by more than half although both prompts have the same token there."
            )
        )
    return lines


def _counts(report: FailureReport, model: str) -> str:
    """The numbers of right and wrong answers, and how many of the wrong ones have a pair."""
    parts = [f"{report.right} right, {report.wrong} wrong on {model}"]
    if len(report.pairs) < report.paired:
        parts.append(f"the {len(report.pairs)} most similar of {report.paired} pairs are listed")
    if report.unpaired:
        parts.append(f"{report.unpaired} wrong ones have no right one of equal length")
    longer = report.wrong - report.unpaired - max(report.paired, len(report.pairs))
    if longer > 0:
        parts.append(f"{longer} are wrong only after the answer")
    return "; ".join(parts) + "."


def _answer(name: str, one: AnsweredPrompt, model: str) -> Component:
    to = prompt_target(model, one.prompt, one.length)
    return html.P(
        [
            f"{name}: ",
            select_button(
                _last(one.prompt),
                to,
                "btn btn-outline-secondary example",
                label=f"Open {one.prompt}",
            ),
            f" answer {one.written!r}, expected {one.answer!r}.",
        ]
    )


def _pictures(pair: AnswerPair, model: str, theme: Any) -> list[Component]:
    asked = pair.wrong_prompt

    def link(row: int, pos: int, layer: int, head: int) -> str:
        if asked is None:
            return ""
        if layer < 0:
            return state_target(model, asked.prompt, asked.length, row, pos)
        name = f"mlp {layer}" if head < 0 else f"head {layer}.{head}"
        return part_target(model, asked.prompt, asked.length, name, pos)

    made = [
        picture(
            failure_figures.states(pair, link, theme=theme),
            "0: equal states. Click a cell to open the wrong prompt at that state."
            + failure_figures.left_out(pair),
            wide=True,
        ),
        picture(
            failure_figures.parts(pair, link, theme=theme),
            "At the state that predicts the first wrong token. Empty: heads that can't be"
            " separated.",
        ),
        picture(
            failure_figures.probabilities(pair, link, theme=theme),
            "Probability of each prompt's right token (logit lens), and the part of the flow that"
            " takes other paths, by layer.",
        ),
    ]
    if pair.flows is None:
        note = "Flows can't be compared, because this model's heads can't be separated."
        return [*made, html.P(note, className="muted")]
    drawn = failure_figures.flows(pair, pair.flows, link, theme=theme)
    caption = "Purple: more flows through this state in the wrong run; orange: less."
    caption += _not_drawn(pair, pair.flows)
    return [*made, picture(drawn, caption, wide=True), _links(pair, pair.flows)]


def _not_drawn(pair: AnswerPair, found: FlowChange) -> str:
    """How much flow passes through the omitted positions."""
    first = failure_figures.shown(pair).start
    if not first:
        return ""
    right, wrong = (float(run[:, :first].sum(1).max()) for run in (found.right, found.wrong))
    return (
        f" At most {right:.0%} of the right run's flow and {wrong:.0%} of the wrong run's flow pass"
        f" through the {first} omitted positions (see the CSV)."
    )


def _links(pair: AnswerPair, found: FlowChange) -> Component:
    """The links whose flow differs most, in a table."""
    count = min(len(found.kinds), LISTED)
    head = [
        html.Tr(
            [html.Th(name, scope="col") for name in ("Link", "Right run", "Wrong run", "Change")]
        )
    ]
    rows = [
        html.Tr(
            [
                html.Th(_link_name(pair, found, n), scope="row"),
                html.Td(f"{found.right_links[n]:.2%}", className="num"),
                html.Td(f"{found.wrong_links[n]:.2%}", className="num"),
                html.Td(f"{100 * float(found.wrong_links[n] - found.right_links[n]):+.2f}",
                        className="num"),
            ]
        )
        for n in range(count)
    ]  # fmt: skip
    return html.Div(
        [
            html.H4("Links whose flow differs most", className="inspector-title"),
            html.Table([html.Thead(head), html.Tbody(rows)], className="table ledger-table"),
            html.P(
                f"{count} of {len(found.kinds)} links; the CSV has all. Residual links are omitted,"
                " because their flow follows from the others.",
                className="control-help",
            ),
        ],
        className="tasks-figure--wide",
    )


def _link_name(pair: AnswerPair, found: FlowChange, n: int) -> str:
    kind, layer, head = found.kinds[n], int(found.layers[n]), int(found.heads[n])
    source, target = int(found.sources[n]), int(found.targets[n])
    part = f"head {layer}.{head}" if head >= 0 else f"{kind} {layer}"
    tokens = pair.wrong_tokens
    at = f"at {target} ({tokens[target]!r})"
    return f"{part} {at}" if source == target else f"{part} from {source} ({tokens[source]!r}) {at}"
