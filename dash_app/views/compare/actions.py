"""Computes a patching sweep in parts, and draws what is known of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from dash.development.base_component import Component

from analysis.contract.specs import InfoSpec
from analysis.errors import AnalysisError, BackwardError, SpecError
from analysis.experiments.specs import (
    AXES,
    FIELDS,
    PARTS,
    Sweep,
    SweepSpec,
    check_estimate,
    field_of,
)
from analysis.tracing.edits import to_text
from analysis.tracing.interventions import Ablate, PatchPrompt
from dash_app.errors import Problem, explain
from dash_app.jobs.job_and_draw import run_safely, stored_problem
from dash_app.page.panel import blank_figure, problem_notice, select_button, target
from dash_app.page.thin_layout import html
from dash_app.state.context import NewJob, Service, Shown, parse
from dash_app.state.selection import (
    MAX_PAIR_CHARACTERS,
    MAX_TOKEN_CHARACTERS,
    RunRef,
    Selection,
    request_run,
)
from dash_app.views.compare import difference
from dash_app.views.compare.alignment import aligned
from dash_app.views.compare.figure import (
    SMALLEST,
    caption,
    place_name,
    strongest,
    sweep_figure,
)
from dash_app.views.compare.layout import FORM, terms
from dash_app.views.compare.models import ONE_MODEL, second

#: The page of this view. A link that opens another page starts no sweep.
PAGE = "compare"
#: A sweep is measured in at most this many parts. The memo keeps each, so that a stopped sweep can
#: continue.
PORTIONS = 8
#: The form's field for each field of a spec.
_SHOWN_IN = {
    "foil": "against", "layer": "inside", "a": "clean", "b": "corrupted", "tokens": "answer",
}  # fmt: skip
EMPTY = "Choose a pair of prompts, or type your own."
#: The title of the list of effects, by whether a cell's patch is an edit.
_LISTED_TITLES = (
    "Strongest effects (click one, or a cell, to open the prompt, not patched, at that cell)",
    "Strongest effects (click one, or a cell, to open the prompt with that patch as an edit)",
)


def adopt(sent: Any, current: Selection, _run: RunRef | None) -> Selection:
    """The selection with the form's values.

    A text that is too long leaves the selection as it was; see ``too_long``. A layer that is no
    number counts as none.
    """
    form = sent if isinstance(sent, dict) else {}
    if too_long(form):
        return current
    texts = {name: str(form.get(name) or "") for name in FORM if name != "inside"}
    layer = form.get("inside")
    whole = layer if isinstance(layer, int) and 0 <= layer <= 1_000_000 else None
    same = all(texts[name] == getattr(current, name) for name in ("clean", "corrupted"))
    pairs = current.pairs if same else ()
    return current.model_copy(update={**texts, "inside": whole, "pairs": pairs})


def pair_up(sent: Any, current: Selection, _run: RunRef | None) -> Selection:
    """The selection with two positions made partners, or one left without a partner.

    Args:
        sent: ``[position in the clean prompt, position in the corrupted prompt or None]``.
        current: The selection before.
    """
    numbers = sent if isinstance(sent, list) and len(sent) == 2 else [None, None]
    if not isinstance(numbers[0], int) or not isinstance(numbers[1], int | None):
        return current
    change = f"{numbers[0]}-{'' if numbers[1] is None else numbers[1]}"
    kept = [one for one in current.pairs if one.partition("-")[0] != str(numbers[0])]
    wanted, _ = parse([("pairs", ",".join([*kept, change]))], current)
    return wanted


def too_long(form: Mapping[str, Any]) -> str:
    """A message about the first text of the form that a link can't contain; empty if all fit."""
    for field, name in FIELDS.items():
        shown = _SHOWN_IN.get(field, field)
        most = MAX_TOKEN_CHARACTERS if shown in ("answer", "against") else MAX_PAIR_CHARACTERS
        length = len(str(form.get(shown) or "")) if shown in FORM else 0
        if length > most:
            return f"{name} has {length:,} characters; at most {most:,} are possible. Shorten it."
    return ""


def spec_of(selection: Selection) -> SweepSpec | None:
    """The exact sweep of the selection; None if there is no pair, or a second model.

    Raises:
        SpecError: If a field is empty, or answer and foil are the same.
    """
    if second(selection) or (not selection.clean and not selection.corrupted):
        return None
    return SweepSpec(
        selection.model,
        selection.clean,
        selection.corrupted,
        selection.answer,
        selection.against,
        axes=selection.axes,
        direction=selection.way,
        metric=selection.metric,
        alignment=selection.align,
        pairs=selection.pairs,
        layer=selection.inside if selection.axes == "head_position" else None,
    )


def estimate_of(spec: SweepSpec) -> SweepSpec | None:
    """The estimate of a sweep; None if it has none."""
    try:
        check_estimate(spec.metric, spec.direction, exact=False)
    except SpecError:
        return None
    return replace(spec, exact=False)


def parts_of(spec: SweepSpec, layers: int) -> list[SweepSpec]:
    """The parts in which a sweep is measured, from the last row or layer down.

    The number of heads may differ between layers, so a sweep of one layer is not divided.
    """
    if spec.axes == "head_position":
        return [spec]
    size = layers + (spec.axes == "state")
    step = -(-size // PORTIONS)
    return [
        replace(spec, first=first, last=min(first + step, size) - 1)
        for first in reversed(range(0, size, step))
    ]


def compute(
    service: Service,
    selection: Selection,
    job: NewJob,
    *,
    hand_over: Callable[[dict[str, Any]], None],
) -> dict[str, Any] | None:
    """Estimate the sweep, then measure it; ``hand_over`` passes each part on as it is done.

    With a second model, the two are compared instead: a problem is then shown beside the form.
    """

    def work() -> int:
        if second(selection):
            difference.find(service, selection, job)
            return 0
        spec = spec_of(selection)
        if spec is None:
            return 0
        info = service.ask(spec.model, InfoSpec(), job(0.0, 0.05))
        guess, parts = estimate_of(spec), parts_of(spec, info.layers)
        if guess is not None:
            _estimate(service, guess, job)
            hand_over({"part": 0})
        for number, part in enumerate(parts):
            start, end = (0.1 + 0.9 * n / len(parts) for n in (number, number + 1))
            service.ask(part.model, part, job(start, end))
            hand_over({"part": number + 1})
        return len(parts)

    return run_safely(work)


def _estimate(service: Service, guess: SweepSpec, job: NewJob) -> None:
    """Estimate the sweep; skip it for a model that can't run a backward pass."""
    with suppress(BackwardError):
        service.ask(guess.model, guess, job(0.05, 0.1))


def known(service: Service, spec: SweepSpec) -> tuple[Sweep | None, bool]:
    """What the memo has of a sweep, and whether all of it is measured."""
    info = service.peek(spec.model, InfoSpec())
    if info is None:
        return None, False
    guess = estimate_of(spec)
    found = service.peek(spec.model, guess) if guess is not None else None
    parts = [service.peek(part.model, part) for part in parts_of(spec, info.layers)]
    for part in parts:
        if part is not None:
            found = part if found is None else found.with_measured(part)
    return found, all(part is not None for part in parts)


def specs(_service: Service, _run: RunRef | None, selection: Selection) -> list[SweepSpec]:
    """The request of the whole sweep; none if there is no pair."""
    spec = spec_of(selection)
    return [] if spec is None else [spec]


def joined(service: Service, spec: Any) -> Sweep | None:
    """The whole sweep from its parts, each measured or remembered; None for other requests."""
    if not isinstance(spec, SweepSpec):
        return None
    info = service.ask(spec.model, InfoSpec())
    found, *others = (service.ask(part.model, part) for part in parts_of(spec, info.layers))
    for part in others:
        found = found.with_measured(part)
    return found


def draw(
    service: Service,
    _run: RunRef | None,
    selection: Selection,
    theme: Any,
    ready: dict[str, Any] | None,
) -> Shown:
    """The picture of what is known, its caption, and a message beside the form."""
    try:
        problem, elsewhere = stored_problem(ready), selection.page != PAGE and ready is None
        if second(selection):
            done = elsewhere or difference.known(service, selection) is not None
            return _shown(blank_figure(20), ONE_MODEL, problem=problem, complete=done, hidden=True)
        spec = spec_of(selection)
        if spec is None:
            return _shown(blank_figure(20), EMPTY, terms(), hidden=True)
        found, complete = known(service, spec)
        complete = complete or elsewhere
        if found is None:
            text = "" if problem else "The estimate comes first."
            return _shown(blank_figure(20), text, problem=problem, complete=complete)
        return _shown(
            sweep_figure(found, theme),
            caption(found, spec.model),
            _listed(found, spec),
            aligned(found, selection.pairs),
            problem=problem,
            complete=complete,
        )
    except AnalysisError as error:
        return _shown(blank_figure(20), "", problem=explain(error))


def _shown(
    figure: Any,
    text: str,
    listed: Any = None,
    pairs: Any = None,
    *,
    problem: Problem | None = None,
    complete: bool = True,
    hidden: bool = False,
) -> Shown:
    """The values of the drawing's outputs. The field that a problem names is marked."""
    named = field_of(problem.message) if problem else ""
    marked = _SHOWN_IN.get(named, named)
    message = [problem_notice(problem)] if problem else []
    marks = [name == marked for name in FORM]
    values = (
        figure,
        hidden,
        text,
        pairs or [],
        listed or [],
        hidden or listed is None or complete,
        *marks,
        message,
    )
    return Shown(values, complete=complete or problem is not None)


def pick(sent: Any, current: Selection, _run: RunRef | None) -> Selection:
    """Open the prompt at the cell of the heatmap that was clicked or dragged to, with the patch.

    Args:
        sent: ``{"at": [...], "partner": ..., "layer": ...}`` (``assets/js/charts.js``): the indices
            of the cell, the position in the other run, and the layer of a sweep over heads and
            positions.
        current: The selection, with the sweep.
    """
    spec, names = spec_of(current), AXES[current.axes].names
    given = sent if isinstance(sent, dict) else {}
    at = given.get("at")
    numbers = [*(at if isinstance(at, list) else []), given.get("partner"), given.get("layer")]
    if spec is None or len(numbers) != len(names) + 2:
        return current
    if not all(isinstance(number, int) for number in numbers):
        return current
    index = dict(zip(names, numbers, strict=False))
    pairs = _opened(spec, index, partner=numbers[-2], layer=numbers[-1])
    wanted, _ = parse([(name, str(value)) for name, value in pairs.items()], current)
    return request_run(current, **{name: getattr(wanted, name) for name in pairs})


def _listed(found: Sweep, spec: SweepSpec) -> list[Component]:
    """The strongest cells as a list; a state opens in the page Explore."""
    items = []
    for place in strongest(found):
        text = f"{place_name(found, place)}: {float(found.effect[place]):+.2f}"
        more = "" if found.measured[place] else ", estimated"
        index = dict(zip(found.names, place, strict=True))
        partner = int(found.partners[index.get("position", -1)])
        to = target(**_opened(spec, index, partner=partner, layer=found.layer))
        button = select_button(
            text, to, "btn btn-outline-secondary example", label=f"Open {text} in Explore"
        )
        items.append(html.Li([button, html.Span(more, className="control-help")]))
    if not items:
        return [html.Span(f"No effect is {SMALLEST} or larger.", className="control-label")]
    return [
        html.Span(_LISTED_TITLES[_is_edit(spec)], className="control-label"),
        html.Ul(items, className="list-unstyled controls"),
    ]


def _opened(
    spec: SweepSpec, index: Mapping[str, int], *, partner: int, layer: int
) -> dict[str, int | str]:
    """What the selection becomes when a cell is opened in the page Explore.

    Args:
        spec: The sweep.
        index: The cell's index on each axis, by name.
        partner: The position in the other run.
        layer: The layer of a sweep over heads and positions.
    """
    prompt, source = spec.clean, spec.corrupted
    if spec.direction == "denoise":
        prompt, source = source, prompt
    layer = index.get("layer", layer)
    opened: dict[str, int | str] = {
        "model": spec.model, "prompt": prompt, "new": 1, "template": "off", "branch": "",
        "page": "explore", "edits": "none",
    }  # fmt: skip
    if "head" in index:
        opened |= {"layer": layer, "heads": str(index["head"])}
    if _is_edit(spec):  # the answer stays the chosen cell, so that the page shows the effect on it
        opened["edits"] = to_text(_edit(spec.axes, index, layer, source, partner))
    else:
        opened["row"] = layer + 1
    return opened


def _is_edit(spec: SweepSpec) -> bool:
    """Whether a cell's patch is an edit. A head of all positions needs their own partners."""
    return spec.axes != "head" or (spec.alignment == "position" and not spec.pairs)


def _edit(
    axes: str, index: Mapping[str, int], layer: int, source: str, partner: int
) -> PatchPrompt | Ablate:
    """The patch of a cell as an edit of the run."""
    pos, head = index.get("position"), index.get("head")
    if axes == "state":
        return PatchPrompt(index["row"], pos, source, partner)
    part = "head" if head is not None else PARTS[index["part"]]
    where = None if pos is None else partner
    return Ablate(f"{part}_output", layer, head, pos, "resample", prompt=source, source_pos=where)
