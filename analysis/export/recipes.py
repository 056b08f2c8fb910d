"""How numbers were computed: model, tokens, requests and versions; as JSON and as a script.

Importable without torch.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast, get_args

from analysis import codec
from analysis.contract.specs import ModelInfo, Spec
from analysis.errors import SpecError
from analysis.registry import technique_for
from analysis.tracing.interventions import RunEdit
from analysis.tracing.specs import TraceSpec

#: Version of the layout of recipes.
LAYOUT = 1
#: Packages on which numbers depend.
_PACKAGES = ("stratascope", "torch", "transformers", "numpy")
#: What identifies a model: fields of ``ModelInfo``.
IDENTITY = ("revision", "fingerprint", "dtype", "quantised")
#: Before the names of what identifies the second model.
OTHER = "other_"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages on which numbers depend; "" if not installed."""
    return {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What numbers were computed from.

    Attributes:
        model: The model's name, as ``load_model`` takes it.
        identity: What identifies its weights: the fields ``IDENTITY`` of its description; for a
            second model the same, each name after ``OTHER``.
        trace: The forward pass; None for results that need none.
        specs: The requests, in the order of the tables.
        prompt: The prompt as text, if it is known.
        view: The page's view; empty outside the page.
        link: The query of the page's address; empty outside the page.
        versions: Of the packages that computed the numbers.
    """

    model: str
    identity: Mapping[str, str]
    trace: TraceSpec | None
    specs: tuple[Spec[Any], ...]
    prompt: str = ""
    view: str = ""
    link: str = ""
    versions: Mapping[str, str] = field(default_factory=versions)

    def as_json(self) -> dict[str, Any]:
        """It as plain JSON values."""
        plain = {one.name: getattr(self, one.name) for one in fields(self)}
        plain |= {"identity": dict(self.identity), "versions": dict(self.versions)}
        plain["trace"] = codec.to_json(self.trace, {})
        plain["specs"] = codec.to_json(self.specs, {})
        return {"layout": LAYOUT, **plain}

    @classmethod
    def from_json(cls, found: Any) -> Recipe:
        """The recipe of ``as_json``; nothing in it is trusted.

        Raises:
            SpecError: If it is not a recipe, or of another layout.
        """
        if not isinstance(found, dict) or found.get("layout") != LAYOUT:
            raise SpecError("This is no recipe of this version.", "Export the view again.")
        try:
            values = {one.name: found[one.name] for one in fields(cls)}
            for name in ("trace", "specs"):
                values[name] = codec.from_json(values[name], {}, _types())
            made = cls(**values)
        except (KeyError, TypeError) as error:
            raise SpecError("The recipe is damaged.", "Export the view again.") from error
        if not isinstance(made.trace, TraceSpec | None) or not isinstance(made.specs, tuple):
            raise SpecError("The recipe is damaged.", "Export the view again.")
        for spec in made.specs:
            technique_for(spec)
        return made

    @property
    def other(self) -> str:
        """The second model of a comparison; empty for other results."""
        named = [str(getattr(spec, "other", "")) for spec in self.specs]
        return next(filter(None, named), "")

    def drift(self, *infos: ModelInfo) -> tuple[str, ...]:
        """What differs between the recipe and its models here and now, one sentence each."""
        now = identity(*infos)
        found = [
            f"The {_named(name)} is {now[name] or 'none'}, not {then or 'none'}."
            for name, then in self.identity.items()
            if now.get(name, then) != then
        ]
        here = versions()
        found += [
            f"The version of {name} is {here[name] or 'unknown'}, not {then or 'unknown'}."
            for name, then in self.versions.items()
            if here.get(name, then) != then
        ]
        return tuple(found)


def _types() -> dict[str, type[Any]]:
    """The dataclasses that a recipe may contain."""
    return Spec.types_by_name | {kind.__name__: kind for kind in get_args(RunEdit)}


def identity(info: ModelInfo, other: ModelInfo | None = None) -> dict[str, str]:
    """What identifies a model's weights, and those of a second model if there is one."""
    found = {name: str(getattr(info, name)) for name in IDENTITY}
    return found if other is None else found | {OTHER + n: v for n, v in identity(other).items()}


def _named(name: str) -> str:
    """A key of ``identity`` in a sentence."""
    return f"{'second ' if name.startswith(OTHER) else ''}model's {name.removeprefix(OTHER)}"


def recipe(model: Any, trace: Any, *specs: Spec[Any], edits: Any = None) -> Recipe:
    """How results were computed, to save with them.

    Args:
        model: From ``load_model``.
        trace: From ``trace``; None if no spec needs one.
        *specs: The requests, as ``compute`` takes them.
        edits: The trace's interventions as they were given to ``trace``; those that the trace
            holds unless given. There ``PatchPrompt`` and ``SteerTokens`` are vectors.

    Raises:
        SpecError: If an argument is none of these, or an intervention has a vector: a recipe has
            only numbers and text.
    """
    if not isinstance(getattr(model, "info", None), ModelInfo):
        raise SpecError("This is no model.", "Give the result of analysis.load_model.")
    if trace is not None and not hasattr(trace, "token_ids"):
        raise SpecError("This is no trace.", "Give the result of analysis.trace, or None.")
    if not (edits is None or isinstance(edits, (RunEdit, Sequence))):
        raise SpecError("These are no edits.", "Give one edit, or a list of them.")
    name = model.info.name
    if edits is None:
        edits = () if trace is None else trace.interventions
    made = (edits,) if isinstance(edits, RunEdit) else tuple(edits)
    if any(not isinstance(edit, RunEdit) for edit in made):
        raise SpecError(
            "A recipe can't hold a vector.",
            "Give edits= as numbers and text, or keep the script instead.",
        )
    states = None if trace is None else TraceSpec(name, trace.token_ids, made)
    return Recipe(name, identity(model.info), states, specs)


def names(specs: Sequence[Spec[Any]]) -> list[str]:
    """The name of each request's result: its technique, with a number from the second one on."""
    made: list[str] = []
    seen: Counter[str] = Counter()
    for spec in specs:
        name = technique_for(spec).name
        seen[name] += 1
        made.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return made


def script(recipe: Recipe) -> str:
    """Python code that computes the recipe's numbers, and runs as it is."""
    imports: set[str] = set()
    lines = [f"model = {_loaded(recipe.model, recipe.identity)}"]
    if recipe.other:
        own = {name: recipe.identity.get(OTHER + name, "") for name in IDENTITY}
        lines.append(f"other = {_loaded(recipe.other, own)}")
    if recipe.trace is not None:
        edits = recipe.trace.edits
        more = f", {_code(edits, imports)}" if edits else ""
        ids = ", ".join(map(str, recipe.trace.token_ids))
        lines += [f"token_ids = [{ids}]", f"trace = analysis.trace(model, token_ids{more})"]
    results = names(recipe.specs)
    for name, spec in zip(results, recipe.specs, strict=True):
        states = ", trace" if technique_for(spec).subject == "trace" else ""
        states += ", other=other" if getattr(spec, "other", "") else ""
        lines.append(f"{name} = analysis.compute(model, {_code(spec, imports)}{states})")
    tokens = "trace.tokens" if recipe.trace is not None else ""
    lines += [f"print({name}.to_dataframe({tokens}))" for name in results]
    return "\n".join([*_heading(recipe), "import analysis", *sorted(imports), "", *lines, ""])


def _loaded(name: str, identity: Mapping[str, str]) -> str:
    """The call that loads a model; a quantised one keeps the dtype of its catalogue entry."""
    dtype = "" if identity.get("quantised") else identity.get("dtype", "")
    return f"analysis.load_model({name!r}{f', dtype={dtype!r}' if dtype else ''})"


def _heading(recipe: Recipe) -> list[str]:
    """What the numbers are, as comments."""
    about = [f"the view {recipe.view!r}"] if recipe.view else ["results"]
    about.append(f"of {recipe.prompt!r}" if recipe.prompt else f"of {recipe.model!r}")
    revision = recipe.identity.get("revision", "")
    made = ", ".join(f"{name} {value}" for name, value in recipe.versions.items())
    return [
        f"# The numbers of {' '.join(about)}, computed again.",
        f"# Model {recipe.model!r}, revision {revision or 'unknown'}.",
        f"# First computed with {made}.",
        "# Data frames need pandas: pip install 'stratascope[pandas]'.",
    ]


def _code(value: Any, imports: set[str]) -> str:
    """A spec as Python code: its type and the fields that are not at their defaults."""
    if isinstance(value, tuple):
        inner = ", ".join(_code(part, imports) for part in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if not hasattr(value, "__dataclass_fields__"):
        return repr(value)
    kind = type(value)
    imports.add(f"from {kind.__module__} import {kind.__name__}")
    given = [
        f"{one.name}={_code(getattr(value, one.name), imports)}"
        for one in fields(cast(Any, value))
        if getattr(value, one.name) != _default(one)
    ]
    return f"{kind.__name__}({', '.join(given)})"


def _default(one: Any) -> Any:
    return one.default if one.default_factory is MISSING else one.default_factory()
