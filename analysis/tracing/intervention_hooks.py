"""Apply interventions to one model: hooks and masks that do what they describe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analysis.contract.specs import resolve_index
from analysis.errors import SpecError
from analysis.model.attention_hooks import observing
from analysis.model.handle import Model
from analysis.model.module_io import batched, hidden_input, hidden_output, with_hidden_output
from analysis.tracing.interventions import (
    Ablate,
    Inject,
    Intervention,
    KnockOut,
    Patch,
    Steer,
    Where,
)

_Edit = Callable[[Tensor], Tensor]


@dataclass
class Edits:
    """Interventions made ready for one model and sequence length.

    Attributes:
        model: What is edited.
        sets: One list of interventions, or several, for as many rows of a batch.
        length: Positions of the sequence that indices are checked against; 0 checks later ones.
    """

    model: Model
    sets: Sequence[Any]
    length: int
    _states: dict[int, list[tuple[int, _Edit]]] = field(default_factory=dict)
    _writers: dict[tuple[str, int], list[tuple[int, _Edit]]] = field(default_factory=dict)
    _cuts: dict[int, list[tuple[int, KnockOut]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        several = any(isinstance(entry, (list, tuple)) for entry in self.sets)
        self.sets = list(self.sets) if several else [tuple(self.sets)]
        for batch, interventions in enumerate(self.sets):
            for intervention in interventions:
                self._add(batch, intervention)

    def _add(self, batch: int, item: Intervention) -> None:
        info = self.model.info
        if isinstance(item, Ablate):
            layer = resolve_index("Layer", item.layer, info.layers)
            edit = self._ablation(item)
            self._writers.setdefault((item.component, layer), []).append((batch, edit))
        elif isinstance(item, KnockOut):
            self._check_edge(item)
            layer = resolve_index("Layer", item.layer, info.layers)
            self._cuts.setdefault(layer, []).append((batch, item))
        elif isinstance(item, (Patch, Inject, Steer)):
            row = resolve_index("Row", item.row, info.layers + 1)
            self._states.setdefault(row, []).append((batch, self._state_edit(item, row)))
        else:
            raise SpecError(f"{type(item).__name__} is no intervention.", "See interventions.")

    # -- what each does to a state [pos, d] ------------------------------------------------

    def _ablation(self, item: Ablate) -> _Edit:
        self._check_where(item.pos)

        def edit(state: Tensor) -> Tensor:
            """Set the part to zero, or to its mean over positions."""
            changed = state.clone()
            part = self._head_slice(item)
            wanted = state[:, part].mean(0) if item.value == "mean" else 0.0
            changed[_index(item.pos, state.shape[0]), part] = wanted
            return changed

        return edit

    def _head_slice(self, item: Ablate) -> slice:
        if item.head is None:
            return slice(None)
        block = self.model.stream.blocks[item.layer]
        if block.projection is None:
            raise SpecError(
                f"The heads of layer {item.layer} can't be told apart.", "Ablate the attention."
            )
        head = resolve_index("Head", item.head, block.heads)
        return slice(head * block.d_head, (head + 1) * block.d_head)

    def _state_edit(self, item: Patch | Inject | Steer, row: int) -> _Edit:
        self._check_where(item.pos)
        if isinstance(item, Inject):
            return self._injection(item)
        if isinstance(item, Steer):
            vector = _as_states(item.vector, self.model.info.d_model)

            def steer(state: Tensor) -> Tensor:
                """Add the vector."""
                changed = state.clone()
                changed[_index(item.pos, state.shape[0])] += vector.to(state)
                return changed

            return steer
        source = self._source(item, row)

        def patch(state: Tensor) -> Tensor:
            """Put the other run's states in."""
            changed = state.clone()
            changed[_index(item.pos, state.shape[0])] = source.to(state)
            return changed

        return patch

    def _source(self, item: Patch, row: int) -> Tensor:
        if not hasattr(item.source, "resid"):
            return _as_states(item.source, self.model.info.d_model)
        states = item.source.resid[row]
        where = item.pos if item.source_pos is None else item.source_pos
        chosen = states[_checked(where, states.shape[0])]
        if item.pos is None and self.length and len(chosen) != self.length:
            raise SpecError(
                f"The other run has {len(chosen)} positions, this one {self.length}.",
                "Name the positions to patch.",
            )
        return _as_states(chosen, self.model.info.d_model)

    def _injection(self, item: Inject) -> _Edit:
        readout = self.model.readout
        token = resolve_index("Token", item.token, int(readout.input_rows.shape[0]))

        def edit(state: Tensor) -> Tensor:
            """Put a token's embedding in, or turn states from their own top token to it."""
            where = _index(item.pos, state.shape[0])
            changed = state.clone()
            if item.mode == "replace":
                row = readout.input_rows[token].float() * readout.embedding_scale
                changed[where] = row.to(state)
                return changed
            chosen = state[where].reshape(-1, state.shape[-1])
            top = readout.logits(chosen.to(readout.device, readout.output_rows.dtype)).argmax(-1)
            unit = torch.nn.functional.normalize(
                readout.output_rows[[*top.tolist(), token]].float()
            )
            main, wanted = unit[:-1].to(chosen), unit[-1].to(chosen)
            turned = chosen + (chosen * main).sum(-1, keepdim=True) * (wanted - main)
            changed[where] = turned.reshape(changed[where].shape)
            return changed

        return edit

    # -- checks ----------------------------------------------------------------------------

    def _check_where(self, where: Where) -> None:
        if self.length:
            _checked(where, self.length)

    def _check_edge(self, item: KnockOut) -> None:
        if item.head is not None:
            resolve_index("Head", item.head, self.model.info.heads)
        if not self.length:
            return
        query = resolve_index("Query position", item.query, self.length)
        key = resolve_index("Key position", item.key, self.length)
        if key > query:
            raise SpecError(
                f"Position {query} can't see position {key}.", "A key comes at or before its query."
            )
        if query == 0:
            raise SpecError(
                "Position 0 has only itself to attend to.", "Ablate the attention output instead."
            )

    # -- around a forward pass -------------------------------------------------------------

    def cut(self, layer: int | None, shape: tuple[int, int, int]) -> Tensor | None:
        """The knocked-out edges of a layer, bool [batch, head, query, key]; None if there are none.

        Args:
            layer: The layer; None for a module outside the stream.
            shape: Numbers of heads, queries and keys. The queries are the last positions.
        """
        items = self._cuts.get(-1 if layer is None else layer, [])
        if not items:
            return None
        _, queries, keys = shape
        cut = torch.zeros(len(self.sets), *shape, dtype=torch.bool, device=self.model.device)
        for batch, item in items:
            query = item.query - (keys - queries)
            if 0 <= query < queries and item.key < keys:
                cut[batch, slice(None) if item.head is None else item.head, query, item.key] = True
        return cut

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Hold the edits on the model inside this block; nothing of them stays afterwards."""
        handles: list[Any] = []
        try:
            for row, edits in self._states.items():
                handles.append(self._hook_row(row, edits))
            for (component, layer), edits in self._writers.items():
                handles.append(self._hook_writer(component, layer, edits))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook_row(self, row: int, edits: list[tuple[int, _Edit]]) -> Any:
        blocks = self.model.stream.blocks
        if row > 0:
            return blocks[row - 1].module.register_forward_hook(_after(edits, len(self.sets)))
        return blocks[0].module.register_forward_pre_hook(
            _before(edits, len(self.sets)), with_kwargs=True
        )

    def _hook_writer(self, component: str, layer: int, edits: list[tuple[int, _Edit]]) -> Any:
        block = self.model.stream.blocks[layer]
        if component == "attention_output":
            return block.attention_writer.register_forward_hook(_after(edits, len(self.sets)))
        if component == "mlp_output":
            return block.mlp_writer.register_forward_hook(_after(edits, len(self.sets)))
        if block.projection is None:
            raise SpecError(f"The heads of layer {layer} can't be told apart.", "Ablate attention.")
        return block.projection.register_forward_pre_hook(
            _before(edits, len(self.sets)), with_kwargs=True
        )


def _edited(states: Tensor, edits: list[tuple[int, _Edit]], size: int) -> Tensor:
    rows = list(batched(states, size).unbind(0))
    for batch, edit in edits:
        rows[batch] = edit(rows[batch])
    return torch.stack(rows).reshape(states.shape)


def _after(edits: list[tuple[int, _Edit]], size: int) -> Any:
    def hook(module: Any, args: Any, output: Any) -> Any:
        """Change what a module gave."""
        return with_hidden_output(output, _edited(hidden_output(output), edits, size))

    return hook


def _before(edits: list[tuple[int, _Edit]], size: int) -> Any:
    def hook(module: Any, args: Any, kwargs: Any) -> Any:
        """Change the states that a module gets, whichever way it is handed them."""
        state = hidden_input(args, kwargs)
        assert state is not None  # noqa: S101 - a block without hidden states was refused at load
        changed = _edited(state, edits, size)
        if args:
            return (changed, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": changed}

    return hook


def _checked(where: Where, length: int) -> Any:
    if where is None:
        return slice(None)
    if isinstance(where, int):
        return resolve_index("Position", where, length)
    return [resolve_index("Position", item, length) for item in where]


def _index(where: Where, length: int) -> Any:
    """Positions inside this pass; those beyond it (while generating) are not there yet."""
    if where is None:
        return slice(None)
    chosen = [where] if isinstance(where, int) else list(where)
    return [item for item in chosen if -length <= item < length]


def _as_states(values: Any, d_model: int) -> Tensor:
    array = torch.as_tensor(np.asarray(values, dtype=np.float32))
    if array.shape[-1] != d_model or array.ndim > 2:
        raise SpecError(
            f"A state must have {d_model} numbers, not shape {tuple(array.shape)}.",
            "Take it from a trace of the same model.",
        )
    return array


@contextmanager
def applied(model: Model, interventions: Sequence[Any], length: int = 0) -> Iterator[Edits]:
    """Hold interventions on a model around any forward pass of yours.

    Args:
        model: From ``load_model``.
        interventions: A list for one sequence, or a list of lists, one for each of a batch.
        length: The sequence's length, to check positions against; 0 to leave that out.

    Raises:
        SpecError: If one names a layer, head or position that does not exist.
    """
    edits = Edits(model, interventions, length)
    tap, stream = _EditTap(edits), model.stream
    with (
        model.lock,
        edits.applied(),
        observing(stream.attending, tap, by_hooks=stream.by_hooks),
    ):
        yield edits


class _EditTap:
    """Cuts edges, records nothing."""

    def __init__(self, edits: Edits) -> None:
        self.edits = edits

    def cut(self, module: Any, shape: tuple[int, int, int]) -> Tensor | None:
        """The edges of this layer that interventions knock out."""
        return self.edits.cut(self.edits.model.stream.layer(module), shape)

    def observe(self, module: Any, value: Tensor, pattern: Tensor, output: Tensor) -> None:
        """Record nothing."""
