"""Patching sweeps: how much of the answer each state, head or layer carries between two prompts.

A sweep patches one cell after another (activation patching; Meng et al., 2022, arXiv 2202.05262;
Wang et al., 2023, arXiv 2211.00593) and measures the answer. An estimate takes the metric's
gradient in the patched run times the difference of the states instead (attribution patching;
Nanda, 2023; Kramár et al., 2024, arXiv 2403.00745): two forward passes and one backward pass for
all cells. It is good where states differ little, and poor at early rows and where softmax or norm
saturate.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis.contract import jobs
from analysis.contract.choices import Situation
from analysis.contract.specs import resolve_index
from analysis.errors import BackwardError, PromptError, SpecError
from analysis.experiments.alignment import aligned, partners
from analysis.experiments.cells import (
    Cell,
    Patcher,
    Place,
    Run,
    cells_of,
    chosen_layer,
    require_heads,
    run,
    sizes,
)
from analysis.experiments.comparison import read
from analysis.experiments.specs import (
    ALIGNMENTS,
    AXES,
    FIELDS,
    METRICS,
    PATCH_DIRECTIONS,
    Sweep,
    SweepSpec,
    check_estimate,
)
from analysis.flow_graph.options import BACKWARD
from analysis.model.handle import Model
from analysis.store.memo import Memo
from analysis.tracing.tokens import describe_tokens, token_id


def sweep(
    model: Model,
    clean: Any,
    corrupted: Any,
    *,
    answer: int | str | None = None,
    foil: int | str | None = None,
    axes: str = "state",
    direction: str = "denoise",
    metric: str = "logit_difference",
    alignment: str = "position",
    pairs: Sequence[str] = (),
    layer: int | None = None,
    exact: bool = True,
    first: int = 0,
    last: int | None = None,
) -> Sweep:
    """Patch every cell from one prompt's run into the other's, and measure the answer.

    Args:
        model: From ``load_model``.
        clean: The prompt after which the model gives the answer: text or token ids.
        corrupted: The prompt after which it gives another one.
        answer: A token, as id or text; the clean run's top token unless given.
        foil: Another token; the corrupted run's top token unless given.
        axes: "state" [row, pos], "head" [layer, head], "part" [layer, attention or MLP, pos], or
            "head_position" [head, pos] of ``layer``.
        direction: "denoise" patches the corrupted run, "noise" the clean one.
        metric: "logit_difference", "probability" (of the answer), "kl" (of the clean run's output
            to the patched one's, in nats) or "rank" (of the answer, from 0), at the last position.
        alignment: "position": prompts of equal length; "token": equal tokens (``align``).
        pairs: Changes of the alignment: "3-5" makes position 3 of the clean prompt and 5 of the
            corrupted one partners; "3-" leaves 3 without a partner, so that it is not patched.
        layer: The layer of "head_position"; the middle one unless given.
        exact: Whether each cell is measured; else all are estimated from one backward pass.
        first: The first index of the first axis that is computed.
        last: The last one; all unless given.

    Returns:
        A Sweep: ``raw`` and ``effect`` for each cell. ``effect`` is 0 as without a patch and 1 as
        with everything patched.

    Raises:
        PromptError: If a prompt is invalid, or the answer or the foil is not one token.
        SpecError: If the prompts differ in length, a change of the alignment is not possible, the
            metric is equal in both runs, or the model lacks what is patched.
        CancelledError: If the caller's progress listener stops the work.
    """
    for table, name in (
        (AXES, axes), (PATCH_DIRECTIONS, direction), (METRICS, metric), (ALIGNMENTS, alignment),
    ):  # fmt: skip
        table.check(name)
    check_estimate(metric, direction, exact)
    ids = (read(model, "clean", clean), read(model, "corrupted", corrupted))
    choice = _Choice(axes, direction, metric, alignment, tuple(pairs), layer, exact, first, last)
    return _sweep(model, ids, (answer, foil), choice)


def compute(
    model: Model, spec: SweepSpec, _memo: Memo | None = None, longest: int | None = None
) -> Sweep:
    """The sweep of a spec, a technique of ``analysis.registry``; see ``sweep``."""
    ids = (
        read(model, "clean", spec.clean, longest),
        read(model, "corrupted", spec.corrupted, longest),
    )
    choice = _Choice(
        spec.axes, spec.direction, spec.metric, spec.alignment, spec.pairs, spec.layer,
        spec.exact, spec.first, spec.last,
    )  # fmt: skip
    return _sweep(model, ids, (spec.answer or None, spec.foil or None), choice)


@dataclass(frozen=True)
class _Choice:
    """The options of a sweep, as in its spec."""

    axes: str
    direction: str
    metric: str
    alignment: str
    pairs: tuple[str, ...]
    layer: int | None
    exact: bool
    first: int
    last: int | None


@dataclass(frozen=True)
class _Metric:
    """The metric of a sweep at the last position.

    Attributes:
        name: One of ``specs.METRICS``.
        answer, foil: Token ids.
        clean: [vocab] logits of the clean run.
    """

    name: str
    answer: int
    foil: int
    clean: Tensor

    def of(self, logits: Tensor) -> Tensor:
        """[...] from logits [..., vocab]; differentiable, except for the rank."""
        chosen = logits[..., self.answer]
        if self.name == "logit_difference":
            return chosen - logits[..., self.foil]
        if self.name == "rank":
            return (logits > chosen[..., None]).sum(-1).to(logits.dtype)
        if self.name == "probability":
            return logits.log_softmax(-1)[..., self.answer].exp()
        own = self.clean.to(logits).log_softmax(-1)
        return (own.exp() * (own - logits.log_softmax(-1))).sum(-1)

    def value(self, logits: Tensor) -> float:
        """The metric of logits [vocab], in float64."""
        return float(self.of(logits.to("cpu", torch.float64)))


def _sweep(
    model: Model, ids: tuple[tuple[int, ...], tuple[int, ...]], tokens: tuple[Any, Any],
    choice: _Choice,
) -> Sweep:  # fmt: skip
    layer = chosen_layer(model, choice.axes, choice.layer)
    if choice.axes == "head" and not model.info.heads:
        raise SpecError("This model has no attention heads.", "Sweep over states instead.")
    if layer >= 0:
        require_heads(model, layer)
    denoise = choice.direction == "denoise"
    patched_ids, other_ids = ids[::-1] if denoise else ids
    pairs = aligned(choice.alignment, choice.pairs, *ids)
    if denoise:
        pairs = tuple((theirs, own) for own, theirs in pairs)
    paired = partners(pairs, len(patched_ids))
    shape = sizes(model, choice.axes, len(patched_ids), layer)
    positions = tuple(place for place, partner in enumerate(paired) if partner >= 0)
    cells = cells_of(model, choice.axes, _wanted(choice, shape[0]), positions, layer)
    components = list(dict.fromkeys(cell.component for cell in cells))
    first_run = run if choice.exact else _recorded
    runs = [first_run(model, patched_ids, components), run(model, other_ids, components)]
    clean, corrupted = runs[::-1] if denoise else runs
    metric = _Metric(
        choice.metric, *_tokens(model, tokens, clean, corrupted, choice.metric), clean.logits
    )
    values = metric.value(clean.logits), metric.value(corrupted.logits)
    _require_difference(choice.metric, values)
    patcher = Patcher(model, runs[0], runs[1], paired)
    raw = np.full(shape, np.nan)
    for cell, value in (_measured if choice.exact else _estimated)(patcher, cells, metric):
        raw[cell.at] = value
    return _result(patcher, choice, ids, metric, values, raw, layer)


def _require_difference(metric: str, values: tuple[float, float]) -> None:
    """Refuse a pair whose metric is equal in both runs.

    Raises:
        SpecError: With the value.
    """
    if values[0] == values[1]:
        raise SpecError(
            f"{METRICS[metric].label} is {values[0]:.4g} after both prompts, so no patch can change"
            " it.",
            "Choose prompts, or an answer and a foil, that differ.",
        )


def _result(
    patcher: Patcher, choice: _Choice, ids: tuple[tuple[int, ...], tuple[int, ...]],
    metric: _Metric, values: tuple[float, float], raw: NDArray[np.float64], layer: int,
) -> Sweep:  # fmt: skip
    start, end = values[::-1] if choice.direction == "denoise" else values
    known = describe_tokens(patcher.model.tokenizer, (*ids[0], *ids[1], metric.answer, metric.foil))
    return Sweep(
        axes=choice.axes,
        direction=choice.direction,
        metric=choice.metric,
        alignment=choice.alignment,
        raw=raw.astype(np.float32),
        effect=((raw - start) / (end - start)).astype(np.float32),
        measured=(~np.isnan(raw) & choice.exact).astype(np.int64),
        clean_value=values[0],
        corrupted_value=values[1],
        names=AXES[choice.axes].names,
        answer=known[-2],
        foil=known[-1],
        clean=known[: len(ids[0])],
        corrupted=known[len(ids[0]) : -2],
        partners=np.array(patcher.partners, np.int64),
        layer=layer,
        passes=patcher.sequences + 2,
    )


def _wanted(choice: _Choice, size: int) -> range:
    """Indices of the first axis that are computed."""
    first = resolve_index("First", choice.first, size)
    last = size - 1 if choice.last is None else resolve_index("Last", choice.last, size)
    return range(first, last + 1)


def _tokens(
    model: Model, given: tuple[Any, Any], clean: Run, corrupted: Run, metric: str
) -> tuple[int, int]:
    """Ids of answer and foil: as given, else the top tokens of the two runs.

    Raises:
        PromptError: If one of them is not one token.
        SpecError: If they are the same.
    """
    found = []
    for name, token, own in zip(("answer", "foil"), given, (clean, corrupted), strict=True):
        try:
            chosen = token_id(model.tokenizer, token)
        except PromptError as error:
            raise PromptError(f"{FIELDS[name]} {error.message}", error.hint) from error
        best = int(own.logits.argmax())
        found.append(best if chosen is None else resolve_index(
            FIELDS[name], chosen, int(clean.logits.shape[-1])
        ))  # fmt: skip
    if found[0] == found[1] and metric == "logit_difference":
        text = model.tokenizer.decode([found[0]])
        raise SpecError(
            f"{FIELDS['foil']} is the same token as the answer, {text!r}.", "Choose another foil."
        )
    return found[0], found[1]


_Values = Iterator[tuple[Cell, float]]


def _measured(patcher: Patcher, cells: Sequence[Cell], metric: _Metric) -> _Values:
    for cell, logits in patcher.logits(cells):
        yield cell, metric.value(logits)


def _estimated(patcher: Patcher, cells: Sequence[Cell], metric: _Metric) -> _Values:
    """Each cell with the patched run's metric plus gradient times difference of states.

    Raises:
        BackwardError: If the model can't run backward.
    """
    gradients = _gradients(patcher.patched, metric)
    start = metric.value(patcher.patched.logits)
    products = {place: _products(patcher, place, found) for place, found in gradients.items()}
    for cell in cells:
        change = products[cell.component][list(cell.where), patcher.part(cell)].sum()
        yield cell, start + float(change)
    jobs.step(1, 1, "Running backward")


def _products(patcher: Patcher, component: Place, gradients: list[Tensor]) -> Tensor:
    """[pos, d] gradient times difference of the two runs, summed over a component's modules."""
    partners = torch.tensor(patcher.partners)
    total = torch.zeros_like(gradients[0], dtype=torch.float64, device="cpu")
    for number, gradient in enumerate(gradients):
        own = patcher.patched.states[component][number].to("cpu", torch.float64)
        theirs = patcher.other.states[component][number].to("cpu", torch.float64)
        total += gradient.to("cpu", torch.float64) * (theirs[partners.clamp_min(0)] - own)
    return total


def _recorded(model: Model, ids: tuple[int, ...], components: Sequence[Place]) -> Run:
    """A pass that autograd records.

    Raises:
        BackwardError: If the model can't run backward.
    """
    if not BACKWARD.met(Situation(model.info)):
        raise BackwardError(
            "4-bit weights can't run backward, as an estimate needs.", "Measure each cell instead."
        )
    jobs.step(0, 1, "Running backward")
    return run(model, ids, components, record=True)


def _gradients(own: Run, metric: _Metric) -> dict[Place, list[Tensor]]:
    """Component -> [pos, d] the metric's gradient for each of its modules, in a recorded run.

    Raises:
        BackwardError: If the model can't run backward.
    """
    places = [(place, state) for place, several in own.recorded.items() for state in several]
    value = metric.of(own.recorded["logits", 0][0].float())
    try:
        found = torch.autograd.grad(value, [state for _, state in places], allow_unused=True)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BackwardError(
            f"This model can't run backward, as an estimate needs: {reason}",
            "Measure each cell instead.",
        ) from error
    gradients: dict[Place, list[Tensor]] = defaultdict(list)
    for (place, state), gradient in zip(places, found, strict=True):
        if place[0] != "logits":
            known = torch.zeros_like(state) if gradient is None else gradient
            gradients[place].append(known.detach()[0])
    return gradients
