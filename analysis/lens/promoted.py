"""The tokens that a component's output promotes and suppresses, and secondary tokens of a state."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis.contract.specs import resolve_index
from analysis.errors import SpecError
from analysis.lens.cells import Reader, axis_size, states_of
from analysis.lens.options import COMPONENTS
from analysis.lens.results import Promoted
from analysis.lens.specs import LensSpec, PromotedSpec
from analysis.model.handle import Model
from analysis.model.readout import Readout
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


#: InTraVisTo stops when the state's norm falls below this (utils.py).
SMALLEST_NORM = 0.01
Peeled = tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]


def peel(readout: Readout, reader: Reader, states: Tensor, spec: LensSpec) -> Peeled:
    """Candidates of each state by subtraction or matching pursuit, one round for all at a time.

    Args:
        readout: The model's readout.
        reader: Which decoder.
        states: [n, d_model] un-normed.
        spec: Gives the method and k.

    Returns:
        ids [n, k] (-1 pads), scores [n, k], explained share [n, k] (NaN for subtraction).
    """
    method = _Subtraction if spec.candidates == "subtraction" else _Pursuit
    peeling = method(readout, reader, states.float().clone(), spec)
    for _ in range(spec.k):
        if not peeling.round():
            break
    return peeling.ids, peeling.scores, peeling.explained


class _Peeling:
    """The candidates so far, and the remainders of the states that are not finished."""

    def __init__(self, readout: Readout, reader: Reader, states: Tensor, spec: LensSpec) -> None:
        self.readout, self.reader, self.states, self.norm = readout, reader, states, spec.norm
        self.ids = np.full((len(states), spec.k), -1, np.int64)
        self.scores = np.full(self.ids.shape, np.nan, np.float32)
        self.explained = self.scores.copy()
        self.count = np.zeros(len(states), np.int64)
        self.alive = torch.arange(len(states), device=states.device)

    def add(self, places: NDArray[np.int64], values: dict[str, Tensor]) -> None:
        """Append one candidate each to the lists of the states at ``places``."""
        for name, value in values.items():
            getattr(self, name)[places, self.count[places]] = value.cpu().numpy()
        self.count[places] += 1


class _Subtraction(_Peeling):
    """InTraVisTo's iterative decoding (2024, utils.py), without repeated tokens.

    The best token's decoder row is subtracted from the un-normed state. A state is finished when
    its norm is at most 0.01 or has not fallen since the round before.
    """

    def __init__(self, readout: Readout, reader: Reader, states: Tensor, spec: LensSpec) -> None:
        super().__init__(readout, reader, states, spec)
        self.rows = reader.rows()
        self.before = torch.full((len(states),), torch.inf, device=states.device)

    def round(self) -> bool:
        """Subtract one token from each state; False if all states are finished."""
        norm = self.states[self.alive].norm(dim=-1)
        on = (norm > SMALLEST_NORM) & (norm < self.before[self.alive])
        self.alive, norm = self.alive[on], norm[on]
        if not len(self.alive):
            return False
        self.before[self.alive] = norm
        raw = self.states[self.alive].to(self.readout.output_rows.dtype)
        best, token = self.reader.logits(self.readout.normed(raw, self.norm)).max(-1)
        places = self.alive.cpu().numpy()
        new = ~(self.ids[places] == token.cpu().numpy()[:, None]).any(-1)
        mask = torch.from_numpy(new).to(token.device)
        self.add(places[new], {"ids": token[mask], "scores": best[mask]})
        self.states[self.alive] -= self.rows[token]
        return True


class _Pursuit(_Peeling):
    """Matching pursuit (Mallat and Zhang 1993) over the decoder's unit rows."""

    def __init__(self, readout: Readout, reader: Reader, states: Tensor, spec: LensSpec) -> None:
        super().__init__(readout, reader, states, spec)
        self.units = torch.nn.functional.normalize(reader.rows(), dim=-1)
        self.whole = states.square().sum(-1)
        self.alive = self.alive[self.whole > 0.0]

    def round(self) -> bool:
        """Project the nearest unit row out of each state; False if all states are finished."""
        best, token = (self.states[self.alive] @ self.units.T).max(-1)
        on = best > 0.0
        self.alive, best, token = self.alive[on], best[on], token[on]
        if not len(self.alive):
            return False
        self.states[self.alive] -= best[:, None] * self.units[token]
        left = self.states[self.alive].square().sum(-1) / self.whole[self.alive]
        places = self.alive.cpu().numpy()
        self.add(places, {"ids": token, "scores": best, "explained": 1.0 - left})
        return True
