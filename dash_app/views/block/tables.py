"""The tables of an opened block: steps, heads, sources, score parts, neurons and experts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from dash.development.base_component import Component

from analysis.contract.specs import Floats, Token
from analysis.inside_block.specs import Experts, OpenedBlock, ScoreParts
from analysis.tasks import suites
from analysis.tasks.neuron_text_specs import NeuronTexts, NeuronTextSpec
from analysis.tasks.suite_specs import MAX_PROMPTS
from analysis.tracing.edits import describe, to_text
from analysis.tracing.interventions import Ablate
from dash_app.jobs.job_and_draw import run_safely
from dash_app.page.panel import Option, aria, edit_button, menu, select_button, target
from dash_app.page.thin_layout import html
from dash_app.page.token_labels import label, percent, quoted
from dash_app.state.context import NewJob, Service
from dash_app.state.drawings import digest
from dash_app.state.selection import RunRef, Selection

#: Most keys, or most products, in a table.
LISTED = 8


def words(ids: Iterable[int], known: Mapping[int, Token]) -> str:
    """Tokens side by side; nothing for ids below 0."""
    return "  ".join(label(known[int(one)], 12) for one in ids if int(one) >= 0)


def table(title: str, head: Sequence[str], rows: Sequence[Component], note: str = "") -> Component:
    """A table with its heading and a line below."""
    cells = [html.Th(text, scope="col") for text in head]
    return html.Section(
        [
            html.H3(title, className="sheet-group"),
            html.Table(
                [html.Thead(html.Tr(cells)), html.Tbody(list(rows))],
                className="table contributions",
            ),
            html.P(note, className="prompt-hint") if note else None,
        ],
        **aria(label=title),
    )


def row(name: Any, *cells: Any, mono: int = 0, is_chosen: bool = False) -> Component:
    """A row: its name, numbers, and at the end ``mono`` cells of tokens."""
    numbers = len(cells) - mono
    return html.Tr(
        [
            html.Th(name, scope="row"),
            *(
                html.Td(text, className="num" if place < numbers else "mono")
                for place, text in enumerate(cells)
            ),
        ],
        className="is-chosen" if is_chosen else "",
    )


def number(value: float, digits: int = 2) -> str:
    """A number with its sign; a dash if there is none."""
    if np.isnan(value):
        return "–"
    return f"{value:+.{digits}f}".replace("-", "−")


def steps(found: OpenedBlock, known: dict[int, Token]) -> Component:
    """One row for each vector of the block."""
    rows = [
        row(
            name,
            f"{found.lengths[at]:.2f}",
            number(float(found.cosines[at])),
            ", ".join(str(one) for one in found.coordinates[at, :3]),
            words(found.step_tokens[at], known),
            mono=1,
        )
        for at, name in enumerate(found.steps)
    ]
    norms = [
        f"The norm before {_the(name)} multiplies the state by {found.norm_factors[at]:.3g} and by"
        f" its scale (cosine before and after: {found.norm_cosines[at]:.2f}). The scale is largest"
        f" at coordinates {_listed(found.norm_coordinates[at][:3], found.norm_scales[at][:3])}."
        for at, name in enumerate(found.norm_names)
    ]
    head = ("Step", "Length", "Cosine", "Largest coordinates", "Tokens")
    return table("Steps", head, rows, " ".join(norms))


def _the(name: str) -> str:
    return "the MLP" if name == "MLP" else name


def _listed(places: Iterable[int], scales: Iterable[float]) -> str:
    return ", ".join(f"{at} (× {by:.2f})" for at, by in zip(places, scales, strict=True))


def heads(
    found: OpenedBlock, known: dict[int, Token], pair: tuple[int, int] | None
) -> Component | None:
    """One row for each head, the one that writes most first."""
    if found.heads_missing or pair is None:
        return html.P(found.heads_missing, className="prompt-hint")
    rows = [
        row(
            select_button(
                f"Head {head}",
                target(layer=found.layer, heads=(head,)),
                "story-phrase",
                label=f"Choose head {head}",
                pressed=head == pair[0],
            ),
            f"{found.head_lengths[head]:.2f}",
            number(float(found.head_cosines[head])),
            words(found.head_tokens[head], known),
            mono=1,
            is_chosen=head == pair[0],
        )
        for head in np.argsort(-found.head_lengths).tolist()
    ]
    note = "Cosine: with the whole attention output."
    return table("Heads", ("Head", "Length", "Cosine", "Tokens"), rows, note)


def sources(
    found: OpenedBlock, tokens: Sequence[Token], pair: tuple[int, int] | None
) -> Component | None:
    """The keys with the largest weights in the chosen head."""
    if pair is None:
        return None
    head, chosen = pair
    order = np.argsort(-np.nan_to_num(found.weights[head]), kind="stable")[:LISTED].tolist()
    keys = order if chosen in order else [*order[:-1], chosen]
    rows = [
        row(
            select_button(
                f"{label(tokens[key], 14)} ({key})",
                target(link=f"attention:{found.layer}:{key}:{found.position}:{head}",
                       layer=found.layer, heads=(head,)),
                "story-phrase", label=f"Choose key {key}", pressed=key == chosen,
            ),
            number(float(found.content[head, key])),
            number(float(found.rotation[head, key])),
            _mask(float(found.bias[head, key])),
            percent(float(found.weights[head, key])),
            f"{found.brought[head, key]:.2f}",
            number(float(found.brought_cosines[head, key])),
            is_chosen=key == chosen,
        )
        for key in keys
    ]  # fmt: skip
    head_row = ("Key", "Content", "Position", "Mask", "Weight", "Brings", "Cosine")
    cap = f" The soft cap is {found.softcap:.3g}." if found.softcap else ""
    note = (
        f"Scores before the softmax.{cap} Brings: the length of what the head writes from the key."
    )
    note = found.scores_missing or note
    return table(f"Head {head}: what it reads", head_row, rows, note)


def _mask(value: float) -> str:
    if np.isnan(value):
        return "–"
    return "masked" if np.isinf(value) else ("0" if value == 0 else number(value))


def why(found: ScoreParts, tokens: Sequence[Token]) -> Component:
    """The largest products of a query part and a key part."""
    entries = found.largest(LISTED)
    rows = [
        row(_capital(entry.query_part), number(entry.score), _capital(entry.key_part), mono=1)
        for entry in entries
    ]
    rest = found.total - sum(entry.score for entry in entries)
    count = len(found.kinds) ** 2 - len(entries)
    rows.append(row(f"{count:,} other pairs", number(rest), "", mono=1))
    note = (
        f"All pairs sum to {number(found.total, 3)}; the model's own score is"
        f" {number(found.score, 3)}. Residual error: {found.residual_error:.1e}."
    )
    title = f"Why head {found.head} looks at {quoted(tokens[found.key])} ({found.key})"
    return table(title, ("In the query's state", "Score", "In the key's state"), rows, note)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def errors(found: OpenedBlock) -> Component:
    """The errors of the sums in one line."""
    values: list[tuple[str, float | Floats]] = [
        ("sum of heads and biases", found.attention_error),
        ("sum of neurons and biases", found.mlp_error),
        ("sum of all parts", found.state_error),
    ]
    known = [f"{name}: {value:.1e}" for name, value in values if not np.isnan(value)]
    return html.P(f"Relative errors: {'; '.join(known)}.", className="prompt-hint")


#: Texts of each neuron.
TEXTS = 3
#: Most characters of a text's part on each side of the token.
_AROUND = 40


def neurons(
    found: OpenedBlock, known: Mapping[int, Token], edits: tuple[str, ...]
) -> Component | None:
    """The neurons that change the logit most, each with a button that ablates it."""
    if found.neurons_missing:
        return html.P(found.neurons_missing, className="prompt-hint")
    readers = [f"Reads ({name})" for name in found.neuron_readers]
    rows = [
        row(
            [f"Neuron {int(neuron)} ", _ablate(found, int(neuron), edits)],
            number(float(found.activations[at])),
            number(float(found.effects[at]), 3),
            *(words(ids, known) for ids in found.neuron_reads[at]),
            words(found.neuron_writes[at], known),
            mono=len(readers) + 1,
        )
        for at, neuron in enumerate(found.neurons)
    ]
    head = ("Neuron", "Activation", "Logit", *readers, "Writes")
    note = f"Logit: what the neuron adds to the logit of {quoted(known[found.token])} directly."
    return table("Neurons", head, rows, note)


def _ablate(found: OpenedBlock, neuron: int, edits: tuple[str, ...]) -> Component:
    """A button that sets a neuron to zero at the position, or removes that edit."""
    edit = Ablate("neuron", found.layer, pos=found.position, neuron=neuron)
    return edit_button("Zero", to_text(edit), edits, describe(edit))


def experts(found: Experts, known: Mapping[int, Token]) -> Component | None:
    """The chosen experts and the rest of the MLP's output; None for a layer without experts."""
    if found.missing:
        return None
    rows = [
        row(
            found.name(at),
            percent(float(found.weights[at])) if at < len(found.chosen) else "–",
            f"{found.lengths[at]:.2f}",
            number(float(found.cosines[at])),
            number(float(found.effects[at]), 3),
            words(found.tokens[at], known),
            mono=1,
        )
        for at in range(len(found.lengths))
    ]
    head = ("Expert", "Weight", "Length", "Cosine", "Logit", "Tokens")
    note = (
        f"{len(found.chosen)} of {found.count} experts, each run alone. Cosine: with the MLP's"
        f" output. Logit: what the part adds to the logit of {quoted(known[found.token])} directly."
        f" Relative error of their sum: {found.error:.1e}."
    )
    return table("Experts", head, rows, note)


def text_spec(run: RunRef, selection: Selection, layer: int, own: Any = None) -> NeuronTextSpec:
    """The spec of the texts: the user's own if there are any, else the suite of the link."""
    texts = str(own or "").strip()
    size = min(selection.prompts, MAX_PROMPTS)
    suite = selection.suite if selection.suite in suites.NAMES else suites.NAMES[0]
    if texts:
        return NeuronTextSpec(run.model, layer, texts=texts)
    return NeuronTextSpec(run.model, layer, suite, size, selection.digits)


def search(service: Service, spec: NeuronTextSpec, job: NewJob) -> dict[str, Any] | None:
    """Run the texts; the result names them, so that every search draws anew."""

    def work() -> str:
        service.ask(spec.model, spec, job(0.0, 1.0))
        return digest(repr(spec))

    return run_safely(work)


def suite_menu(selection: Selection) -> Component:
    """The menu of suites; the page Tasks has the same choice."""
    options = [Option(name, suites.title(name)) for name in suites.NAMES]
    return menu("suite", "Texts", options, selection.suite, derived=True)


def texts(
    service: Service, run: RunRef, selection: Selection, found: OpenedBlock, own: Any
) -> list[Component]:
    """Where the listed neurons fire most, if the texts were run."""
    measured = service.peek(run.model, text_spec(run, selection, found.layer, own))
    return [] if measured is None else [firings(measured, found.neurons.tolist())]


def firings(measured: NeuronTexts, chosen: Sequence[int]) -> Component:
    """The texts of each listed neuron, with the token at which it fires most."""
    rows = []
    for neuron in chosen:
        for rank, one in enumerate(measured.of(neuron)[:TEXTS]):
            text = [_cut(one.before, start=True), html.Mark(one.token), _cut(one.after)]
            rows.append(row(f"Neuron {neuron}" if rank == 0 else "", number(one.activation), text,
                            mono=1))  # fmt: skip
    note = (
        f"Layer {measured.layer}, {len(measured.texts):,} texts, in the model without edits. Each"
        " text counts once, with its largest activation in size; the token is marked."
    )
    return table("Texts on which these neurons fire most", ("Neuron", "Activation", "Text"), rows,
                 note)  # fmt: skip


def _cut(text: str, *, start: bool = False) -> str:
    """A part of a text on one line, shortened at the far end."""
    plain = text.replace("\n", "↵")
    if len(plain) <= _AROUND:
        return plain
    return f"…{plain[-_AROUND:]}" if start else f"{plain[:_AROUND]}…"
