"""The neurons of the opened block, its experts, and the texts on which neurons fire most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dash import html
from dash.development.base_component import Component

from analysis.contract.specs import Token
from analysis.inside_block.specs import Experts, OpenedBlock
from analysis.tasks import suites
from analysis.tasks.neuron_text_specs import NeuronTexts, NeuronTextSpec
from analysis.tasks.suite_specs import MAX_PROMPTS
from analysis.tracing.edits import describe, to_text
from analysis.tracing.interventions import Ablate
from dash_app.jobs.job_and_draw import run_safely
from dash_app.page.panel import Option, edit_button, menu
from dash_app.page.token_labels import percent, quoted
from dash_app.state.context import NewJob, Service
from dash_app.state.drawings import digest
from dash_app.state.selection import RunRef, Selection
from dash_app.views.block.tables import number, row, table, words

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
