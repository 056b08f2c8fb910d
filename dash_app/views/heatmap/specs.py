"""From what is selected to what is computed for the heatmap."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from analysis.lens.results import Colours, Grid
from analysis.lens.specs import ColourSpec, LensSpec
from analysis.tracing.specs import RunResult
from dash_app.figures.cells import layered
from dash_app.figures.colours import OF_THE_GRID, effective
from dash_app.page.window import Window, window
from dash_app.state.context import Service, trace_of
from dash_app.state.run import RunRef, resolve
from dash_app.state.selection import Selection
from dash_app.views.heatmap.choices import TIED

OF_A_HEAD = ("head_output", "source_output")
OF_A_TOKEN = ("token_probability", "token_rank")
QUANTITY: dict[str, str] = {"norm": "state_norm", "cosine": "cosine_before"}
#: So few positions are read at once; of more, the chosen one first.
AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one picture is made of.

    Attributes:
        lens: The grid.
        extra: Colours that it has not itself; None where it has.
    """

    lens: LensSpec
    extra: ColourSpec | None

    def at(self, positions: tuple[int, ...] | None) -> Wanted:
        """The same of some positions only; None: of all."""
        lens = replace(self.lens, positions=positions)
        if self.extra is None:
            return Wanted(lens, None)
        inner = replace(self.extra.lens, positions=positions)
        return Wanted(lens, replace(self.extra, lens=inner))


@dataclass(frozen=True, slots=True)
class Found:
    """As much of it as there is: the grid and colours, each of its own positions."""

    grid: Grid | None
    extra: Colours | None


def asked_token(run: RunRef, result: RunResult, selection: Selection) -> int:
    """The token that colours ask about: the one chosen, else the answer's first."""
    if selection.asked is not None and selection.asked < run.vocab:
        return selection.asked
    if run.prompt_length < len(run.token_ids):
        return run.token_ids[run.prompt_length]
    return int(result.top_ids[run.prompt_length - 1, 0])


def lens_spec(run: RunRef, result: RunResult, selection: Selection) -> LensSpec:
    """The reading that is selected, on this run."""
    of_head = selection.component in OF_A_HEAD
    coloured = effective(selection.colour, selection.similarity)
    target = (asked_token(run, result, selection),) if coloured in OF_A_TOKEN else ()
    return LensSpec(
        component=selection.component,
        decoder=selection.decoder,
        norm=selection.norm,
        similarity=selection.similarity,
        candidates=selection.candidates,
        target=target,
        head=selection.head if of_head else None,
        source=selection.source or 0 if selection.component == "source_output" else None,
    )


def settled(selection: Selection, result: RunResult, learned: bool) -> Selection:
    """The selection with what does not exist on this model replaced by what it comes to.

    On a tied model, decoders that coincide with the output are the output.
    """
    info = result.info
    last = len(result.tokens) - 1
    change: dict[str, Any] = {
        "head": min(selection.head, info.heads - 1),
        "source": None if selection.source is None else min(selection.source, last),
    }
    if info.parallel_blocks and selection.component == "mid_residual":
        change["component"] = "block_output"
    if info.tied_embeddings and selection.decoder in TIED:
        change["decoder"] = "output"
    component = change.get("component", selection.component)
    if selection.decoder == "learned" and (not learned or component != "block_output"):
        change["decoder"] = "output"
    if selection.similarity != "dot":
        change["candidates"] = "top_k"
    return selection.model_copy(update=change)


def replacements(asked: Selection, shown: Selection) -> tuple[str, ...]:
    """What was asked for and is shown as something else, and why; see ``settled``."""
    said = []
    if asked.component != shown.component:
        said.append("This model's blocks are parallel and have no mid residual: block output.")
    if asked.decoder != shown.decoder and asked.decoder in TIED:
        name = asked.decoder.replace("_", " ").capitalize()
        said.append(f"{name} and output coincide here: this model ties its embeddings.")
    elif asked.decoder != shown.decoder:
        said.append("There is no learned lens for this: the output decoder reads it.")
    if asked.candidates != shown.candidates:
        said.append("Cosine and distance list the nearest rows: top k.")
    return tuple(said)


def wanted(run: RunRef, result: RunResult, selection: Selection) -> Wanted:
    """Grid and colours that are selected, of every position."""
    lens = lens_spec(run, result, selection)
    colour = effective(selection.colour, selection.similarity)
    if colour in OF_THE_GRID:
        return Wanted(lens, None)
    if colour == "share":
        return Wanted(lens, ColourSpec(LensSpec(), (selection.by,)))
    quantity = QUANTITY.get(colour, colour)
    if colour in QUANTITY:  # of the state, however it is read
        plain = LensSpec(component=lens.component, head=lens.head, source=lens.source)
        return Wanted(lens, ColourSpec(plain, (quantity,)))
    return Wanted(lens, ColourSpec(lens, (quantity,)))


def shown(run: RunRef, result: RunResult, selection: Selection) -> Window:
    """Which rows and positions are drawn."""
    chosen = resolve(selection, run)
    return window(
        result,
        layered(selection.component),
        row=chosen.row,
        pos=chosen.pos,
        show=selection.show,
        find=selection.find,
        fold=selection.fold,
    )


def stages(want: Wanted, drawn: Window, pos: int) -> list[Wanted]:
    """What is computed, in order: the chosen column, then all that is drawn."""
    whole = want.at(None if drawn.whole else drawn.positions)
    if len(drawn.positions) <= AT_ONCE or pos not in drawn.positions:
        return [whole]
    return [want.at((pos,)), whole]


def found(service: Service, run: RunRef, want: Wanted, drawn: Window, pos: int) -> Found:
    """The most of it that the memo has: everything, else what is drawn, else the chosen column."""
    trace = trace_of(run)
    parts = [want.at(None), *reversed(stages(want, drawn, pos))]
    grids = (service.peek(trace, part.lens) for part in parts)
    grid = next((one for one in grids if one is not None), None)
    if want.extra is None:
        return Found(grid, None)
    specs = (part.extra for part in parts)
    extras = (service.peek(trace, spec) for spec in specs if spec is not None)
    return Found(grid, next((one for one in extras if one is not None), None))


def computed(service: Service, run: RunRef, want: Wanted, drawn: Window, found: Found) -> Found:
    """The same after the job: asked for again where the memo could not keep it."""
    whole, trace = stages(want, drawn, -1)[-1], trace_of(run)
    grid, extra = found.grid, found.extra
    if grid is None or not set(drawn.positions) <= set(grid.positions.tolist()):
        grid = service.ask(trace, whole.lens)
    if whole.extra is not None and (
        extra is None or not set(drawn.positions) <= set(extra.positions.tolist())
    ):
        extra = service.ask(trace, whole.extra)
    return Found(grid, extra)
