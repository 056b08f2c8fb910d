"""Edits of a run as text: their short form, their sentence, the call that makes them, their reach.

The short form is one line without commas, so that a link and a command can contain it:

- ``ablate:head_output:24:3:4:zero``: component, layer, head, positions, value
- ``ablate:neuron:24:1027:4:zero``: the same for a neuron
- ``ablate:mlp_output:24:all:4:resample:The capital of England is:-1``: also the other prompt and
  its position, or ``same``
- ``cut:24:3:4:0``: layer, head, the position that reads, the position that is not read
- ``inject:12:4: London:replace``: row, positions, token, mode
- ``patch:12:4:The capital of England is:-1``: row, positions, other prompt, its position
- ``steer:12:4: London: Paris:1.5``: row, positions, towards, away, strength
- ``steer_prompts:12:4:I love you:I hate you:1.5:-1:-1``: row, positions, prompts towards and away,
  strength, their positions
- ``steer_direction:12:4:carry1:1.5``: row, positions, name of a saved direction, strength
- ``hold``: attention patterns are held at the baseline's

Several positions are joined by ``+``; ``all`` stands for all positions or heads. ``#5`` is the
token with id 5. In texts, ``%``, ``:``, ``#``, ``,`` and ``;`` are written as in an address
(``%3A``). Importable without torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import MISSING, fields
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from analysis.errors import SpecError
from analysis.tracing.interventions import (
    Ablate,
    HoldPatterns,
    Inject,
    KnockOut,
    PatchPrompt,
    Prompt,
    RunEdit,
    SteerDirection,
    SteerPrompts,
    SteerTokens,
    Where,
)

#: Most characters of an edit's short form.
MAX_TEXT = 7000
_ALL, _SAME = "all", "same"
#: The short form of ``HoldPatterns``.
HOLD = "hold"
_RESERVED = {ord(character): f"%{ord(character):02X}" for character in "%:#,;\n\r\t"}
_PARTS = {
    "attention_output": "The attention output of layer {layer}",
    "mlp_output": "The MLP output of layer {layer}",
    "head_output": "Head {head} of layer {layer}",
    "neuron": "Neuron {neuron} of layer {layer}",
    "ssm_output": "The mixer output of layer {layer}",
    "per_layer_embedding_output": "The per-layer embedding of layer {layer}",
}


def to_text(edit: RunEdit) -> str:
    """The short form of an edit; ``parse`` reads it."""
    match edit:
        case Ablate():
            unit = _numbers(edit.head if edit.neuron is None else edit.neuron)
            values = ["ablate", edit.component, edit.layer, unit, _numbers(edit.pos), edit.value]
            if edit.value == "resample":
                source = _SAME if edit.source_pos is None else edit.source_pos
                values += [_prompt_text(edit.prompt), source]
        case KnockOut():
            values = ["cut", edit.layer, _numbers(edit.head), edit.query, edit.key]
        case Inject():
            token = _token_text(edit.token)
            values = ["inject", edit.row, _numbers(edit.pos), token, edit.mode]
        case PatchPrompt():
            pos, prompt = _numbers(edit.pos), _prompt_text(edit.prompt)
            values = ["patch", edit.row, pos, prompt, edit.source_pos]
        case SteerTokens():
            tokens = [_token_text(edit.towards), _token_text(edit.away)]
            values = ["steer", edit.row, _numbers(edit.pos), *tokens, repr(edit.strength)]
        case SteerPrompts():
            prompts = [_prompt_text(edit.towards), _prompt_text(edit.away)]
            values = ["steer_prompts", edit.row, _numbers(edit.pos), *prompts]
            values += [repr(edit.strength), edit.towards_pos, edit.away_pos]
        case SteerDirection():
            pos = _numbers(edit.pos)
            values = ["steer_direction", edit.row, pos, edit.name, repr(edit.strength)]
        case HoldPatterns():
            values = [HOLD]
    return ":".join(map(str, values))


def parse(text: str) -> RunEdit:
    """The edit of a short form.

    Raises:
        SpecError: If the text is not the short form of an edit, or a value is not valid.
    """
    kind, *values = text.split(":") if len(text) <= MAX_TEXT else ["too long"]
    if kind not in _READERS or len(values) not in _COUNTS[kind]:
        raise _unreadable(text)
    try:
        return _READERS[kind](*values)
    except ValueError as error:
        raise _unreadable(text) from error


def escaped(text: str) -> str:
    """A token or prompt as a part of a short form; ``unescaped`` reads it."""
    return text.translate(_RESERVED)


def unescaped(part: str) -> str:
    """A part of a short form as text."""
    return unquote(part, errors="replace")


def parse_all(texts: Iterable[str]) -> tuple[RunEdit, ...]:
    """The edits of several short forms."""
    return tuple(map(parse, texts))


def _unreadable(text: str) -> SpecError:
    return SpecError(
        f"The edit {text[:60]!r} can't be read.",
        "Write it like ablate:head_output:24:3:all:zero or inject:12:4: London:replace.",
    )


def _numbers(where: Where) -> str:
    several = where if isinstance(where, tuple) else (where,)
    return _ALL if where is None else "+".join(map(str, several))


def _positions(text: str) -> Where:
    if text == _ALL:
        return None
    several = tuple(map(int, text.split("+")))
    return several[0] if len(several) == 1 else several


def _head(text: str) -> int | None:
    return None if text in (_ALL, "") else int(text)


def _token_text(token: int | str) -> str:
    return f"#{token}" if isinstance(token, int) else escaped(token)


def _token(text: str) -> int | str:
    if text.startswith("#"):
        return int(text[1:])
    if not text:
        raise SpecError("There is no token.", "Type one token, such as ' London'.")
    return unquote(text, errors="strict")


def _prompt_text(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return escaped(prompt)
    return "#" + "+".join(map(str, prompt))


def _prompt(text: str) -> Prompt:
    if text.startswith("#"):
        return tuple(map(int, text[1:].split("+")))
    return unquote(text, errors="strict")


def _read_ablate(
    component: str, layer: str, unit: str, pos: str = _ALL, value: str = "zero",
    prompt: str = "", source: str = _SAME,
) -> RunEdit:  # fmt: skip
    number, where = _head(unit), _positions(pos)
    units = {"neuron" if component == "neuron" else "head": number}
    at = None if source == _SAME else int(source)
    return Ablate(
        component, int(layer), pos=where, value=value, prompt=_prompt(prompt), source_pos=at,
        **units,
    )  # fmt: skip


def _read_cut(layer: str, head: str, query: str, key: str) -> RunEdit:
    return KnockOut(int(layer), _head(head), int(query), int(key))


def _read_inject(row: str, pos: str, token: str, mode: str = "replace") -> RunEdit:
    return Inject(int(row), _positions(pos), _token(token), mode)


def _read_patch(row: str, pos: str, prompt: str, source_pos: str = "-1") -> RunEdit:
    return PatchPrompt(int(row), _positions(pos), _prompt(prompt), int(source_pos))


def _read_steer(row: str, pos: str, towards: str, away: str, strength: str = "1.0") -> RunEdit:
    return SteerTokens(int(row), _positions(pos), _token(towards), _token(away), float(strength))


def _read_steer_prompts(
    row: str, pos: str, towards: str, away: str, strength: str = "1.0",
    towards_pos: str = "-1", away_pos: str = "-1",
) -> RunEdit:  # fmt: skip
    prompts, factor = (_prompt(towards), _prompt(away)), float(strength)
    return SteerPrompts(
        int(row), _positions(pos), *prompts, factor, int(towards_pos), int(away_pos)
    )


def _read_steer_direction(row: str, pos: str, name: str, strength: str = "1.0") -> RunEdit:
    return SteerDirection(int(row), _positions(pos), name, float(strength))


_READERS: dict[str, Callable[..., RunEdit]] = {
    "ablate": _read_ablate,
    "cut": _read_cut,
    "inject": _read_inject,
    "patch": _read_patch,
    "steer": _read_steer,
    "steer_prompts": _read_steer_prompts,
    "steer_direction": _read_steer_direction,
    HOLD: HoldPatterns,
}
#: Numbers of values that the short form of each kind may have.
_COUNTS = {
    "ablate": range(3, 8), "cut": range(4, 5), "inject": range(3, 5), "patch": range(3, 5),
    "steer": range(4, 6), "steer_prompts": range(4, 8),
    "steer_direction": range(3, 5), HOLD: range(1),
}  # fmt: skip


def describe(edit: RunEdit) -> str:
    """What an edit does, in one sentence."""
    match edit:
        case Ablate():
            text = _describe_ablation(edit)
        case KnockOut():
            who = "no head" if edit.head is None else f"head {edit.head} does not"
            verb = "reads" if edit.head is None else "read"
            where = f"In layer {edit.layer} at position {edit.query}"
            text = f"{where}, {who} {verb} position {edit.key}"
        case Inject(mode="replace"):
            text = f"{_state(edit)} becomes the input embedding of {_quoted(edit.token)}"
        case Inject():
            state = _lower(_state(edit))
            text = f"The main component of {state} turns into {_quoted(edit.token)}"
        case PatchPrompt():
            source = _of_prompt(edit.prompt, edit.source_pos)
            text = f"{_state(edit)} is replaced by that of {source}"
        case SteerTokens():
            text = _describe_steering(edit, _quoted(edit.towards), _quoted(edit.away))
        case SteerPrompts():
            towards = _of_prompt(edit.towards, edit.towards_pos)
            text = _describe_steering(edit, towards, _of_prompt(edit.away, edit.away_pos))
        case SteerDirection():
            where = f"{_state(edit)} moves along the saved direction {edit.name}"
            text = f"{where}, with strength {edit.strength:g}"
        case HoldPatterns():
            text = "All attention patterns are held at those of the baseline"
    return f"{text}."


def _describe_steering(edit: SteerTokens | SteerPrompts, towards: str, away: str) -> str:
    moved = f"{_state(edit)} moves towards {towards} and away from {away}"
    return f"{moved}, with strength {edit.strength:g}"


def _describe_ablation(edit: Ablate) -> str:
    part = _PARTS[edit.component].format(layer=edit.layer, head=edit.head, neuron=edit.neuron)
    if edit.value != "resample":
        value = "zero" if edit.value == "zero" else "its mean over the positions"
        return f"{part} is set to {value}{_at(edit.pos)}"
    if edit.source_pos is not None:
        source = _of_prompt(edit.prompt, edit.source_pos)
        return f"{part}{_at(edit.pos)} is replaced by that of {source}"
    source = f"“{_shortened(edit.prompt)}”"
    if edit.pos is None:
        return f"{part} is replaced by that of {source}, at each position that both prompts have"
    several = "s" if isinstance(edit.pos, tuple) and len(edit.pos) > 1 else ""
    return f"{part}{_at(edit.pos)} is replaced by that of {source} at the same position{several}"


def _of_prompt(prompt: Prompt, position: int) -> str:
    return f"“{_shortened(prompt)}”{_at_source(position)}"


def _at(where: Where) -> str:
    if where is None:
        return " at all positions"
    several = where if isinstance(where, tuple) else (where,)
    names = ", ".join(map(str, several[:-1])) + (" and " if several[1:] else "") + str(several[-1])
    return f" at position{'s' if several[1:] else ''} {names}"


def _at_source(position: int) -> str:
    return " at its last token" if position == -1 else f" at position {position}"


def _state(edit: Inject | PatchPrompt | SteerTokens | SteerPrompts | SteerDirection) -> str:
    state = f"The state after layer {edit.row - 1}" if edit.row else "The embedding"
    return state + _at(edit.pos)


def _lower(text: str) -> str:
    return text[0].lower() + text[1:]


def _quoted(token: int | str) -> str:
    return f"token {token}" if isinstance(token, int) else f"'{token}'"


def _shortened(prompt: Prompt) -> str:
    text = prompt if isinstance(prompt, str) else "token ids " + " ".join(map(str, prompt))
    return text if len(text) <= 40 else f"{text[:39]}…"


def code(edit: RunEdit) -> str:
    """The Python call that makes an edit, for example ``Ablate("mlp_output", 3, pos=4)``."""
    given = []
    for one in fields(edit):
        value = getattr(edit, one.name)
        if one.default is MISSING:
            given.append(_literal(value))
        elif value != one.default:
            given.append(f"{one.name}={_literal(value)}")
    return f"{type(edit).__name__}({', '.join(given)})"


def _literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def has_positions(edit: RunEdit) -> bool:
    """Whether an edit names positions, so that it fits one prompt only."""
    if isinstance(edit, HoldPatterns):
        return False
    return isinstance(edit, KnockOut) or edit.pos is not None


def edited_cells(edit: RunEdit, rows: int, positions: int) -> NDArray[np.bool_]:
    """[row, pos] the states that an edit changes directly.

    Args:
        edit: The edit.
        rows: Number of residual rows.
        positions: Number of positions.
    """
    cells = np.zeros((rows, positions), bool)
    if isinstance(edit, HoldPatterns):
        return cells
    written = isinstance(edit, Ablate | KnockOut)  # by a layer, to the next row
    number = edit.layer if isinstance(edit, Ablate | KnockOut) else edit.row
    size = rows - 1 if written else rows
    where = edit.query if isinstance(edit, KnockOut) else edit.pos
    several = where if isinstance(where, tuple) else (where,)
    if -size <= number < size:
        row = number % size + (1 if written else 0)
        for pos in range(positions) if where is None else several:
            if pos is not None and -positions <= pos < positions:
                cells[row, pos] = True
    return cells


def reachable(edited: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[row, pos] the states that edits can change, given those that they change directly.

    An edit reaches the deeper rows at its position and, because the next layer's attention reads
    it, later positions from the next row on.
    """
    same = np.logical_or.accumulate(edited, axis=0)
    earlier = np.logical_or.accumulate(same, axis=1)
    reached: NDArray[np.bool_] = same.copy()
    reached[1:] |= earlier[:-1]
    return reached
