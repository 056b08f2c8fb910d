"""The selection, shared by the address, the stores and every view; and the run it refers to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlencode

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from analysis.contract.choices import Choices
from analysis.experiments.component_specs import EDGE_ABLATIONS, EDGE_POSITIONS, EDGE_SCORES
from analysis.experiments.specs import ALIGNMENTS, AXES, DIFFERENCES, METRICS, PATCH_DIRECTIONS
from analysis.flow_graph.options import DIRECTIONS, FLOW_METHODS, LINKS, START_TOKEN
from analysis.lens.options import (
    CANDIDATES,
    COLOURS,
    COMPONENTS,
    DECODERS,
    NORMS,
    SHARE_METHODS,
    SIMILARITIES,
)
from analysis.tasks import suites
from analysis.tasks.sum_specs import MAX_DIGITS
from analysis.tracing.interventions import MAX_EDITS
from analysis.tracing.specs import RunSpec
from dash_app.state import options
from dash_app.state.branches import BRANCH, MAX_BRANCH, MAX_BRANCHES
from dash_app.state.edited_run import OFF, canonical, still_valid

MAX_PROMPT_CHARACTERS = 20_000
#: Longest prompt of a patching sweep: two of them are in the address.
MAX_PAIR_CHARACTERS = 2000
#: Longest answer or foil of a patching sweep.
MAX_TOKEN_CHARACTERS = 60
MAX_PINS = 8

#: Name of a link: kind, layer, source position, target position, head (-1 for all heads together).
LINK = r"^((" + "|".join(LINKS) + r"):\d{1,4}:\d{1,6}:\d{1,6}:(-1|\d{1,4}))?$"

Index = Annotated[int, Field(ge=0, le=1_000_000)]


def _numbers(value: Any) -> Any:
    """``1,2,3`` as a list; "none" or an empty text as an empty list."""
    if not isinstance(value, str):
        return value
    return [part for part in value.split(",") if part] if value != "none" else []


def _unless_none(value: Any) -> Any:
    """None for "none" or an empty text."""
    return None if value in ("", "none") else value


def _in_order(value: tuple[int, ...]) -> tuple[int, ...]:
    """Each number once, ascending: the order of choosing has no meaning."""
    return tuple(sorted(set(value)))


Numbers = Annotated[tuple[Index, ...], BeforeValidator(_numbers)]
Heads = Annotated[tuple[Index, ...], BeforeValidator(_numbers), AfterValidator(_in_order)]


def _one_of(table: Choices[Any]) -> AfterValidator:
    """Accept the names of a table's choices."""

    def known(name: str) -> str:
        if name not in table:
            raise ValueError(f"There is no {table.option} {name!r}.")
        return name

    return AfterValidator(known)


def _suite(name: str) -> str:
    """Accept the names of built-in suites. An uploaded list is not part of a link."""
    if name not in suites.NAMES:
        raise ValueError(f"There is no suite {name!r}.")
    return name


Edit = Annotated[str, AfterValidator(canonical)]
Edits = Annotated[tuple[Edit, ...], BeforeValidator(_numbers), Field(max_length=MAX_EDITS)]
Branch = Annotated[str, Field(max_length=MAX_BRANCH, pattern=BRANCH)]
#: A change of an alignment: "3-5" or "3-".
PairText = Annotated[str, Field(pattern=r"^\d{1,6}-(\d{1,6})?$")]
Decoder = Annotated[str, _one_of(DECODERS)]
Decoders = Annotated[tuple[Decoder, ...], BeforeValidator(_numbers)]
#: Names of panels or panes.
Name = Annotated[str, Field(max_length=20, pattern=r"^[a-z]+$")]
Names = Annotated[tuple[Name, ...], BeforeValidator(_numbers), Field(max_length=12)]
#: A token or a layer; None: the default token, or all layers.
MaybeToken = Annotated[Index | None, BeforeValidator(_unless_none)]
MaybeIndex = MaybeToken

#: Colours under the names that older links have.
_RENAMED = {"norm": "state_norm", "cosine": "cosine_before"}


def _renamed(value: Any) -> Any:
    return _RENAMED.get(value, value) if isinstance(value, str) else value


class Selection(BaseModel):
    """The page's state.

    Attributes:
        model, prompt, new: What is run: model, prompt text, number of tokens to generate.
        template: Whether the model's own chat template wraps the prompt.
        sampling, temperature, nucleus, seed: Whether tokens are greedy or drawn, and how
            (``generate``; ``nucleus`` is its top_p).
        branch: With what the answer begins (``state/branches.py``); empty: the model's own answer.
        branches: Branches that are kept.
        attempt: The number of the request; not in the URL. Running a prompt again increases it.
        row, pos: The chosen cell; None until one is chosen.
        layer, heads: The attention patterns shown; no heads: the mean of all.
        weights, first_key, reads: The scale of their colours; whether the first token is a column;
            what a head's circuits read.
        pins: Tokens in the curves; None until one is pinned or unpinned.
        component, head, source: The states that the heatmap decodes; head and source position
            matter for some components only.
        decoder, norm, similarity, candidates: How they are decoded (``LensSpec``).
        colour: The quantity that colours the heatmap.
        asked: The token whose probability or rank colours it; None: the answer's first.
        part, by: The part whose share colours it, and the measure of the share.
        show: The positions shown: "answer", "all", or "first-last".
        find: A text; tokens and cells that contain it are marked in the heatmap.
        fold: Every ``fold``-th row is shown.
        adds, adder: The component whose promoted tokens the inspector lists, and its head.
        readers, differ: The decoders that are compared, and the measure of their difference.
        curve: The quantity that the curves show.
        method: How the flow's shares are computed.
        rule, sources, mass, least: The rule for main links: a number of sources at each node, a
            percentage of the mass, or links of at least a percentage.
        start, sinks: How attention to a start token, and to sinks, is drawn.
        root: Whether the flow leads into the chosen cell or into the whole answer.
        direction: Whether the flow is followed down from the chosen cell, or up from it.
        split: Heads that read the same source: summed, by shared keys and values, or each.
        scale: Whether lanes are as tall as the flow through them, or the scale is fixed.
        effects: Whether the effects of the flow's links are estimated or measured.
        first, last: The layers of the flow that are drawn; None: all.
        token, foil: Flow in logits: the token (None: the model's choice), and the one whose logit
            is subtracted.
        link: The chosen link, kind:layer:source:target:head; empty if there is none.
        suite, prompts, digits: The form of the page Tasks: the suite, its number of prompts, and
            the number of digits of an operand.
        clean, corrupted: The two prompts of a patching sweep; empty until a pair is chosen.
        answer, against: Its answer and its foil, as text; empty: the runs' own top tokens.
        axes, way, metric, align: What it patches, its direction, what it measures, and how the
            prompts are aligned (``SweepSpec``).
        pairs, other: Changes of that alignment; the model that reads the second prompt, if another.
        inside: The layer of a sweep over heads and positions; None: the middle one.
        apart, circuit: What the comparison shows; edges of the component graph that is shown.
        cut_by, edge_score, edge_places, measured: Its options (``ComponentGraphSpec``).
        edits: Changes of the forward pass, as short forms (``analysis/tracing/edits.py``).
        version: Whether the heatmap shows the edited run, the baseline or the difference.
        theme, page: The colours, where "auto" follows the browser; the page that is shown.
        wide, folded, panes, order: The panel that fills the workspace, panels that are folded,
            panes that are on top instead of the first of their panel, and the panels by place.
    """

    model_config = ConfigDict(frozen=True)

    model: str = Field(default="", max_length=500)
    prompt: str = Field(default="", max_length=MAX_PROMPT_CHARACTERS)
    new: int = Field(default=1, ge=0, le=10_000)
    template: Literal["off", "on"] = "off"
    sampling: Annotated[str, _one_of(options.SAMPLING)] = options.SAMPLING.default
    temperature: float = Field(default=1.0, ge=0.01, le=100.0)
    nucleus: float = Field(default=1.0, ge=0.01, le=1.0)
    seed: Index = 0
    branch: Branch = ""
    branches: Annotated[tuple[Branch, ...], BeforeValidator(_numbers)] = Field(
        default=(), max_length=MAX_BRANCHES
    )
    attempt: int = Field(default=0, ge=0)
    row: Index | None = None
    pos: Index | None = None
    layer: Index | None = None
    heads: Heads = Field(default=(), max_length=256)
    weights: Annotated[str, _one_of(options.WEIGHTS)] = options.WEIGHTS.default
    first_key: Annotated[str, _one_of(options.FIRST_KEY)] = options.FIRST_KEY.default
    reads: Annotated[str, _one_of(options.CIRCUIT_INPUTS)] = options.CIRCUIT_INPUTS.default
    pins: Annotated[Numbers | None, Field(max_length=MAX_PINS)] = None
    component: Annotated[str, _one_of(COMPONENTS)] = COMPONENTS.default
    head: Index = 0
    source: MaybeToken = None
    decoder: Decoder = DECODERS.default
    norm: Annotated[str, _one_of(NORMS)] = NORMS.default
    similarity: Annotated[str, _one_of(SIMILARITIES)] = SIMILARITIES.default
    candidates: Annotated[str, _one_of(CANDIDATES)] = CANDIDATES.default
    colour: Annotated[str, BeforeValidator(_renamed), _one_of(COLOURS)] = COLOURS.default
    asked: MaybeToken = None
    part: Annotated[str, _one_of(options.PARTS)] = options.PARTS.default
    by: Annotated[str, _one_of(SHARE_METHODS)] = SHARE_METHODS.default
    show: str = Field(default="", max_length=20, pattern=r"^(all|answer|\d{1,6}-\d{1,6})?$")
    find: str = Field(default="", max_length=60)
    fold: int = Field(default=1, ge=1, le=64)
    adds: Annotated[str, _one_of(options.PROMOTED_BY)] = options.PROMOTED_BY.default
    adder: Index = 0
    readers: Annotated[Decoders, Field(max_length=8)] = ()
    differ: Annotated[str, _one_of(options.DIFFERENCES)] = options.DIFFERENCES.default
    curve: Annotated[str, _one_of(options.CURVES)] = options.CURVES.default
    method: Annotated[str, _one_of(FLOW_METHODS)] = FLOW_METHODS.default
    rule: Annotated[str, _one_of(options.MAIN_PATHS)] = options.MAIN_PATHS.default
    sources: int = Field(default=2, ge=1, le=8)
    mass: int = Field(default=80, ge=10, le=99)
    least: float = Field(default=2.0, ge=0.1, le=50.0)
    start: Annotated[str, _one_of(START_TOKEN)] = START_TOKEN.default
    sinks: Annotated[str, _one_of(options.SINKS)] = options.SINKS.default
    root: Annotated[str, _one_of(options.ROOTS)] = options.ROOTS.default
    direction: Annotated[str, _one_of(DIRECTIONS)] = DIRECTIONS.default
    split: Annotated[str, _one_of(options.SPLITS)] = options.SPLITS.default
    scale: Annotated[str, _one_of(options.SCALES)] = options.SCALES.default
    effects: Annotated[str, _one_of(options.EFFECTS)] = options.EFFECTS.default
    first: MaybeIndex = None
    last: MaybeIndex = None
    token: MaybeToken = None
    foil: MaybeToken = None
    link: str = Field(default="", max_length=60, pattern=LINK)
    suite: Annotated[str, AfterValidator(_suite)] = "addition"
    prompts: int = Field(default=60, ge=1, le=100_000)
    digits: int = Field(default=2, ge=1, le=MAX_DIGITS)
    clean: str = Field(default="", max_length=MAX_PAIR_CHARACTERS)
    corrupted: str = Field(default="", max_length=MAX_PAIR_CHARACTERS)
    answer: str = Field(default="", max_length=MAX_TOKEN_CHARACTERS)
    against: str = Field(default="", max_length=MAX_TOKEN_CHARACTERS)
    axes: Annotated[str, _one_of(AXES)] = AXES.default
    way: Annotated[str, _one_of(PATCH_DIRECTIONS)] = PATCH_DIRECTIONS.default
    metric: Annotated[str, _one_of(METRICS)] = METRICS.default
    align: Annotated[str, _one_of(ALIGNMENTS)] = ALIGNMENTS.default
    pairs: Annotated[tuple[PairText, ...], BeforeValidator(_numbers)] = Field(
        default=(), max_length=32
    )
    inside: MaybeIndex = None
    apart: Annotated[str, _one_of(DIFFERENCES)] = DIFFERENCES.default
    other: str = Field(default="", max_length=500)
    circuit: int = Field(default=30, ge=1, le=300)
    cut_by: Annotated[str, _one_of(EDGE_ABLATIONS)] = EDGE_ABLATIONS.default
    edge_score: Annotated[str, _one_of(EDGE_SCORES)] = EDGE_SCORES.default
    edge_places: Annotated[str, _one_of(EDGE_POSITIONS)] = EDGE_POSITIONS.default
    measured: int = Field(default=0, ge=0, le=300)
    edits: Edits = ()
    version: Annotated[str, _one_of(options.VERSIONS)] = options.VERSIONS.default
    theme: Annotated[str, _one_of(options.THEMES)] = options.THEMES.default
    page: Annotated[str, _one_of(options.PAGES)] = options.PAGES.default
    wide: str = Field(default="", max_length=20, pattern=r"^[a-z]*$")
    folded: Names = ()
    panes: Names = ()
    order: Names = ()


#: Fields that belong to one run; another run resets them.
_OF_A_RUN = (
    "row", "pos", "layer", "heads", "pins", "token", "foil", "link",
    "source", "asked", "show", "find",
)  # fmt: skip


def request_run(selection: Selection, **request: Any) -> Selection:
    """A new request: choices that belong to the last run are reset."""
    blank = {name: Selection.model_fields[name].default for name in _OF_A_RUN}
    before = selection.model_dump(include={"model", "prompt", "template"})
    changed = {name for name, old in before.items() if request.get(name, old) != old}
    if selection.edits:
        blank["edits"] = still_valid(selection.edits, changed)
    if changed and request.get("branch", selection.branch) == selection.branch:
        request = {"branches": (), **request, "branch": ""}
    return selection.model_copy(update={**blank, "attempt": selection.attempt + 1, **request})


def applied(selection: Selection) -> tuple[str, ...]:
    """The edits that are switched on, each once."""
    return tuple(dict.fromkeys(text for text in selection.edits if not text.startswith(OFF)))


#: Adds an item, removes it, switches an edit on or off; the set as drawn.
IN, OUT, SWITCH, SHOWN = "with", "without", "switch", "shown"


def toggle(name: str, item: object, shown: Sequence[object]) -> str:
    """The target of a button that adds ``item`` to the set ``name``, or removes it if it is shown.

    ``shown`` is the set as drawn; it stands for a set of which nothing was chosen yet.
    """
    items = ",".join(map(str, shown)) or "none"
    return urlencode({OUT if item in shown else IN: f"{name}:{item}", SHOWN: items}, safe=":,")


def run_spec(asked: Any) -> RunSpec:
    """The run that a selection, or the reference to a finished run, names."""
    ids, _, own = asked.branch.partition("=")[0].partition(":")
    drawn = {"temperature": asked.temperature, "top_p": asked.nucleus, "seed": asked.seed}
    return RunSpec(
        asked.model, asked.prompt, new_tokens=asked.new, template=asked.template == "on",
        begun=tuple(map(int, ids.split("."))) if ids else (), own=unquote(own),
        **({"sample": True, **drawn} if asked.sampling == "sampled" else {}),
    )  # fmt: skip


class Chosen(BaseModel):
    """The selection with every default filled in, within the bounds of a run."""

    model_config = ConfigDict(frozen=True)

    row: int
    pos: int
    layer: int
    heads: tuple[int, ...]


class RunRef(BaseModel):
    """A reference to a finished run, from which every other result is computed.

    Attributes:
        model, prompt, new, template, sampling, temperature, nucleus, seed, branch: The request.
        attempt: Its number.
        token_ids: Prompt and answer.
        prompt_length: Number of prompt tokens.
        opening: The position that is chosen until another is; None: the prompt's last.
        layers, heads, vocab: The model's sizes.
        layer: The layer that the attention panel shows until one is chosen.
        edits: The edits that are applied; none in the run itself, which stays the baseline.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    prompt: str
    new: int
    template: Literal["off", "on"] = "off"
    sampling: str = options.SAMPLING.default
    temperature: float = 1.0
    nucleus: float = 1.0
    seed: int = 0
    branch: str = ""
    attempt: int = 0
    token_ids: tuple[int, ...]
    prompt_length: int
    opening: int | None = None
    layers: int
    heads: int
    vocab: int
    layer: int
    edits: tuple[str, ...] = ()

    @property
    def baseline(self) -> RunRef:
        """The run without its edits."""
        return self.model_copy(update={"edits": ()}) if self.edits else self


def edited(run: RunRef | None, selection: Selection) -> RunRef | None:
    """The run with the edits of the selection; an older run than the requested one as it is."""
    if run is None or run.attempt != selection.attempt or run.edits == applied(selection):
        return run
    return run.model_copy(update={"edits": applied(selection)})


def resolve(selection: Selection, run: RunRef) -> Chosen:
    """Fill in defaults, and limit every choice to the run."""
    last = len(run.token_ids) - 1
    row = run.layers if selection.row is None else selection.row
    opening = run.prompt_length - 1 if run.opening is None else run.opening
    pos = opening if selection.pos is None else selection.pos
    layer = run.layer if selection.layer is None else selection.layer
    return Chosen(
        row=min(row, run.layers),
        pos=min(pos, last),
        layer=min(layer, run.layers - 1),
        heads=tuple(head for head in selection.heads if head < run.heads),
    )


def out_of_range(selection: Selection, run: RunRef) -> tuple[str, ...]:
    """Names of the fields whose value this run does not have."""
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
    """The tokens in the curves: the pinned ones, or ``default`` until one is pinned or unpinned."""
    chosen = tuple(default) if selection.pins is None else selection.pins
    return tuple(dict.fromkeys(token for token in chosen if token < run.vocab))[:MAX_PINS]
