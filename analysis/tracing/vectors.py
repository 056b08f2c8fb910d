"""Positions and states that an intervention reads or changes, and the hooks that change them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from numbers import Integral
from typing import Any, cast

import torch
from torch import Tensor

from analysis.contract.specs import resolve_index
from analysis.errors import SpecError
from analysis.model.handle import Model
from analysis.model.stream import Edit, edit_input, edit_output, float32_copy, without_hooks
from analysis.tracing.directions import Direction, load
from analysis.tracing.interventions import (
    Ablate,
    Inject,
    Patch,
    PatchPrompt,
    Steer,
    SteerDirection,
    SteerPrompts,
    SteerTokens,
)
from analysis.tracing.tokens import check_ids, read_ids, token_id

#: From states [pos, d_model] to edited ones.
StateEdit = Callable[[Tensor], Tensor]


def positions(item: Ablate | Patch | Inject | Steer) -> tuple[int, ...] | None:
    """The positions of a resolved intervention; None for all."""
    return cast("tuple[int, ...] | None", item.pos)


def index(item: Ablate | Patch | Inject | Steer) -> slice | list[int]:
    """The positions of a resolved intervention, as an index of an array."""
    where = positions(item)
    return slice(None) if where is None else list(where)


def covers(item: Ablate | Patch | Inject | Steer, position: int) -> bool:
    """Whether a resolved intervention changes a position."""
    where = positions(item)
    return where is None or position in where


def resolve_positions(where: Any, length: int | None, limit: int | None = None) -> Any:
    """Positions as a tuple of indices from the start; None stays None (all positions).

    Args:
        where: One position, several, or None; negative ones count from the end.
        length: Positions of the prompt; None if unknown, then none may be negative.
        limit: Positions of the longest pass; ``length`` unless given.

    Raises:
        SpecError: If a position does not exist or is not a whole number.
    """
    if where is None:
        return None
    several = list(where) if isinstance(where, Iterable) and not isinstance(where, str) else [where]
    return tuple(_resolve_position(item, length, limit) for item in several)


def _resolve_position(item: Any, length: int | None, limit: int | None) -> int:
    if isinstance(item, bool) or not isinstance(item, Integral):
        raise SpecError(f"Position {item!r} is not a whole number.", "Give positions as integers.")
    value = int(item)
    if length is None:
        if value < 0:
            raise SpecError(
                f"Position {value} counts from the end of a sequence of unknown length.",
                "Give the length, or count from the start.",
            )
        return value
    if value >= length and limit is not None and value < limit:
        return value
    return resolve_index("Position", value, length)


def as_states(values: Any, d_model: int, dimensions: int) -> Tensor:
    """States [d_model] or [pos, d_model] of any numeric type, as a float32 tensor on the CPU.

    Args:
        values: A torch tensor of any dtype, a numpy array, or nested lists.
        d_model: Width of the residual stream.
        dimensions: 1 to allow [d_model] only, 2 to allow [pos, d_model] also.

    Raises:
        SpecError: If the shape does not fit, or a value is NaN, infinite or not a number.
    """
    try:
        states = torch.as_tensor(values).detach()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise SpecError(
            f"A state of {d_model} numbers is needed, not {type(values).__name__}.",
            "Give a vector of numbers.",
        ) from error
    if states.is_complex():
        raise SpecError("A state has complex numbers.", "Give real numbers.")
    states = states.to("cpu", torch.float32)
    if states.dim() not in range(1, dimensions + 1) or states.shape[-1] != d_model:
        shape = f"[{d_model}]" + (f" or [pos, {d_model}]" if dimensions > 1 else "")
        raise SpecError(
            f"A state must have the shape {shape}, not {list(states.shape)}.",
            "Take it from a trace of the same model.",
        )
    if not bool(states.isfinite().all()):
        raise SpecError("A state has numbers that are NaN or infinite.", "Give finite numbers.")
    return states


def embedding(model: Model, token: int) -> Tensor:
    """[d_model] a token's input embedding as it enters the residual stream, in float32."""
    readout = model.readout
    return readout.input_rows[token].float() * readout.embedding_scale


def change(item: Patch | Steer) -> StateEdit:
    """Replace states [pos, d_model], or add to them."""

    def edit(state: Tensor) -> Tensor:
        """The state with the patch or the vector."""
        changed, where = state.clone(), present(positions(item), state)
        if isinstance(item, Steer):
            changed[where] += item.vector.to(state)
            return changed
        source = item.source.to(state)
        chosen = positions(item)
        if chosen is not None and source.dim() == 2 and len(source) > 1:
            source = source[[n for n, pos in enumerate(chosen) if pos < len(state)]]
        changed[where] = source
        return changed

    return edit


def injection(model: Model, item: Inject) -> StateEdit:
    """Put a token's embedding into states [pos, d_model], or turn their main component to it."""
    readout, token = model.readout, int(item.token)
    if item.mode != "replace":
        readout.require_linear()

    def edit(state: Tensor) -> Tensor:
        """Replace states by the token's embedding, or turn their top token's direction to it."""
        where, changed = present(positions(item), state), state.clone()
        if item.mode == "replace":
            changed[where] = embedding(model, token).to(state)
            return changed
        chosen = state[where].reshape(-1, state.shape[-1])
        top = readout.logits(chosen.to(readout.device, readout.output_rows.dtype)).argmax(-1)
        unit = torch.nn.functional.normalize(readout.output_rows[[*top.tolist(), token]].float())
        main, wanted = unit[:-1].to(chosen), unit[-1].to(chosen)
        turned = chosen + (chosen * main).sum(-1, keepdim=True) * (wanted - main)
        changed[where] = turned.reshape(changed[where].shape)
        return changed

    return edit


def present(where: tuple[int, ...] | None, state: Tensor) -> Any:
    """The positions that this pass has; those to be generated do not exist yet."""
    return slice(None) if where is None else [item for item in where if item < len(state)]


def hook_component(model: Model, component: str, index: int, edit: Edit, batch: int) -> list[Any]:
    """Hook a model so that ``edit`` changes a component's states [batch, pos, d].

    Args:
        model: From ``load_model``.
        component: "row"; the output of a part such as "mlp_output"; "head_output": the heads'
            mixed values side by side, as the output projection reads them, after a gate or norm;
            or "neuron": the input of the MLP's down projection.
        index: The row, or the layer.
        edit: Changes the states.
        batch: Sequences in the batch.
    """
    blocks = model.stream.blocks
    if component == "row" and index == 0 and model.stream.entry is not None:
        return [edit_output(model.stream.entry, edit, batch)]
    if component == "row" and index == 0:
        return [edit_input(blocks[0].module, edit, batch)]
    if component == "row":
        return [edit_output(blocks[index - 1].module, edit, batch)]
    block = blocks[index]
    if component == "neuron":
        from analysis.model.down_projection import down_projection

        return [edit_input(down_projection(model, index)[0], edit, batch)]
    if component != "head_output":
        writers = block.of(component.removesuffix("_output"))
        return [edit_output(writer.module, edit, batch) for writer in writers]
    assert block.projection is not None  # noqa: S101 - callers check that there are heads
    return [edit_input(block.projection, edit, batch)]


@torch.no_grad()
def states_of(model: Model, component: str, index: int, prompt: Any) -> Tensor:
    """[pos, d] the states of a row or component (see ``hook_component``) in a prompt of its own.

    The prompt is run without hooks, so without interventions; float32 on the CPU.

    Raises:
        PromptError: If the prompt is empty, holds an unknown id, or is too long.
        SpecError: If the component has no single writer.
    """
    vocab = int(model.readout.input_rows.shape[0])
    ids = check_ids(read_ids(model.tokenizer, prompt), vocab, model.info.max_positions)
    kept: list[Tensor] = []

    def keep(states: Tensor) -> Tensor:
        """Keep the states [batch, pos, d]; change nothing."""
        kept.append(float32_copy(states[0]))
        return states

    with model.lock, without_hooks(model.hf):
        handles = hook_component(model, component, index, keep, 1)
        try:
            model.hf(input_ids=torch.tensor([ids], device=model.device), use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
    if len(kept) != 1:
        raise SpecError(
            f"Several modules of layer {index} write its {component}, so it can't come from another"
            " prompt.",
            "Patch the state after the layer.",
        )
    return kept[0]


def checked_token(model: Model, token: int | str) -> int:
    """The id of a token that is given as id or text.

    Raises:
        SpecError: If there is no such token, or the text is not one token.
    """
    chosen = token_id(model.tokenizer, token)
    return resolve_index("Token", chosen, int(model.readout.input_rows.shape[0]))


def patch_of(model: Model, item: PatchPrompt) -> Patch:
    """The patch by the state [d_model] of another prompt, which is run here."""
    row = resolve_index("Row", item.row, model.info.layers + 1)
    states = states_of(model, "row", row, item.prompt)
    return Patch(row, item.pos, states[resolve_index("Position", item.source_pos, len(states))])


def steering(model: Model, item: SteerTokens | SteerPrompts | SteerDirection) -> Steer:
    """The steering by a difference of tokens or prompts, or by a saved direction."""
    if isinstance(item, SteerDirection):
        vector = load(model.info, item.name)
        return Steer(item.row, item.pos, item.strength * torch.from_numpy(vector))
    if isinstance(item, SteerTokens):
        towards, away = (
            embedding(model, checked_token(model, token)) for token in (item.towards, item.away)
        )
    else:
        row = resolve_index("Row", item.row, model.info.layers + 1)
        towards, away = (
            patch_of(model, PatchPrompt(row, None, prompt, pos)).source
            for prompt, pos in ((item.towards, item.towards_pos), (item.away, item.away_pos))
        )
    return Steer(item.row, item.pos, item.strength * (towards - away))


def save_direction(
    model: Model,
    name: str,
    vector: Any,
    *,
    row: int | None = None,
    source: str = "",
    replace: bool = False,
) -> Direction:
    """Save a direction of the residual stream under a name, to steer the model by it.

    ``SteerDirection(row, pos, name, strength)`` adds ``strength`` times the vector to a state. The
    vector may come from any probe: the weights of a linear classifier, a difference of means, or
    ``probe_direction``. Only the same weights in the same dtype take it.

    Args:
        model: From ``load_model``.
        name: 1 to 60 letters, digits, dots, hyphens and underscores.
        vector: [d_model] its coordinates, in the units of the residual stream.
        row: The residual row in whose states it was found.
        source: Where it comes from, in a sentence.
        replace: Whether a direction of that name may be replaced.

    Raises:
        SpecError: If the name is taken or not valid, or the vector does not fit the model.
        StoreError: If the file can't be written.
    """
    from analysis.tracing import directions

    info = model.info
    values = as_states(vector, info.d_model, 1)
    norm = float(values.double().norm())
    if not norm:
        raise SpecError("The direction is zero.", "Give a vector with a length.")
    at = None if row is None else resolve_index("Row", row, info.layers + 1)
    found = directions.Direction(name, info.name, info.fingerprint, at, norm, source[:500])
    directions.save(found, values.numpy(), replace=replace)
    return found


def resolve_patch(model: Model, item: Patch, length: int | None, limit: int | None) -> Patch:
    """A patch with all indices counted from the start, and its states as a tensor.

    Raises:
        SpecError: If a row or position does not exist, or the states do not fit.
    """
    row = resolve_index("Row", item.row, model.info.layers + 1)
    pos = resolve_positions(item.pos, length, limit)
    source = item.source
    if hasattr(source, "resid"):
        source.require_model(model)
        states = torch.from_numpy(source.resid[row])
        where = item.pos if item.source_pos is None else item.source_pos
        chosen = resolve_positions(where, len(states))
        states = states if chosen is None else states[list(chosen)]
    else:
        states = as_states(source, model.info.d_model, 2)
    if states.dim() == 2:
        if pos is None and length is not None:
            pos = tuple(range(length))
        if pos is not None and len(states) not in (1, len(pos)):
            raise SpecError(
                f"The patch has {len(states)} states for {len(pos)} positions.",
                "Give as many positions as states.",
            )
    return Patch(row, pos, states)
