"""Apply interventions to a model: resolve and check them, then hook the forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from analysis.contract.specs import NO_ATTENTION, PART_NAMES, resolve_index
from analysis.errors import SpecError
from analysis.model.attention_hooks import observing
from analysis.model.handle import Model
from analysis.model.stream import Edit
from analysis.tracing.interventions import (
    Ablate,
    HoldPatterns,
    Inject,
    Intervention,
    KnockOut,
    Patch,
    PatchPrompt,
    Prompt,
    Steer,
    SteerDirection,
    SteerPrompts,
    SteerTokens,
)
from analysis.tracing.vectors import (
    as_states,
    change,
    checked_token,
    hook_component,
    injection,
    patch_of,
    positions,
    present,
    resolve_patch,
    resolve_positions,
    states_of,
    steering,
)

if TYPE_CHECKING:
    from analysis.tracing.held_patterns import HeldPatterns

_Edit = Callable[[Tensor], Tensor]


def resolve(
    model: Model,
    interventions: Sequence[Intervention],
    length: int | None,
    limit: int | None = None,
) -> tuple[Intervention, ...]:
    """The same interventions with all indices counted from the start, and checked.

    Args:
        model: From ``load_model``.
        interventions: As given by the user.
        length: Positions of the prompt, from whose end negative positions count. None if unknown.
        limit: Positions of the longest pass, while generating; ``length`` unless given.

    Raises:
        SpecError: If a layer, row, head, token or position does not exist, or a state does not
            fit the model.
    """
    return tuple(_resolve(model, item, length, limit) for item in as_sequence(interventions))


def as_sequence(interventions: Any) -> tuple[Any, ...]:
    """Interventions as a tuple: empty for None, one entry for a single intervention.

    Raises:
        SpecError: If a value is not an intervention.
    """
    if interventions is None:
        return ()
    if isinstance(interventions, Intervention):
        return (interventions,)
    if isinstance(interventions, (str, bytes)) or not isinstance(interventions, Iterable):
        raise SpecError(
            f"Interventions can't be {type(interventions).__name__}.",
            "Give a list of those of analysis.interventions.",
        )
    return tuple(interventions)


def _resolve(
    model: Model, item: Intervention, length: int | None, limit: int | None
) -> Intervention:
    info = model.info
    if isinstance(item, PatchPrompt):
        item = patch_of(model, item)
    elif isinstance(item, (SteerTokens, SteerPrompts, SteerDirection)):
        item = steering(model, item)
    if isinstance(item, Ablate):
        return _resolve_ablation(model, item, length, limit)
    if isinstance(item, HoldPatterns):
        if not info.heads:
            raise SpecError(NO_ATTENTION, "Leave out HoldPatterns: there is no pattern to hold.")
        return item
    if isinstance(item, KnockOut):
        return _resolve_edge(model, item, length, limit)
    if isinstance(item, Patch):
        return resolve_patch(model, item, length, limit)
    if isinstance(item, (Inject, Steer)):
        row = resolve_index("Row", item.row, info.layers + 1)
        pos = resolve_positions(item.pos, length, limit)
        if isinstance(item, Steer):
            return replace(item, row=row, pos=pos, vector=as_states(item.vector, info.d_model, 1))
        return replace(item, row=row, pos=pos, token=checked_token(model, item.token))
    raise SpecError(
        f"{type(item).__name__} is not an intervention.", "Use those of analysis.interventions."
    )


def _resolve_ablation(model: Model, item: Ablate, length: int | None, limit: int | None) -> Ablate:
    layer = resolve_index("Layer", item.layer, model.info.layers)
    component = _written(model, layer, item.component)
    pos = resolve_positions(item.pos, length, limit)
    head, neuron = _resolve_head(model, layer, item.head), item.neuron
    if neuron is not None:
        from analysis.model.down_projection import down_projection

        neuron = resolve_index(
            f"In layer {layer}, neuron", neuron, down_projection(model, layer)[1]
        )
    return replace(item, component=component, layer=layer, head=head, pos=pos, neuron=neuron)


def _written(model: Model, layer: int, component: str) -> str:
    """The component whose writer the block has; a mixer alone is in the place of attention."""
    part, block = component.removesuffix("_output"), model.stream.blocks[layer]
    part = "mlp" if part == "neuron" else part
    if part == "ssm" and block.mixer_alone:
        return "attention_output"
    if part != "head" and not block.of(part):
        name = PART_NAMES[part]
        raise SpecError(f"Layer {layer} has no {name}.", "Choose another layer or component.")
    return component


def _resolve_head(model: Model, layer: int, head: int | None) -> int | None:
    if head is None:
        return None
    block = model.stream.blocks[layer]
    if block.projection is None:
        raise SpecError(
            f"The attention of layer {layer} can't be split into heads.",
            "Ablate the attention output.",
        )
    return model.head_index(layer, head)


def _resolve_edge(model: Model, item: KnockOut, length: int | None, limit: int | None) -> KnockOut:
    layer = resolve_index("Layer", item.layer, model.info.layers)
    if not model.stream.blocks[layer].heads:
        raise SpecError(f"Layer {layer} has no attention patterns.", "Choose another layer.")
    head = None if item.head is None else model.head_index(layer, item.head)
    (query,) = resolve_positions(item.query, length, limit)
    (key,) = resolve_positions(item.key, length, limit)
    if key > query:
        raise SpecError(
            f"Position {query} does not see position {key}.",
            "Choose a key at or before its query.",
        )
    return KnockOut(layer, head, query, key)


@dataclass
class Edits:
    """Interventions prepared for one model.

    Attributes:
        model: The model.
        sets: One list of interventions, or several lists for as many rows of a batch. They are
            resolved on construction.
        length: Positions of the prompt; None if unknown.
        limit: Positions of the longest pass, while generating.
    """

    model: Model
    sets: Sequence[Any]
    length: int | None = None
    limit: int | None = None
    _states: dict[int, list[tuple[int, _Edit]]] = field(default_factory=dict)
    _writers: dict[tuple[str, int], list[tuple[int, _Edit]]] = field(default_factory=dict)
    _cuts: dict[int, list[tuple[int, KnockOut]]] = field(default_factory=dict)
    _others: dict[tuple[str, int, Prompt], Tensor] = field(default_factory=dict)
    _held: HeldPatterns | None = None

    def __post_init__(self) -> None:
        given = as_sequence(self.sets)
        several = any(isinstance(entry, (list, tuple)) for entry in given)
        sets = list(given) if several else [given]
        self.sets = [resolve(self.model, items, self.length, self.limit) for items in sets]
        for batch, interventions in enumerate(self.sets):
            for item in interventions:
                self._add(batch, item)
        holding = [n for n, items in enumerate(self.sets) if HoldPatterns() in items]
        if holding:
            from analysis.tracing.held_patterns import HeldPatterns

            self._held = HeldPatterns(self.model, holding)

    def _add(self, batch: int, item: Intervention) -> None:
        if isinstance(item, Ablate):
            key = item.component, item.layer
            self._writers.setdefault(key, []).append((batch, self._ablation(item)))
        elif isinstance(item, KnockOut):
            self._cuts.setdefault(item.layer, []).append((batch, item))
        elif isinstance(item, (Inject, Patch, Steer)):
            edit = injection(self.model, item) if isinstance(item, Inject) else change(item)
            self._states.setdefault(item.row, []).append((batch, edit))

    def _ablation(self, item: Ablate) -> _Edit:
        part, length, source = self._part(item), self.length, self._source(item)

        def edit(state: Tensor) -> Tensor:
            """Replace the part of the state [pos, d]."""
            changed, where = state.clone(), present(positions(item), state)
            if source is None:
                value = state[:length, part].mean(0) if item.value == "mean" else 0.0
            elif item.source_pos is not None:
                value = source[item.source_pos].to(state)
            else:
                where = range(min(len(state), len(source))) if item.pos is None else where
                value = source[list(where)].to(state)
            changed[where, part] = value
            return changed

        return edit

    def _part(self, item: Ablate) -> slice:
        """The coordinates of a component's states that belong to a head or a neuron."""
        if item.neuron is not None:
            return slice(item.neuron, item.neuron + 1)
        if item.head is None:
            return slice(None)
        width = self.model.stream.blocks[item.layer].d_head
        return slice(item.head * width, (item.head + 1) * width)

    def _source(self, item: Ablate) -> Tensor | None:
        """[pos, part] what replaces a component that comes from another prompt; else None.

        Raises:
            SpecError: If the other prompt lacks a position.
        """
        if item.value != "resample":
            return None
        place = item.component, item.layer, item.prompt
        if place not in self._others:
            self._others[place] = states_of(self.model, *place)
        found = self._others[place]
        if item.source_pos is not None:
            resolve_index("Position", item.source_pos, len(found))
        for pos in positions(item) or ():
            if item.source_pos is None and pos >= len(found):
                raise SpecError(
                    f"The other prompt has {len(found)} positions, so it has no position {pos}.",
                    "Choose the position in the other prompt, or write a longer one.",
                )
        return found[:, self._part(item)]

    def held(
        self, module: Any, value: Tensor, pattern: Tensor, output: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The pattern and the heads' outputs of one attention call, or those that are held.

        Args:
            module: The attention module.
            value: [batch, kv_head, key, d].
            pattern: [batch, head, query, key].
            output: [batch, query, head, d].
        """
        if self._held is None:
            return pattern, output
        layer = self.model.stream.layer(module)
        _, heads, queries, keys = pattern.shape
        cut = self.cut(layer, (heads, queries, keys))
        return self._held.apply(layer, cut, value, pattern, output)

    @property
    def head_layers(self) -> set[int]:
        """Layers with an ablated head."""
        return {layer for component, layer in self._writers if component == "head_output"}

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
        """Hook the edits to the model inside this block; none of the hooks stays afterwards."""
        handles: list[Any] = []
        size = len(self.sets)
        try:
            for row, edits in self._states.items():
                handles += hook_component(self.model, "row", row, _in_batch(edits), size)
            for (component, layer), edits in self._writers.items():
                edit = _in_batch(edits)
                handles += hook_component(self.model, component, layer, edit, size)
            if self._held is not None:
                hook = self.model.hf.register_forward_pre_hook(self._held.take, with_kwargs=True)
                handles.append(hook)
            yield
        finally:
            for handle in handles:
                handle.remove()


def _in_batch(edits: list[tuple[int, _Edit]]) -> Edit:
    """One edit of a batch [batch, pos, d] from edits [pos, d] of its sequences, by number."""

    def edit(states: Tensor) -> Tensor:
        """Edit each sequence by its own edits."""
        rows = list(states.unbind(0))
        for number, one in edits:
            rows[number] = one(rows[number])
        return torch.stack(rows)

    return edit


@contextmanager
def applied(
    model: Model,
    interventions: Sequence[Any],
    length: int | None = None,
    limit: int | None = None,
    mixed: Mapping[int, Edit] | None = None,
    *,
    recompute: bool = False,
) -> Iterator[Edits]:
    """Apply interventions to every forward pass inside this block.

    Args:
        model: From ``load_model``.
        interventions: A list for one sequence, or a list of lists, one per row of a batch.
        length: Positions of the prompt, from whose end negative positions count; None if unknown.
        limit: Positions of the longest pass, while generating.
        mixed: Layer to a change of its heads' mixed values [batch, query, head, d_head]: pattern
            times values, before a gate, a norm or the output projection. Interventions change
            them after it.
        recompute: Save no attention scores for a way back, but compute them again there.

    Raises:
        SpecError: If one names a layer, head or position that does not exist.
    """
    edits = Edits(model, interventions, length, limit)
    tap, stream = _EditTap(edits, mixed or {}, recompute), model.stream
    with (
        model.lock,
        edits.applied(),
        observing(stream.attending, tap, by_hooks=stream.by_hooks),
    ):
        yield edits


class _EditTap:
    """Cuts edges, changes mixed values and records nothing."""

    def __init__(self, edits: Edits, mixed: Mapping[int, Edit], recompute: bool) -> None:
        self.edits, self.mixed, self.recompute = edits, mixed, recompute

    def cut(self, module: Any, shape: tuple[int, int, int]) -> Tensor | None:
        """The edges of this layer that interventions knock out."""
        return self.edits.cut(self.edits.model.stream.layer(module), shape)

    def observe(self, module: Any, value: Tensor, pattern: Tensor, output: Tensor) -> Tensor | None:
        """The mixed values of this layer, changed if there is a change."""
        layer = self.edits.model.stream.layer(module)
        edit = None if layer is None else self.mixed.get(layer)
        _, output = self.edits.held(module, value, pattern, output)
        return output if edit is None else edit(output)
