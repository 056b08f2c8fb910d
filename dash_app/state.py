"""What is selected: one model for the URL, the stores and every view.

``Selection`` is what a person chose. Fields that are None were not chosen; ``resolve`` fills them
in from the run, and moves what lies outside it to the nearest thing that exists.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlencode

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from analysis.specs import FlowMethod, HideStart

MAX_PROMPT_CHARACTERS = 20_000
MAX_PINS = 8

#: How a link is named: kind, layer, source position, target position, head (-1 for all together).
LINK = r"^((attention|residual|mlp|bias):\d{1,4}:\d{1,6}:\d{1,6}:(-1|\d{1,4}))?$"

Index = Annotated[int, Field(ge=0, le=1_000_000)]


def _numbers(value: Any) -> Any:
    """``1,2,3`` as a list; "none" or nothing as an empty one."""
    if not isinstance(value, str):
        return value
    return [part for part in value.split(",") if part] if value != "none" else []


def _unless_none(value: Any) -> Any:
    """Nothing where the text says "none"."""
    return None if value in ("", "none") else value


Numbers = Annotated[tuple[Index, ...], BeforeValidator(_numbers)]
#: A token, or none named.
MaybeToken = Annotated[Index | None, BeforeValidator(_unless_none)]


class Selection(BaseModel):
    """The page's state.

    Attributes:
        model, prompt, new: What is run: model, prompt text, number of tokens to generate.
        template: Whether the model's own chat template wraps the prompt.
        attempt: Counts up when the same thing is to be run again; not in the URL.
        row, pos: The chosen cell; None until one is chosen.
        layer, heads: What the attention panel shows; no heads means the mean over all.
        pins: Tokens in the curves; None until one is pinned or unpinned.
        colour: What colours the heatmap.
        curve: What the curves show.
        method: How the flow's shares are computed.
        rule, sources, mass, least: Which links of the flow are main: so many sources at each node,
            so many percent of the mass, or links of at least so many percent.
        start, sinks: What becomes of attention to a start token, and to sinks.
        root: Whether the flow goes into the chosen cell or into the whole answer.
        token, foil: Signed flow: whose logit (None: the model's own choice), held against what.
        link: The link that is looked at: kind:layer:source:target:head, or nothing.
        theme: "auto" follows the browser.
    """

    model_config = ConfigDict(frozen=True)

    model: str = Field(default="", max_length=500)
    prompt: str = Field(default="", max_length=MAX_PROMPT_CHARACTERS)
    new: int = Field(default=1, ge=0, le=10_000)
    template: Literal["off", "on"] = "off"
    attempt: int = Field(default=0, ge=0)
    row: Index | None = None
    pos: Index | None = None
    layer: Index | None = None
    heads: Numbers = Field(default=(), max_length=256)
    pins: Annotated[Numbers | None, Field(max_length=MAX_PINS)] = None
    colour: Literal["probability", "entropy"] = "probability"
    curve: Literal["probability", "rank"] = "probability"
    method: FlowMethod = "proximity"
    rule: Literal["sources", "mass", "least"] = "sources"
    sources: int = Field(default=2, ge=1, le=8)
    mass: int = Field(default=80, ge=10, le=99)
    least: float = Field(default=2.0, ge=0.1, le=50.0)
    start: HideStart = "keep"
    sinks: Literal["draw", "fold"] = "draw"
    root: Literal["cell", "answer"] = "cell"
    token: MaybeToken = None
    foil: MaybeToken = None
    link: str = Field(default="", max_length=60, pattern=LINK)
    theme: Literal["auto", "light", "dark"] = "auto"


#: The stores a selection is kept in: views listen to the part they show.
PARTS: dict[str, tuple[str, ...]] = {
    "request": ("model", "prompt", "new", "template", "attempt"),
    "cell": ("row", "pos"),
    "focus": ("layer", "heads"),
    "pins": ("pins",),
    "colour": ("colour",),
    "curve": ("curve",),
    "method": (
        "method",
        "rule",
        "sources",
        "mass",
        "least",
        "start",
        "sinks",
        "root",
        "token",
        "foil",
    ),
    "link": ("link",),
    "theme": ("theme",),
}
#: What belongs to one run, and is forgotten when another is asked for.
_OF_A_RUN = ("row", "pos", "layer", "heads", "pins", "token", "foil", "link")


def _with_limits(kind: Any, limits: list[Any]) -> Any:
    """A field's type with what bounds it, as pydantic reads it on its own."""
    return Annotated[kind, *limits] if limits else kind


_IN_URL = tuple(name for name in Selection.model_fields if name != "attempt")
_ADAPTERS: dict[str, TypeAdapter[Any]] = {
    name: TypeAdapter(_with_limits(field.annotation, field.metadata))
    for name, field in Selection.model_fields.items()
}


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


def parse(pairs: Iterable[tuple[str, str]], base: Selection) -> tuple[Selection, tuple[str, ...]]:
    """Change ``base`` by named values that came as text.

    Returns:
        The new selection, and the names of what meant nothing and was left out.
    """
    values: dict[str, Any] = {}
    ignored: list[str] = []
    for name, text in pairs:
        if name not in _IN_URL:
            ignored.append(name)
            continue
        try:
            values[name] = _ADAPTERS[name].validate_python(text)
        except ValidationError:
            ignored.append(name)
    return base.model_copy(update=values), tuple(dict.fromkeys(ignored))


def from_query(query: str, base: Selection) -> tuple[Selection, tuple[str, ...]]:
    """Read a URL's query string; ``base`` has the defaults."""
    try:
        pairs = parse_qsl(
            query.removeprefix("?"), keep_blank_values=True, max_num_fields=100, errors="replace"
        )
    except ValueError:
        return base, ("the whole address",)
    return parse(pairs, base)


def to_query(selection: Selection, base: Selection) -> str:
    """The query string that ``from_query`` reads back; empty where all is as in ``base``."""
    pairs = [
        (name, _text(getattr(selection, name)))
        for name in _IN_URL
        if getattr(selection, name) != getattr(base, name)
    ]
    return "?" + urlencode(pairs, safe=",") if pairs else ""


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return "" if value is None else str(value)


def ask(selection: Selection, **request: Any) -> Selection:
    """Ask for a run: what was chosen in the last one is forgotten."""
    blank = {name: Selection.model_fields[name].default for name in _OF_A_RUN}
    return selection.model_copy(update={**blank, "attempt": selection.attempt + 1, **request})


def split(selection: Selection) -> dict[str, dict[str, Any]]:
    """A selection as the stores hold it, part by part."""
    values = selection.model_dump(mode="json")
    return {part: {name: values[name] for name in names} for part, names in PARTS.items()}


def join(*parts: Mapping[str, Any] | None) -> Selection:
    """A selection from its stores; what a store lacks, or what is nonsense there, is a default."""
    values = {name: value for part in parts for name, value in (part or {}).items()}
    try:
        return Selection.model_validate(values)
    except ValidationError:
        return Selection()


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
        for name in ("token", "foil")
        if (number := getattr(selection, name)) is not None and number >= run.vocab
    ]
    return tuple(moved)


def pinned(selection: Selection, run: RunRef, default: Iterable[int]) -> tuple[int, ...]:
    """The tokens in the curves: those pinned, or ``default`` until a person pins or unpins one."""
    chosen = tuple(default) if selection.pins is None else selection.pins
    return tuple(dict.fromkeys(token for token in chosen if token < run.vocab))[:MAX_PINS]
