"""When a token emerges: four measures over the rows, the causal commit row among them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from analysis.contract import jobs
from analysis.contract.specs import Floats, Ints
from analysis.errors import SpecError
from analysis.lens.grid import Arrays, by_column
from analysis.model.handle import Model
from analysis.model.stream import Block, first_tensor, hidden_output, with_hidden_output
from analysis.tracing.capture import Trace
from analysis.tracing.vectors import hook_component
from analysis.trajectory.specs import Emergence, EmergenceSpec, MaybeRow
from analysis.trajectory.steps import emergence_rows, follow

#: Positions in one pass: their logits take the memory.
MAX_POSITIONS = 512
#: States that are run at once at least: as many cost a matrix product little more than one.
TOGETHER = 8
#: Tokens of the pass that shows what the modules return.
_PROBE = 2


def causal_commit(model: Model, trace: Trace, positions: Sequence[int]) -> tuple[MaybeRow, ...]:
    """First row r such that, for every r' >= r, zeroing attention in layers >= r' keeps the choice.

    For every position and row r', the attention outputs of layers r' and above are set to
    zero at that position; the model's choice there is compared with its own. The last row
    ablates nothing, so the model's own choice always commits.

    Attention is the only way from one position to another. Without it, each position goes on by
    itself from its state at row r', and the layers below r' need not run again. Rows are measured
    from the last one down. A position whose choice changed at a row is finished.

    Args:
        model: The model the trace was made with.
        trace: From ``analysis.trace``, without interventions.
        positions: [n].

    Returns:
        [n] rows.

    Raises:
        CancelledError: If the caller's progress listener stops the work.
    """
    where = np.array(list(positions), np.int64)
    layers = row = model.info.layers
    commits = np.full(len(where), layers)
    alone = _PositionsAlone(model, trace.token_ids[0])
    left = np.arange(len(where))
    while row and len(left):
        rows = np.arange(row)[::-1][: max(TOGETHER // len(left), 1)]
        kept = np.concatenate(
            [
                _keep_choices(alone, trace, where[some], rows)
                for some in np.split(left, range(MAX_POSITIONS, len(left), MAX_POSITIONS))
            ],
            axis=1,
        )
        commits[left] -= kept.sum(0)
        left, row = left[kept[-1]], int(rows[-1])
        jobs.step(layers - row, layers, "Causal commit")
        jobs.pause()
    return tuple(commits.tolist())


def _keep_choices(
    alone: _PositionsAlone, trace: Trace, positions: Ints, rows: Ints
) -> NDArray[np.bool_]:
    """[row, n] whether the choices survive without attention from a row's layer on.

    The rows descend; a choice that does not survive at one counts as lost at those below it.
    """
    if not len(positions):
        return np.zeros((len(rows), 0), bool)
    states = torch.from_numpy(trace.resid[np.ix_(rows, positions)])
    tokens = torch.tensor([[trace.token_ids[position] for position in positions.tolist()]])
    choices = alone.logits(tokens, states, rows.tolist()).argmax(-1).cpu().numpy()
    kept = choices == trace.logits[positions].argmax(-1)
    return np.logical_and.accumulate(kept)


#: The outputs of modules, and those of each layer that are replaced.
_Forms: TypeAlias = tuple[dict[nn.Module, Any], list[list[nn.Module]]]
_forms: WeakKeyDictionary[Model, _Forms] = WeakKeyDictionary()


def _skips(block: Block, outputs: dict[nn.Module, Any]) -> bool:
    """Whether a block's attention returns its projection's output and nothing else.

    BLOOM's adds the residual to it.
    """
    if block.attention is None or block.projection is None:
        return False
    whole = first_tensor(outputs.get(block.attention))
    projected = first_tensor(outputs.get(block.projection))
    return whole is not None and projected is not None and torch.equal(whole, projected)


class _PositionsAlone:
    """Runs a model from a row on without attention: each position of a sequence is on its own.

    Modules that are not needed return states without computing anything: the blocks below the row,
    and attention above it.

    Args:
        model: The model.
        token: Any token's id, for a pass that shows the form of what the modules return; it runs
            once for each model.
    """

    def __init__(self, model: Model, token: int) -> None:
        self._model = model
        known = _forms.get(model)
        if known is None:
            known = _forms[model] = self._probed(token)
        self._outputs, self._mixers = known

    def _probed(self, token: int) -> _Forms:
        """What the modules return in a short pass, and those that are replaced in each layer."""
        blocks = self._model.stream.blocks
        mixers = [(*block.of("attention"), *block.of("ssm")) for block in blocks]
        writing = [[writer.module for writer in layer] for layer in mixers]
        inside = {one for block in blocks for one in (block.attention, block.projection) if one}
        needed = {block.module for block in blocks}.union(inside, *writing)
        outputs: dict[nn.Module, Any] = {}

        def keep(module: nn.Module, _args: Any, output: Any) -> None:
            """Keep an output."""
            outputs[module] = output

        handles = [one.register_forward_hook(keep) for one in needed]
        try:
            self._run(torch.tensor([[token] * _PROBE]))
        finally:
            for handle in handles:
                handle.remove()
        for block, layer in zip(blocks, writing, strict=True):
            attention = block.attention
            if attention is not None and attention not in layer and _skips(block, outputs):
                layer.append(attention)
        return outputs, writing

    @torch.no_grad()
    def _run(self, tokens: Tensor) -> Tensor:
        model = self._model
        with model.lock:
            output = model.hf(input_ids=tokens.to(model.device), use_cache=False)
        logits: Tensor = output.logits[0]
        return logits

    def logits(self, tokens: Tensor, states: Tensor, rows: Sequence[int]) -> Tensor:
        """[row, n, vocab] logits of positions, from their states at each row.

        Args:
            tokens: [1, n].
            states: [row, n, d_model].
            rows: Descending. All run in one pass, which begins at the last of them.
        """
        blocks, lowest, every = self._model.stream.blocks, rows[-1], states.flatten(0, 1)
        with self._model.lock, ExitStack() as stack:
            for place, row in enumerate(rows):
                if row == 0 or row > lowest:
                    self._replace(stack, row, place, every if row == lowest else states[place])
            for block in blocks[:lowest]:
                stack.enter_context(self._returning(block.module, every))
            for layer in self._mixers[lowest:]:
                for module in layer:
                    zeros = torch.zeros(len(every), self._width(module))
                    stack.enter_context(self._returning(module, zeros))
            found = self._run(tokens.repeat(1, len(rows)))
            return found.view(*states.shape[:2], -1)

    def _replace(self, stack: ExitStack, row: int, place: int, states: Tensor) -> None:
        """Let some positions [n, d_model] of a pass go on at a row from given states.

        They are the ``place``-th n, or all of them.
        """

        def edit(state: Tensor) -> Tensor:
            """The states of the pass, with the given ones."""
            new, count = states.to(state), len(states)
            if count == state.shape[1]:
                return new[None]
            start = place * count
            return torch.cat([state[:, :start], new[None], state[:, start + count :]], 1)

        for handle in hook_component(self._model, "row", row, edit, 1):
            stack.callback(handle.remove)

    def _width(self, module: nn.Module) -> int:
        return int(hidden_output(self._outputs[module]).shape[-1])

    @contextmanager
    def _returning(self, module: nn.Module, states: Tensor) -> Iterator[None]:
        """Let a module return states [n, d] without computing anything."""
        output, attributes = self._outputs[module], vars(module)
        like = hidden_output(output)
        states = states.to(like).reshape(*like.shape[:-2], *states.shape)
        own = attributes.get("forward")
        attributes["forward"] = lambda *_args, **_kwargs: with_hidden_output(output, states)
        try:
            yield
        finally:
            del attributes["forward"]
            if own is not None:
                attributes["forward"] = own


def compute(model: Model, trace: Trace, spec: EmergenceSpec) -> Emergence:
    """The rows at which the model's own final choice emerges at every position.

    Args:
        model: The model the trace was made with.
        trace: From ``analysis.trace``.
        spec: The threshold, and whether the causal commit row is measured.

    Raises:
        SpecError: If the causal commit row is wanted of a trace with interventions, or of a model
            whose blocks can't be split.
        CancelledError: If the caller's progress listener stops the work.
    """
    trace.require_model(model)
    if spec.causal and trace.interventions:
        raise SpecError(
            "The causal commit row is measured on a run without interventions.",
            "Trace the prompt without interventions.",
        )
    if spec.causal and "whole_block" in model.stream.parts:
        raise SpecError(
            "The causal commit row needs attention that can be ablated apart from its block.",
            "Measure emergence without it (causal=False).",
        )
    tokens = trace.logits.argmax(-1).astype(np.int64)
    probs, ranks = _curves(model, trace, tokens)
    return Emergence(
        token_ids=tokens,
        tau=spec.tau,
        **emergence_rows(probs, ranks, spec.tau),
        causal_commit=_commits(model, trace) if spec.causal else None,
        probs=probs,
        ranks=ranks,
    )


def _curves(model: Model, trace: Trace, tokens: Ints) -> tuple[Floats, Ints]:
    """[row, pos] the probability and rank of each position's token."""
    rows = len(trace.resid)

    def curves(places: Ints) -> Arrays:
        """The columns of some positions."""
        wanted = np.tile(tokens[places], rows)[:, None]
        states = trace.resid[:, places].reshape(len(wanted), -1)
        log_probs, ranks = follow(model, states, wanted)
        shape = (rows, len(places))
        return {"probs": np.exp(log_probs).reshape(shape), "ranks": ranks.reshape(shape)}

    found = by_column(trace, "emergence", curves)
    return found["probs"], found["ranks"]


def _commits(model: Model, trace: Trace) -> tuple[MaybeRow, ...]:
    """[pos] the causal commit rows of every position."""

    def commits(places: Ints) -> Arrays:
        """Those of some positions."""
        return {"rows": np.array([causal_commit(model, trace, places.tolist())], np.int64)}

    found = by_column(trace, "causal commit", commits)["rows"]
    return tuple(found[0].tolist())


def emergence(model: Model, trace: Trace, tau: float = 0.5, *, causal: bool = True) -> Emergence:
    """Per position, the rows at which the model's final choice emerges.

    Args:
        model: From ``load_model``.
        trace: From ``trace``, without interventions.
        tau: The probability that "emergence" needs.
        causal: Whether to measure the causal commit row.

    Raises:
        SpecError: If tau is not a probability, or the trace has interventions.
    """
    return compute(model, trace, EmergenceSpec(tau, causal))
