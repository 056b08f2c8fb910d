"""The cells of a sweep, the states that they patch, and passes that run many of them at once."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from analysis.contract import jobs
from analysis.contract.specs import resolve_index
from analysis.errors import SpecError
from analysis.experiments.specs import PARTS
from analysis.model.handle import Model
from analysis.model.stream import Edit, batched, edit_output, hidden_output, with_hidden_output
from analysis.tracing.heads import has_heads
from analysis.tracing.vectors import hook_component

#: Tokens in one forward pass, over all sequences of its batch.
MAX_TOKENS = 512
#: Largest relative difference of logits that count as equal, in float32 and in other dtypes.
SAME, ROUGHLY = 1e-4, 3e-2
#: A component: "row", "head_output", "attention" or "mlp", and its row or layer.
Place = tuple[str, int]


class Cell(NamedTuple):
    """One patch.

    Attributes:
        at: The cell's place in the result.
        component: What is patched.
        head: The head, for the component "head_output".
        where: Positions of the patched run.
    """

    at: tuple[int, ...]
    component: Place
    head: int | None
    where: tuple[int, ...]


@dataclass(frozen=True)
class Run:
    """A pass of one prompt, with the states that a sweep patches.

    Attributes:
        ids: [pos] token ids.
        logits: [vocab] at the last position.
        states: Component -> [pos, d] of each of its modules, as the module returns (a head: takes)
            them.
        outputs: Layer -> what its block returns.
        recorded: The same states and logits with the computation that autograd recorded; the
            logits have the key ("logits", 0). Empty if nothing was recorded.
    """

    ids: tuple[int, ...]
    logits: Tensor
    states: dict[Place, list[Tensor]]
    outputs: dict[int, Any] = field(default_factory=dict)
    recorded: dict[Place, list[Tensor]] = field(default_factory=dict)


def cells_of(
    model: Model, axes: str, wanted: Sequence[int], positions: tuple[int, ...], layer: int
) -> list[Cell]:
    """All cells of a sweep; those that the model lacks are left out.

    Args:
        model: From ``load_model``.
        axes: One of ``specs.AXES``.
        wanted: Indices of the first axis.
        positions: Positions that are patched.
        layer: The layer of ``head_position``.

    Raises:
        SpecError: If the model, or the layer, has no heads that can be patched.
    """
    blocks = model.stream.blocks
    if axes == "state":
        return [Cell((row, p), ("row", row), None, (p,)) for row in wanted for p in positions]
    if axes == "part":
        return [
            Cell((n, PARTS.index(part), p), (part, n), None, (p,))
            for n in wanted
            for part in PARTS
            if blocks[n].of(part)
            for p in positions
        ]
    if axes == "head_position":
        require_heads(model, layer)
        return [Cell((h, p), ("head_output", layer), h, (p,)) for h in wanted for p in positions]
    return [
        Cell((n, h), ("head_output", n), h, positions)
        for n in wanted
        if has_heads(model, n)
        for h in range(blocks[n].heads)
    ]


def require_heads(model: Model, layer: int) -> None:
    """Refuse a layer whose heads can't be patched.

    Raises:
        SpecError: Naming the layer.
    """
    if not model.stream.blocks[layer].heads:
        raise SpecError(f"Layer {layer} has no attention heads.", "Choose another layer.")
    if not has_heads(model, layer):
        raise SpecError(
            f"Layer {layer} has an attention that can't be split into heads.",
            "Sweep over attention and MLP instead.",
        )


def sizes(model: Model, axes: str, length: int, layer: int) -> tuple[int, ...]:
    """The shape of a sweep's result for a patched run of ``length`` positions."""
    layers, heads = model.info.layers, model.info.heads
    if axes == "state":
        return layers + 1, length
    if axes == "part":
        return layers, len(PARTS), length
    if axes == "head_position":
        return model.stream.blocks[layer].heads, length
    return layers, heads


def chosen_layer(model: Model, axes: str, layer: int | None) -> int:
    """The layer of a sweep over heads and positions, from the start; -1 for other sweeps.

    Raises:
        SpecError: If there is no such layer.
    """
    if axes != "head_position":
        return -1
    half = model.info.layers // 2
    return resolve_index("Layer", half if layer is None else layer, model.info.layers)


def attach(model: Model, component: Place, edit: Callable[[int], Edit], batch: int) -> list[Any]:
    """Hook each module of a component; ``edit`` gets the module's number."""
    kind, index = component
    if kind in PARTS:
        writers = model.stream.blocks[index].of(kind)
        return [edit_output(one.module, edit(n), batch) for n, one in enumerate(writers)]
    return hook_component(model, kind, index, edit(0), batch)


def run(
    model: Model, ids: tuple[int, ...], components: Sequence[Place], *, record: bool = False
) -> Run:
    """Run a prompt and keep the states of ``components``, and what each block returns.

    Args:
        model: From ``load_model``.
        ids: Token ids.
        components: What is kept.
        record: Whether autograd records the pass, for gradients.
    """
    states: dict[Place, list[Tensor]] = defaultdict(list)
    recorded: dict[Place, list[Tensor]] = defaultdict(list)
    outputs: dict[int, Any] = {}

    def keep(component: Place) -> Callable[[int], Edit]:
        """Hooks that keep the states of a component's modules."""

        def one(_number: int) -> Edit:
            """A hook that keeps one module's states."""

            def edit(state: Tensor) -> Tensor:
                """Keep the state, and change nothing."""
                states[component].append(state.detach()[0].clone())
                if record:
                    recorded[component].append(state)
                return state

            return edit

        return one

    with model.lock, ExitStack() as stack, torch.set_grad_enabled(record):
        handles = hook_component(model, "row", 0, _start, 1) if record else []
        for component in components:
            handles += attach(model, component, keep(component), 1)
        for layer, block in enumerate(model.stream.blocks):
            handles.append(block.module.register_forward_hook(_keeping(outputs, layer)))
        for handle in handles:
            stack.callback(handle.remove)
        logits = last_logits(model, ids, 1)[0]
    if record:
        recorded["logits", 0] = [logits]
        outputs = {}  # they hold the whole recorded pass
    return Run(ids, logits.detach(), dict(states), outputs, dict(recorded))


def _start(state: Tensor) -> Tensor:
    """The state as the start of what autograd records."""
    return state.detach().requires_grad_().clone()


def _keeping(outputs: dict[int, Any], layer: int) -> Callable[..., None]:
    def hook(_module: Any, _args: Any, output: Any) -> None:
        """Keep what a block returns."""
        outputs[layer] = output

    return hook


def last_logits(model: Model, ids: tuple[int, ...], batch: int) -> Tensor:
    """[batch, vocab] logits at the last position, of ``batch`` equal sequences."""
    tokens = torch.tensor([ids] * batch, device=model.device)
    options: dict[str, Any] = {"input_ids": tokens, "use_cache": False}
    if "logits_to_keep" in inspect.signature(model.hf.forward).parameters:
        options["logits_to_keep"] = 1
    logits: Tensor = model.hf(**options).logits[:, -1]
    return logits


@dataclass
class Patcher:
    """Patches states of one run into another, many cells in one pass.

    Attributes:
        model: The model of both runs.
        patched: The run that is patched.
        other: The run that the states come from.
        partners: [pos of the patched run] position in the other run, or -1.
        restart: Whether a pass begins at the patched layer, from the patched run's saved states.
        sequences: Number of sequences that ran.
    """

    model: Model
    patched: Run
    other: Run
    partners: tuple[int, ...]
    restart: bool = True
    sequences: int = 0
    _differing: dict[Place, set[int]] = field(default_factory=dict)

    def known(self, cell: Cell) -> Tensor | None:
        """The logits [vocab] of a patch that needs no pass; None if one is needed.

        A patch of equal states changes nothing. If it makes all states of a row those of the other
        run, everything after them is the other run.
        """
        where, part = list(cell.where), self.part(cell)
        sources = [self.partners[place] for place in where]
        states = zip(
            self.patched.states[cell.component], self.other.states[cell.component], strict=True
        )
        if all(torch.equal(own[where, part], theirs[sources, part]) for own, theirs in states):
            return self.patched.logits
        if cell.component[0] == "row" and sources == where:
            different = self._different(cell.component)
            if different is not None and different <= set(where):
                return self.other.logits
        return None

    def _different(self, component: Place) -> set[int] | None:
        """Positions whose states differ in the two runs; None for runs of different length."""
        if len(self.patched.ids) != len(self.other.ids):
            return None
        if component not in self._differing:
            own, theirs = self.patched.states[component][0], self.other.states[component][0]
            places = (own != theirs).any(-1).nonzero()[:, 0].tolist()
            self._differing[component] = set(places)
        return self._differing[component]

    def logits(self, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Tensor]]:
        """Each cell with the logits [vocab] of the run with its patch.

        Raises:
            CancelledError: If the caller's progress listener stops the work.
        """
        groups: dict[int, list[Cell]] = defaultdict(list)
        done = 0
        for cell in cells:
            logits = self.known(cell)
            if logits is None:
                groups[cell.component[1]].append(cell)
            else:
                done += 1
                yield cell, logits
        for row, several in groups.items():
            for part, rows in self._passes(row if self.restart else 0, several):
                jobs.step(done, len(cells), "Patching cells")
                yield from zip(part, rows, strict=True)
                done += len(part)
        jobs.step(len(cells), max(len(cells), 1), "Patching cells")

    def _passes(self, row: int, cells: list[Cell]) -> Iterator[tuple[list[Cell], Tensor]]:
        """The cells in batches. The first pass from a row also runs without a patch, as a check."""
        most = max(MAX_TOKENS // len(self.patched.ids), 2)
        start, checked = 0, row == 0
        while start < len(cells):
            part = cells[start : start + (most if checked else most - 1)]
            run = part if checked else [None, *part]
            found = jobs.repeatable(partial(self._pass, row, run))
            if found is None or not (checked or self._same(found[0])):
                row, checked = 0, True  # a later block reads more than the state before it
                continue
            yield part, found if checked else found[1:]
            start, checked = start + len(part), True

    def _same(self, logits: Tensor) -> bool:
        """Whether a pass without a patch gave the patched run's own logits."""
        own = self.patched.logits
        apart = float((logits - own).abs().max() / own.abs().max().clamp_min(1e-9))
        return apart <= (SAME if self.model.exact else ROUGHLY)

    @torch.no_grad()
    def _pass(self, row: int, cells: Sequence[Cell | None]) -> Tensor | None:
        """[cell, vocab] from one pass; None if the model can't begin at ``row``."""
        hooked: dict[Place, list[tuple[int, Cell]]] = defaultdict(list)
        for number, cell in enumerate(cells):
            if cell is not None:
                hooked[cell.component].append((number, cell))
        size = len(cells)
        try:
            with self.model.lock, ExitStack() as stack:
                stack.enter_context(beginning_at(self.model, row, self.patched, size))
                for component, several in hooked.items():
                    edits = self._edits(component, several)
                    for handle in attach(self.model, component, edits, size):
                        stack.callback(handle.remove)
                logits = last_logits(self.model, self.patched.ids, size)
        except torch.OutOfMemoryError:
            raise
        except (TypeError, ValueError, AttributeError, LookupError, RuntimeError):
            if row == 0:
                raise
            return None
        self.sequences += size
        return logits

    def _edits(self, component: Place, several: list[tuple[int, Cell]]) -> Callable[[int], Edit]:
        def module(number: int) -> Edit:
            """The edit of one module's output."""
            theirs = self.other.states[component][number]

            def edit(states: Tensor) -> Tensor:
                """Patch each sequence [pos, d] of the batch by its own cell."""
                changed = states.clone()
                for sequence, cell in several:
                    self._replaced(changed[sequence], theirs, cell)
                return changed

            return edit

        return module

    def _replaced(self, own: Tensor, theirs: Tensor, cell: Cell) -> Tensor:
        """States [pos, d] of the patched run after a cell's patch; they are changed in place."""
        part = self.part(cell)
        sources = [self.partners[place] for place in cell.where]
        own[list(cell.where), part] = theirs[sources][:, part].to(own)
        return own

    def part(self, cell: Cell) -> slice:
        """The coordinates that a cell patches."""
        if cell.head is None:
            return slice(None)
        width = self.model.stream.blocks[cell.component[1]].d_head
        return slice(cell.head * width, (cell.head + 1) * width)


@contextmanager
def beginning_at(model: Model, row: int, run: Run, batch: int) -> Iterator[None]:
    """Skip the blocks before ``row`` inside this block: each returns the saved state of ``row``.

    Args:
        model: From ``load_model``.
        row: The first row that is computed anew is ``row + 1``; 0 skips nothing.
        run: Its blocks' outputs are the saved ones.
        batch: Sequences in the batch.
    """
    if row == 0:
        yield
        return
    output = run.outputs[row - 1]
    state = batched(hidden_output(output), 1)
    several = with_hidden_output(output, state.expand(batch, -1, -1).contiguous())
    skipped = [block.module for block in model.stream.blocks[:row]]
    before = [vars(module).get("forward") for module in skipped]  # a wrapper of accelerate
    try:
        for module in skipped:
            module.forward = lambda *_args, **_options: several
        yield
    finally:
        for module, own in zip(skipped, before, strict=True):
            if own is None:
                del module.forward
            else:
                module.forward = own
