"""A selection within a run: what was not chosen is filled in, and nothing lies outside."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict

from dash_app.state.selection import MAX_PINS, Selection


class Chosen(BaseModel):
    """A selection with every blank filled in, within the run's bounds."""

    model_config = ConfigDict(frozen=True)

    row: int
    pos: int
    layer: int
    heads: tuple[int, ...]


class RunRef(BaseModel):
    """A finished run, by reference: what every other result hangs on.

    Attributes:
        model, prompt, new, template: What was asked.
        token_ids: Prompt and answer.
        prompt_length: How many of them are the prompt.
        layers, heads, vocab: The model's sizes.
        layer: The layer shown until one is chosen.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    prompt: str
    new: int
    template: Literal["off", "on"] = "off"
    attempt: int = 0
    token_ids: tuple[int, ...]
    prompt_length: int
    layers: int
    heads: int
    vocab: int
    layer: int


def resolve(selection: Selection, run: RunRef) -> Chosen:
    """Fill in what was not chosen, and keep the rest within the run."""
    last = len(run.token_ids) - 1
    row = run.layers if selection.row is None else selection.row
    pos = run.prompt_length - 1 if selection.pos is None else selection.pos
    layer = run.layer if selection.layer is None else selection.layer
    return Chosen(
        row=min(row, run.layers),
        pos=min(pos, last),
        layer=min(layer, run.layers - 1),
        heads=tuple(head for head in selection.heads if head < run.heads),
    )


def out_of_range(selection: Selection, run: RunRef) -> tuple[str, ...]:
    """Names of what the selection has that this run has not."""
    chosen = resolve(selection, run)
    moved = [
        name
        for name in ("row", "pos", "layer")
        if getattr(selection, name) not in (None, getattr(chosen, name))
    ]
    if chosen.heads != selection.heads:
        moved.append("heads")
    if selection.pins and max(selection.pins) >= run.vocab:
        moved.append("pins")
    moved += [
        name
        for name in ("token", "foil", "asked")
        if (number := getattr(selection, name)) is not None and number >= run.vocab
    ]
    return tuple(moved)


def pinned(selection: Selection, run: RunRef, default: Iterable[int]) -> tuple[int, ...]:
    """The tokens in the curves: those pinned, or ``default`` until a person pins or unpins one."""
    chosen = tuple(default) if selection.pins is None else selection.pins
    return tuple(dict.fromkeys(token for token in chosen if token < run.vocab))[:MAX_PINS]
