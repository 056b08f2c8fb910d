"""Options and their choices, declared once, and what choices need of a model.

An option of a spec is a table of choices. Validation, the page's menus and help lines, the command
line's choices and the reference in the docs are all made from the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from importlib import import_module
from typing import Any, TypeVar

from analysis.contract.specs import NO_ATTENTION, NO_HEADS, NONLINEAR_HEAD, PART_NAMES, ModelInfo
from analysis.errors import SpecError


@dataclass(frozen=True, slots=True)
class Situation:
    """What decides whether a choice is available.

    Attributes:
        model: The model; None while it is not known.
        learned_lens: Whether a learned lens exists for the model.
        options: The choices of other options, such as ``{"similarity": "cosine"}``.
    """

    model: ModelInfo | None = None
    learned_lens: bool = False
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Need:
    """A condition of a choice.

    Attributes:
        name: What the choice needs, in a few words.
        reason: Why the choice is off without it, one sentence.
        met: Whether a situation meets it. A model that is not known yet meets it.
    """

    name: str
    reason: str
    met: Callable[[Situation], bool]


@dataclass(frozen=True, slots=True)
class Choice:
    """One value of an option.

    Attributes:
        name: The value in specs, addresses and commands.
        label: The name that the page shows.
        formula: What it computes, as a formula; empty where there is none.
        help: What it means, in one or two sentences.
        source: The publication or tool that it comes from; empty where there is none.
        needs: Conditions for it.
        function: Dotted name of its function, ``module:function``; empty where it has none.
        misleads: When it misleads, in one or two sentences; empty where nobody wrote it.
    """

    name: str
    label: str
    formula: str = ""
    help: str = ""
    source: str = ""
    needs: tuple[Need, ...] = ()
    function: str = ""
    misleads: str = field(default="", kw_only=True)

    @property
    def summary(self) -> str:
        """Formula, help and source in one line."""
        text = self.help
        if self.source:
            text = f"{text.removesuffix('.')} ({self.source})." if text else f"({self.source})."
        return f"{self.formula}. {text}".rstrip() if self.formula else text

    def unavailable(self, situation: Situation) -> str:
        """Why the choice is off in a situation; empty where it is available."""
        return next((need.reason for need in self.needs if not need.met(situation)), "")

    def load(self) -> Callable[..., Any]:
        """Import the choice's function. Call this in the model worker only: it imports torch."""
        module, _, name = self.function.partition(":")
        found: Callable[..., Any] = getattr(import_module(module), name)
        return found


C = TypeVar("C", bound=Choice)


class Choices(Mapping[str, C]):
    """The choices of one option by name, in the order in which menus list them.

    Args:
        option: The option's name in a sentence, such as "flow method".
        *rows: Its choices. The first is the default.
        help: What the option decides, in one sentence.
    """

    def __init__(self, option: str, *rows: C, help: str = "") -> None:
        self.option, self.help = option, help
        self.rows = {row.name: row for row in rows}

    def __getitem__(self, name: str) -> C:
        return self.rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def default(self) -> str:
        """The first choice's name."""
        return next(iter(self.rows))

    @property
    def labels(self) -> tuple[tuple[str, str], ...]:
        """(name, label) of each choice."""
        return tuple((row.name, row.label) for row in self.rows.values())

    def usable(self, situation: Situation) -> str:
        """The name of the first choice that is available in a situation."""
        free = (row.name for row in self.rows.values() if not row.unavailable(situation))
        return next(free, self.default)

    def check(self, name: str) -> str:
        """Return ``name`` if it is a choice.

        Raises:
            SpecError: If it is not; the hint lists the choices.
        """
        if name not in self.rows:
            raise SpecError(
                f"There is no {self.option} {name!r}.", f"Choose one of: {', '.join(self.rows)}."
            )
        return name


def about(text: str) -> dict[str, Any]:
    """Metadata of a spec's field: what it means, in one or two sentences."""
    return {"help": text}


def one_of(table: Choices[Any], text: str = "") -> dict[str, Any]:
    """Metadata of a spec's field that takes one choice, or several, of a table."""
    return {"help": text or table.help, "choices": table}


def check_choices(spec: Any) -> None:
    """Check each field of a spec that has a table; None stands for no choice.

    Raises:
        SpecError: If a value is not in its table.
    """
    for one in fields(spec):
        table = one.metadata.get("choices")
        value = getattr(spec, one.name)
        if table is not None and value is not None:
            for name in (value,) if isinstance(value, str) else value:
                table.check(name)


# What choices need of a model.
ATTENTION = Need(
    "attention",
    NO_ATTENTION,
    lambda situation: situation.model is None or situation.model.heads > 0,
)
SEPARATE_HEADS = Need(
    "attention that splits into heads",
    NO_HEADS,
    lambda situation: situation.model is None or situation.model.split_heads,
)
LINEAR_HEAD = Need(
    "logits that are linear in the last state",
    NONLINEAR_HEAD,
    lambda situation: situation.model is None or situation.model.linear_head,
)
SEQUENTIAL = Need(
    "sequential blocks",
    "Attention and MLP run in parallel in this model. It has no such state.",
    lambda situation: situation.model is None or not situation.model.parallel_blocks,
)
UNTIED = Need(
    "untied embeddings",
    "Embeddings are tied: input and output are the same matrix, so the reading is the same as with"
    " Output.",
    lambda situation: situation.model is None or not situation.model.tied_embeddings,
)
FINAL_NORM = Need(
    "a final norm",
    "This model has no final norm. The state is decoded as it is.",
    lambda situation: situation.model is None or situation.model.norm != "none",
)
NORM_PARAMETERS = Need(
    "a final norm with scale or bias",
    "This model's final norm has no scale and no bias: Unit is the same as Full.",
    lambda situation: situation.model is None or not situation.model.plain_norm,
)


def _has_part(part: str) -> Need:
    name = PART_NAMES[part]
    return Need(
        name,
        f"This model has no {name}{' besides attention' if part == 'ssm' else ''}.",
        lambda situation: situation.model is None or part in situation.model.parts,
    )


MLP = _has_part("mlp")
STATE_SPACE_MODEL = _has_part("ssm")
PER_LAYER_EMBEDDING = _has_part("per_layer_embedding")
