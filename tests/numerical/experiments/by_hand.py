"""Patches by hooks made by hand, one whole pass for each cell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import analysis
from analysis.experiments.specs import Sweep
from analysis.model.handle import Model

CLEAN = (5, 9, 33, 2, 8, 41, 7, 60)
#: Differs at two positions, the first of them not the first token.
CORRUPTED = (5, 9, 12, 2, 8, 90, 7, 60)
ANSWER, FOIL = 4, 9
#: Sequential with tied embeddings, grouped-query, and parallel.
FAMILIES = ("gpt2", "llama", "gpt_neox")
AXES = ("state", "head", "part", "head_position")
LAYER = 1
DIRECTIONS = ("denoise", "noise")


class Parts(NamedTuple):
    """The modules of one block, by hand for each family."""

    block: nn.Module
    attention: nn.Module
    mlp: nn.Module
    projection: nn.Module


def parts_of(family: str, hf: Any) -> list[Parts]:
    """The blocks of a model."""
    if family == "gpt2":
        return [Parts(b, b.attn, b.mlp, b.attn.c_proj) for b in hf.transformer.h]
    if family == "llama":
        return [Parts(b, b.self_attn, b.mlp, b.self_attn.o_proj) for b in hf.model.layers]
    return [Parts(b, b.attention, b.mlp, b.attention.dense) for b in hf.gpt_neox.layers]


class Case(NamedTuple):
    """A model, and its modules by hand."""

    model: Model
    parts: list[Parts]


Change = Callable[[Tensor], None]


@contextmanager
def hooked(module: nn.Module, change: Change, where: str) -> Iterator[None]:
    """Change what a module takes or returns, [pos, d], in place."""

    def before(_module: Any, args: Any) -> Any:
        state = args[0].clone()
        change(state[0])
        return (state, *args[1:])

    def after(_module: Any, _args: Any, output: Any) -> Any:
        state = (output[0] if isinstance(output, tuple) else output).clone()
        change(state[0])
        return (state, *output[1:]) if isinstance(output, tuple) else state

    hook = module.register_forward_pre_hook(before) if where == "in" else (
        module.register_forward_hook(after)
    )  # fmt: skip
    try:
        yield
    finally:
        hook.remove()


def site(parts: list[Parts], axes: str, index: tuple[int, ...]) -> tuple[nn.Module, str]:
    """The module of a cell, and whether its input or its output is patched."""
    if axes == "state":
        row = index[0]
        return (parts[0].block, "in") if row == 0 else (parts[row - 1].block, "out")
    if axes == "part":
        return (parts[index[0]].mlp if index[1] else parts[index[0]].attention), "out"
    layer = index[0] if axes == "head" else LAYER
    return parts[layer].projection, "in"


def coordinates(model: Model, axes: str, index: tuple[int, ...]) -> slice:
    """The coordinates of a cell."""
    if axes in ("state", "part"):
        return slice(None)
    head, width = index[1] if axes == "head" else index[0], model.info.d_head
    return slice(head * width, (head + 1) * width)


def by_hand(case: Case, axes: str, index: tuple[int, ...], patched: Any, other: Any) -> Tensor:
    """The last logits [vocab] of the patched run, from two whole passes."""
    module, where = site(case.parts, axes, index)
    kept: list[Tensor] = []
    with hooked(module, lambda state: kept.append(state.clone()), where):
        case.model.hf(torch.tensor([other]))
    part = coordinates(case.model, axes, index)
    places = slice(None) if axes == "head" else slice(index[-1], index[-1] + 1)

    def put(state: Tensor) -> None:
        state[places, part] = kept[0][places, part]

    with torch.no_grad(), hooked(module, put, where):
        logits: Tensor = case.model.hf(torch.tensor([patched])).logits[0, -1]
    return logits.double()


def measures(logits: Tensor, clean: Tensor) -> dict[str, float]:
    """All metrics, from their definitions."""
    p, q = logits.softmax(-1), clean.double().softmax(-1)
    return {
        "logit_difference": float(logits[ANSWER] - logits[FOIL]),
        "probability": float(p[ANSWER]),
        "kl": float(sum(b * (b.log() - a.log()) for a, b in zip(p, q, strict=True))),
        "rank": float(sum(value > logits[ANSWER] for value in logits)),
    }


def swept(case: Case, **options: Any) -> Sweep:
    return analysis.sweep(
        case.model, CLEAN, CORRUPTED, answer=ANSWER, foil=FOIL, layer=LAYER, **options
    )
