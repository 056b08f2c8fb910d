"""The tokens that a component's output promotes and suppresses, in two readings."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from analysis.contract.specs import resolve_index
from analysis.errors import SpecError
from analysis.lens.cells import axis_size, states_of
from analysis.lens.options import COMPONENTS
from analysis.lens.results import Promoted
from analysis.lens.specs import PromotedSpec
from analysis.model.handle import Model
from analysis.tracing.capture import Trace
from analysis.tracing.tokens import vocabulary
from analysis.tracing.vocabulary import extremes, token_logits


@torch.no_grad()
def compute(model: Model, trace: Trace, spec: PromotedSpec) -> Promoted:
    """The tokens that a component promotes most and suppresses most at one position.

    "direct" is its direct effect ``U (scale · c(z) / r(h_L))`` (direct logit attribution; Elhage
    et al. 2021 for the path). c subtracts the mean where the norm does; r is the final norm's root
    at the final state h_L. This is linear: the values of all parts of the last state, and the
    biases once, add up to the logits before any soft cap. "lens" is the lens of the part alone,
    ``U(N(z))``, as a grid shows it. Its norm is recomputed, so a small part looks as strong as a
    large one, and the unembedding's bias and any soft cap are included.

    Args:
        model: The model the trace was made with.
        trace: From ``analysis.trace``.
        spec: Which component, and the reading.

    Raises:
        SpecError: If there is no such layer, position, head or source, or the position can't see
            the source.
    """
    layer = _layer(model, spec)
    position = resolve_index("Position", spec.position, len(trace.tokens))
    source = _source(trace, spec, position)
    vector = torch.from_numpy(np.array(states_of(model, trace, spec, layer)[position]))
    values = _values(model, trace, spec, position, vector)
    up, raised, down, lowered = (found[0].numpy() for found in extremes(values, spec.k))
    return Promoted(
        component=spec.component,
        layer=layer,
        position=position,
        head=-1 if spec.head is None else model.head_index(layer, spec.head),
        source=source,
        reading=spec.reading,
        norm=float(vector.norm()),
        promoted=up,
        promoted_logits=raised,
        suppressed=down,
        suppressed_logits=lowered,
        mean=float(values.double().mean()),
        vocabulary=vocabulary(model.tokenizer, [*up.tolist(), *down.tolist()]),
    )


def _layer(model: Model, spec: PromotedSpec) -> int:
    first = "Row" if COMPONENTS[spec.component].by_row else "Layer"
    return resolve_index(first, spec.layer, axis_size(model, spec.component))


def _source(trace: Trace, spec: PromotedSpec, position: int) -> int:
    if spec.source is None:
        return -1
    source = resolve_index("Source position", spec.source, len(trace.tokens))
    if source > position:
        raise SpecError(f"Position {position} can't see position {source}.", "Swap them.")
    return source


def _values(
    model: Model, trace: Trace, spec: PromotedSpec, position: int, vector: Tensor
) -> Tensor:
    """[1, vocab] what the component adds to every token's logit."""
    if spec.reading == "direct":
        return token_logits(model, vector[None], torch.from_numpy(trace.resid[-1, position]))
    readout = model.readout
    return readout.logits(vector[None].to(readout.device, readout.output_rows.dtype)).cpu()


def promoted(
    model: Model,
    trace: Trace,
    component: str,
    layer: int,
    position: int = -1,
    *,
    head: int | None = None,
    source: int | None = None,
    k: int = 10,
    reading: str = "direct",
) -> Promoted:
    """The tokens whose logits a component's output raises most and lowers most.

    Args:
        model: From ``load_model``.
        trace: From ``trace``.
        component: As in ``decode``.
        layer: Entry of its first axis (a row for "block_output").
        position: The position it writes to.
        head: Which head, with "head_output" and "source_output".
        source: Which source position, with "source_output".
        k: How many tokens.
        reading: "direct" (the final norm's scale frozen at the final state: parts add up), or
            "lens" (normalised on its own, as ``decode`` does).

    Raises:
        SpecError: If an option has no such value, or there is no such component.
    """
    spec = PromotedSpec(component, layer, position, head, source, k, reading)
    return compute(model, trace, spec)
