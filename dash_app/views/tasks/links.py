"""What a click opens: a prompt, at the state or part that was clicked."""

from __future__ import annotations

from dash_app.components.go import target


def prompt(model: str, text: str, new: int) -> str:
    """A prompt and as many tokens as its answer has; empty for none."""
    return target(model=model, prompt=text, new=new) if text else ""


def state(model: str, text: str, new: int, row: int, pos: int) -> str:
    """The same with a cell of the heatmap chosen."""
    if not text:
        return ""
    return target(model=model, prompt=text, new=new, row=row, pos=pos, layer=max(row - 1, 0))


def part(model: str, text: str, new: int, name: str, pos: int) -> str:
    """The same by a part's name: "row 2", "head 0.3", "mlp 1", "attention 0", "embedding"."""
    kind, _, where = name.partition(" ")
    if not text:
        return ""
    if kind in ("row", "embedding"):
        return state(model, text, new, int(where or 0), pos)
    layer, _, head = where.partition(".")
    cell = state(model, text, new, int(layer) + 1, pos)
    return f"{cell}&heads={head}" if head else cell
