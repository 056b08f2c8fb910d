"""Runs in which each receiver reads its own sum of senders: some as they are, some ablated.

This is path patching (Goldowsky-Dill et al., 2023, arXiv 2304.05969) of any set of edges at once:
a receiver reads a sender's present output along an edge that is kept, and its ablated output along
one that is cut. Everything after it is computed anew.

An edge's score is ``g · (sender - ablated sender)``, with g the target's gradient for what the
receiver reads (Syed et al., 2023, arXiv 2310.10348), or its mean over runs between the two
embeddings (Hanna et al., 2024, arXiv 2403.17806).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analysis.contract import jobs
from analysis.contract.choices import Situation
from analysis.contract.specs import Floats, Ints
from analysis.errors import BackwardError, SpecError
from analysis.experiments.block_calls import (
    ROUGHLY,
    SAME,
    BlockCalls,
    HeadJobs,
    States,
    layout_of,
    states_of,
)
from analysis.experiments.component_layout import HEAD_INPUTS, Lead
from analysis.flow_graph.options import BACKWARD
from analysis.model.handle import Model
from analysis.model.probe import relative_error
from analysis.tracing.storage import require_bytes

#: States of receivers in one call of a block, in tokens.
_MAX_TOKENS = 2048
#: Bytes of senders' outputs that several runs at once may hold.
_MAX_BYTES = 256 << 20


class EdgeRuns:
    """Runs of one prompt in which edges are kept or cut.

    Args:
        model: From ``load_model``.
        ids: Token ids of the prompt.
        other: Token ids of the second prompt, of the same length; None if nothing is resampled.
        ablation: "resample", "mean" (over the positions of the prompt) or "zero".

    Attributes:
        clean: The run of the prompt.
        ablated: [sender, pos, d_model] what replaces each sender's output.
        error: Largest relative error of a state rebuilt from its senders, or of the logits.
        passes: Runs so far.

    Raises:
        SpecError: If the senders do not sum to what the receivers read.
        NotEnoughMemoryError: If the senders' outputs do not fit.
    """

    @torch.no_grad()
    def __init__(
        self, model: Model, ids: Sequence[int], other: Sequence[int] | None, ablation: str
    ) -> None:
        self.layout, self.positions = layout_of(model), len(ids)
        self._require_memory(model)
        self.calls = BlockCalls(model, ids)
        self.clean = states_of(self.calls, self.layout, self.calls.resid[0])
        self.error = self._rebuild_error(self.calls, self.clean)
        self.second: BlockCalls | None = None
        self._empty: States | None = None
        if ablation == "resample":
            assert other is not None  # noqa: S101 - the spec demands it
            self.second = BlockCalls(model, other)
            run = states_of(self.second, self.layout, self.second.resid[0])
            self.error = max(self.error, self._rebuild_error(self.second, run))
            self.ablated = run.senders
            self._empty = run
        elif ablation == "mean":
            self.ablated = self.clean.senders.mean(1, keepdim=True).expand_as(self.clean.senders)
        else:
            self.ablated = torch.zeros_like(self.clean.senders)
        if self.error > (limit := SAME if model.exact else ROUGHLY):
            raise SpecError(
                f"The senders do not sum to what the receivers read: the relative error is"
                f" {self.error:.1e}, more than {limit:.0e}.",
                "Use the flow graph, or load the model in float32.",
            )
        self.passes = 2 if other is not None else 1

    def _require_memory(self, model: Model) -> None:
        receivers, senders = self.layout.shape
        each = 4 * model.info.d_model + 3 * receivers  # numbers of a sender at a position
        what = f"A graph of {senders} components over {self.positions} positions"
        require_bytes(what, 4 * senders * self.positions * each, "Shorten the prompt.")

    def _rebuild_error(self, calls: BlockCalls, run: States) -> float:
        """Against the states and logits of the plain pass."""
        errors = [
            relative_error(own, plain) for own, plain in zip(run.inputs, calls.resid, strict=False)
        ]
        found = calls.logits_of(run.last[None])[0]
        return max(*errors, relative_error(found, calls.logits))

    def last_states(self, graphs: Sequence[Ints], *, keep: bool) -> Tensor:
        """[graph, d_model] the last state of a run for each graph.

        A graph is codes of edges, ascending: they alone are kept (``keep``), or they are cut.
        """
        found = [jobs.repeatable(partial(self._pass, part, keep)) for part in self._parts(graphs)]
        return torch.cat(found) if found else torch.zeros(0, self.clean.last.shape[-1])

    @torch.no_grad()
    def _pass(self, graphs: Sequence[Ints], keep: bool) -> Tensor:
        found = _Batch(self, graphs, keep).run()
        self.passes += len(graphs)
        return found

    def _parts(self, graphs: Sequence[Ints]) -> Iterator[Sequence[Ints]]:
        """The graphs, in parts that run at once."""
        most = _MAX_BYTES // self.clean.senders.nbytes  # a graph has all senders' states
        start, tokens = 0, 0
        for number, graph in enumerate(graphs):
            receivers = np.unique(graph // (self.layout.shape[1] * self.positions))
            busiest = np.histogram(receivers, self.layout.first_receiver)[0].max(initial=0)
            own = (int(busiest) + 1) * self.positions
            if number > start and (tokens + own > _MAX_TOKENS or number - start >= most):
                yield graphs[start:number]
                start, tokens = number, 0
            tokens += own
        if graphs:
            yield graphs[start:]

    def values(self, graphs: Sequence[Ints], lead: Lead, *, keep: bool) -> np.ndarray[Any, Any]:
        """[graph] the measured lead; see ``last_states``."""
        states = self.last_states(graphs, keep=keep)
        found: Tensor = lead.of(self.calls.logits_of(states).double())
        return found.numpy()

    @property
    def empty(self) -> States:
        """The run with every edge cut: what components do whose edges are all cut."""
        if self._empty is None:
            batch = _Batch(self, [np.zeros(0, np.int64)], keep=True, whole=True)
            last = batch.run()[0]
            mlps = self.ablated + batch.changed[0].transpose(0, 1)
            self._empty = States(mlps, batch.mixed, [], [], last)
        return self._empty


class _Batch:
    """Runs of several graphs at once.

    Attributes:
        changed: [graph, pos, sender, d_model] present output minus ablated output.
        mixed: [layer] what the first graph's heads give to the projection.
    """

    def __init__(
        self, runs: EdgeRuns, graphs: Sequence[Ints], keep: bool, *, whole: bool = False
    ) -> None:
        self.runs, self.keep, self.layout = runs, keep, runs.layout
        self.whole = whole or (keep and not runs.calls.steady_biases)
        size, clean = len(graphs), runs.clean.senders
        senders, self.positions, width = clean.shape
        self.changed = torch.zeros(size, self.positions, senders, width)
        self.changed[:, :, 0] = clean[0] - runs.ablated[0]
        base = runs.ablated[0] if keep else clean[0]
        self.base = base.expand(size, -1, -1).clone()
        self.touched = [False] * size
        self.parts = [self._by_receiver(graph) for graph in graphs]
        self.mixed: list[Tensor] = []

    def _by_receiver(self, graph: Ints) -> dict[int, tuple[Ints, Ints]]:
        """Receiver -> senders and positions of its edges."""
        receiver, sender, pos = self.layout.split(graph, self.positions)
        starts = np.flatnonzero(np.diff(receiver, prepend=-1))
        ends = [*starts[1:].tolist(), len(graph)]
        return {
            int(receiver[start]): (sender[start:end], pos[start:end])
            for start, end in zip(starts.tolist(), ends, strict=False)
        }

    def run(self) -> Tensor:
        """[graph, d_model] the last state at the last position."""
        for layer in range(len(self.layout.heads)):
            jobs.check_cancelled()
            self._block(layer)
        last = len(self.layout.receivers) - 1
        return torch.stack([
            (self._inputs(number, [last])[0] if last in parts else self.base[number])[-1]
            for number, parts in enumerate(self.parts)
        ])  # fmt: skip

    def _inputs(self, number: int, receivers: list[int]) -> Tensor:
        """[receiver, pos, d_model] what receivers of one graph read."""
        reads = self.layout.receivers[receivers[0]].reads
        mask = torch.zeros(self.positions, len(receivers), reads)
        for place, receiver in enumerate(receivers):
            sender, pos = self.parts[number][receiver]
            mask[pos, place, sender] = 1.0
        moved = torch.bmm(mask, self.changed[number, :, :reads]).transpose(0, 1)
        return self.base[number] + (moved if self.keep else -moved)

    def _block(self, layer: int) -> None:
        layout, runs = self.layout, self.runs
        heads, first = layout.heads[layer], int(layout.first_sender[layer])
        start = int(layout.first_receiver[layer])
        mixed = self._heads(layer, range(start, start + 3 * heads))
        added, bias = runs.calls.added(layer, mixed)
        ablated = runs.ablated[first : first + heads]
        self.changed[:, :, first : first + heads] = (added - ablated).transpose(1, 2)
        after = self.base + (ablated.sum(0) if self.keep else added.sum(1)) + bias
        if layout.mlps[layer]:
            if not layout.parallel:
                self.base = after
            written = self._mlp(layer, start + 3 * heads)
            ablated = runs.ablated[first + heads]
            self.changed[:, :, first + heads] = written - ablated
            after = after + (ablated if self.keep else written)
        self.base = after

    def _heads(self, layer: int, receivers: range) -> Tensor:
        """[graph, head, pos, d_head] what the heads give to the output projection."""
        states = list[Tensor]()
        rows: list[tuple[int, int, int, int]] = []
        places: list[tuple[int, int]] = []
        for number in range(len(self.parts)):
            active = [one for one in receivers if one in self.parts[number]]
            self.touched[number] |= bool(active)
            for head, query, key, value in self._jobs(layer, number, receivers, active, states):
                rows.append((head, query, key, value))
                places.append((number, head))
        mixed = self._default(lambda run: run.mixed[layer])
        if rows:
            found = self.runs.calls.heads(layer, torch.stack(states), HeadJobs.of(rows))
            numbers = torch.tensor(places)
            mixed[numbers[:, 0], numbers[:, 1]] = found
        if self.whole:
            self.mixed.append(mixed[0])
        return mixed

    def _jobs(
        self, layer: int, number: int, receivers: range, active: list[int], states: list[Tensor]
    ) -> Iterator[tuple[int, int, int, int]]:
        """The heads of one graph that run, with the places of their states; it adds the states."""
        at = dict(zip(active, range(len(states), len(states) + len(active)), strict=True))
        states += self._inputs(number, active).unbind() if active else ()
        gated = self.runs.calls.model.stream.blocks[layer].gated
        shared = -1

        def usual() -> int:
            """The place of the state that inputs without edges of their own read."""
            states.append(self.base[number])
            return len(states) - 1

        for head in range(self.layout.heads[layer]):
            inputs = [receivers.start + 3 * head + n for n in range(len(HEAD_INPUTS))]
            if not (self._all(number) or any(one in at for one in inputs)):
                continue
            if shared < 0 and not all(one in at for one in inputs):
                shared = usual()
            query, key, value = (at.get(one, shared) for one in inputs)
            yield head, usual() if gated and query == shared else query, key, value

    def _default(self, of: Callable[[States], Tensor]) -> Tensor:
        """[graph, ...] what components do that need not run: as with every edge cut, or with none.

        Args:
            of: Takes it from a run.
        """
        run = self.runs.empty if self.keep and not self.whole else self.runs.clean
        return of(run).expand(len(self.parts), *of(run).shape).clone()

    def _all(self, number: int) -> bool:
        """Whether components run even if all their edges are as usual."""
        return self.whole or (not self.keep and self.touched[number])

    def _mlp(self, layer: int, receiver: int) -> Tensor:
        """[graph, pos, d_model] what the MLP adds."""
        sender = self.layout.receivers[receiver].owner
        running, states = list[int](), list[Tensor]()
        for number, parts in enumerate(self.parts):
            self.touched[number] |= receiver in parts
            if receiver in parts:
                states.append(self._inputs(number, [receiver])[0])
            elif self._all(number):
                states.append(self.base[number])
            else:
                continue
            running.append(number)
        written = self._default(lambda run: run.senders[sender])
        if running:
            written[running] = self.runs.calls.mlp(layer, torch.stack(states))
        return written


def edge_scores(model: Model, runs: EdgeRuns, lead: Lead, steps: int) -> Floats:
    """[receiver, sender, pos] the estimated fall of the target if an edge is cut; else 0.

    Args:
        model: The model of the runs.
        runs: The clean run, and what replaces each sender.
        lead: The target.
        steps: Runs over which the gradient is averaged; 1 takes it in the clean run.

    Raises:
        BackwardError: If the model can't run backward.
        CancelledError: If the caller's progress listener stops the work.
    """
    if not BACKWARD.met(Situation(model.info)):
        raise BackwardError(
            "4-bit weights can't run backward, as the scores of edges need.",
            "Load the model without quantisation.",
        )
    try:
        return _scores(runs, lead, steps)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, NotImplementedError) as error:
        if "can't allocate memory" in str(error):  # the CPU's
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BackwardError(
            f"This model can't run backward, as the scores of edges need: {reason}",
            "Patch whole heads instead.",
        ) from error


def _scores(runs: EdgeRuns, lead: Lead, steps: int) -> Floats:
    layout = runs.layout
    scores = np.zeros((*layout.shape, runs.positions), np.float32)
    moved = (runs.clean.senders - runs.ablated).transpose(0, 1)  # [pos, sender, d_model]
    for step in range(1, steps + 1):
        jobs.step(step - 1, steps, "Scoring edges")
        jobs.pause()
        for first, gradient in _gradients(runs, _between(runs, step / steps), lead):
            reads = max(one.reads for one in layout.receivers[first : first + len(gradient)])
            product = torch.bmm(moved[:, :reads], gradient.permute(1, 2, 0)).permute(2, 1, 0)
            scores[first : first + len(gradient), :reads] += product.numpy() / steps
    for number, one in enumerate(layout.receivers):
        scores[number, one.reads :] = 0.0
    scores[-1, :, :-1] = 0.0
    return scores


def _between(runs: EdgeRuns, part: float) -> States:
    """The run on an embedding ``part`` of the way from the ablated to the clean one."""
    mixture = torch.lerp(runs.ablated[0], runs.clean.senders[0], part)
    with torch.no_grad():
        return states_of(runs.calls, runs.layout, mixture) if part < 1 else runs.clean


def _gradients(runs: EdgeRuns, run: States, lead: Lead) -> Iterator[tuple[int, Tensor]]:
    """First receiver, and [receiver, pos, d_model] the gradients for what receivers read."""
    layout = runs.layout
    last = run.last[None].clone().requires_grad_()
    with torch.enable_grad():
        value = lead.of(runs.calls.logits_of(last)[0].float())
    flowing = torch.zeros_like(run.senders[0])
    flowing[-1] = torch.autograd.grad(value, last)[0][0]
    yield layout.shape[0] - 1, flowing[None].clone()
    for layer in range(len(layout.heads) - 1, -1, -1):
        jobs.check_cancelled()
        above, start = flowing, int(layout.first_receiver[layer])
        heads = layout.heads[layer]
        if layout.mlps[layer]:
            gradient = _of_mlp(runs, run, layer, above)
            yield start + 3 * heads, gradient[None]
            flowing = above + gradient
        into = above if layout.parallel else flowing
        found = _of_heads(runs, run, layer, into)
        yield start, found
        flowing = flowing + found.sum(0)


def _of_mlp(runs: EdgeRuns, run: States, layer: int, above: Tensor) -> Tensor:
    """[pos, d_model] the gradient for what an MLP reads, from that for what it writes."""
    with torch.enable_grad():
        state = run.middles[layer][None].clone().requires_grad_()
        written = runs.calls.mlp(layer, state)
    return torch.autograd.grad(written, state, above[None])[0][0]


def _of_heads(runs: EdgeRuns, run: States, layer: int, above: Tensor) -> Tensor:
    """[3 heads, pos, d_model] the gradient for what queries, keys and values read."""
    heads = runs.layout.heads[layer]
    rows = [(head, 3 * head, 3 * head + 1, 3 * head + 2) for head in range(heads)]
    with torch.enable_grad():
        states = run.inputs[layer].expand(3 * heads, -1, -1).clone().requires_grad_()
        mixed = runs.calls.heads(layer, states, HeadJobs.of(rows))
        added, bias = runs.calls.added(layer, mixed)
        whole = added.sum(0) + bias
    return torch.autograd.grad(whole, states, above)[0]
