"""Edits of a run as text: their short form, their sentence, the call that makes them, their reach.

The short form is one line without commas, so that a link and a command can contain it:

- ``ablate:head_output:24:3:4:zero``: component, layer, head, positions, value
- ``cut:24:3:4:0``: layer, head, the position that reads, the position that is not read
- ``inject:12:4: London:replace``: row, positions, token, mode
- ``patch:12:4:The capital of England is:-1``: row, positions, other prompt, its position
- ``steer:12:4: London: Paris:1.5``: row, positions, towards, away, strength

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
    Inject,
    KnockOut,
    PatchPrompt,
    RunEdit,
    SteerTokens,
    Where,
)

#: Most characters of an edit's short form.
MAX_TEXT = 7000
_ALL = "all"
_RESERVED = {ord(character): f"%{ord(character):02X}" for character in "%:#,;\n\r\t"}
_PARTS = {
    "attention_output": "The attention output of layer {layer}",
    "mlp_output": "The MLP output of layer {layer}",
    "head_output": "Head {head} of layer {layer}",
    "ssm_output": "The mixer output of layer {layer}",
    "per_layer_embedding_output": "The per-layer embedding of layer {layer}",
}


def to_text(edit: RunEdit) -> str:
    """The short form of an edit; ``parse`` reads it."""
    match edit:
        case Ablate():
            head, pos = _numbers(edit.head), _numbers(edit.pos)
            values = ["ablate", edit.component, edit.layer, head, pos, edit.value]
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
    return f"#{token}" if isinstance(token, int) else token.translate(_RESERVED)


def _token(text: str) -> int | str:
    if text.startswith("#"):
        return int(text[1:])
    if not text:
        raise SpecError("There is no token.", "Type one token, such as ' London'.")
    return unquote(text, errors="strict")


def _prompt_text(prompt: str | tuple[int, ...]) -> str:
    if isinstance(prompt, str):
        return prompt.translate(_RESERVED)
    return "#" + "+".join(map(str, prompt))


def _prompt(text: str) -> str | tuple[int, ...]:
    if text.startswith("#"):
        return tuple(map(int, text[1:].split("+")))
    return unquote(text, errors="strict")


def _read_ablate(
    component: str, layer: str, head: str, pos: str = _ALL, value: str = "zero"
) -> RunEdit:
    return Ablate(component, int(layer), _head(head), _positions(pos), value)


def _read_cut(layer: str, head: str, query: str, key: str) -> RunEdit:
    return KnockOut(int(layer), _head(head), int(query), int(key))


def _read_inject(row: str, pos: str, token: str, mode: str = "replace") -> RunEdit:
    return Inject(int(row), _positions(pos), _token(token), mode)


def _read_patch(row: str, pos: str, prompt: str, source_pos: str = "-1") -> RunEdit:
    return PatchPrompt(int(row), _positions(pos), _prompt(prompt), int(source_pos))


def _read_steer(row: str, pos: str, towards: str, away: str, strength: str = "1.0") -> RunEdit:
    return SteerTokens(int(row), _positions(pos), _token(towards), _token(away), float(strength))


_READERS: dict[str, Callable[..., RunEdit]] = {
    "ablate": _read_ablate,
    "cut": _read_cut,
    "inject": _read_inject,
    "patch": _read_patch,
    "steer": _read_steer,
}
#: Numbers of values that the short form of each kind may have.
_COUNTS = {
    "ablate": range(3, 6), "cut": range(4, 5), "inject": range(3, 5), "patch": range(3, 5),
    "steer": range(4, 6),
}  # fmt: skip


def describe(edit: RunEdit) -> str:
    """What an edit does, in one sentence."""
    match edit:
        case Ablate():
            part = _PARTS[edit.component].format(layer=edit.layer, head=edit.head)
            value = "zero" if edit.value == "zero" else "its mean over the positions"
            return f"{part} is set to {value}{_at(edit.pos)}."
        case KnockOut():
            who = "no head" if edit.head is None else f"head {edit.head} does not"
            verb = "reads" if edit.head is None else "read"
            where = f"In layer {edit.layer} at position {edit.query}"
            return f"{where}, {who} {verb} position {edit.key}."
        case Inject():
            name = _quoted(edit.token)
            if edit.mode == "replace":
                return f"{_state(edit)} becomes the input embedding of {name}."
            return f"The main component of {_lower(_state(edit))} turns into {name}."
        case PatchPrompt():
            source = f"“{_shortened(edit.prompt)}”{_at_source(edit.source_pos)}"
            return f"{_state(edit)} is replaced by that of {source}."
        case SteerTokens():
            words = f"{_quoted(edit.towards)} and away from {_quoted(edit.away)}"
            return f"{_state(edit)} moves towards {words}, with strength {edit.strength:g}."


def _at(where: Where) -> str:
    if where is None:
        return " at all positions"
    several = where if isinstance(where, tuple) else (where,)
    names = ", ".join(map(str, several[:-1])) + (" and " if several[1:] else "") + str(several[-1])
    return f" at position{'s' if several[1:] else ''} {names}"


def _at_source(position: int) -> str:
    return " at its last token" if position == -1 else f" at position {position}"


def _state(edit: Inject | PatchPrompt | SteerTokens) -> str:
    state = f"The state after layer {edit.row - 1}" if edit.row else "The embedding"
    return state + _at(edit.pos)


def _lower(text: str) -> str:
    return text[0].lower() + text[1:]


def _quoted(token: int | str) -> str:
    return f"token {token}" if isinstance(token, int) else f"'{token}'"


def _shortened(prompt: str | tuple[int, ...]) -> str:
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
    return isinstance(edit, KnockOut) or edit.pos is not None


def edited_cells(edit: RunEdit, rows: int, positions: int) -> NDArray[np.bool_]:
    """[row, pos] the states that an edit changes directly.

    Args:
        edit: The edit.
        rows: Number of residual rows.
        positions: Number of positions.
    """
    cells = np.zeros((rows, positions), bool)
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
