"""The interventions as frozen descriptions: what to change in a forward pass, and where.

Those of ``RunEdit`` hold numbers and text only, so that a spec, a link or a command can contain
them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from analysis.contract.arguments import convert_fields
from analysis.contract.choices import Choice, Choices
from analysis.errors import SpecError

ABLATION_VALUES = Choices(
    "ablation value",
    Choice("zero", "Zero", "0", "Zero ablation."),
    Choice(
        "mean", "Mean", "mean over the positions of the run",
        "Mean ablation. A head's mean is taken before the output projection.",
    ),
    help="What replaces an ablated output.",
)  # fmt: skip

PATTERN_DTYPES = Choices(
    "pattern dtype",
    Choice("float32", "32 bits", "", "The weights as the model computes them."),
    Choice(
        "float16", "16 bits", "",
        "It rounds each weight by at most 0.05 %, and a weight below 0.00006 by at most 3e-8.",
    ),
    help="The numbers in which a trace keeps attention patterns.",
)  # fmt: skip

INJECTION_MODES = Choices(
    "injection mode",
    Choice("replace", "Replace", "e", "The token's input embedding replaces the state."),
    Choice(
        "main_component", "Main component", "h + (h · f) · (e − f)",
        "Only the state's largest unembedding direction f, the unit row of its top token, is turned"
        " into the token's unit row e.",
        "InTraVisTo, 2024",
    ),
    help="The part of the state that the token's embedding replaces.",
)  # fmt: skip


Where = int | tuple[int, ...] | None
_ALIASES = {
    "attention": "attention_output",
    "mlp": "mlp_output",
    "head": "head_output",
    "ssm": "ssm_output",
    "per_layer_embedding": "per_layer_embedding_output",
    "neuron": "neuron",
}


#: The components that can be ablated, and their names for readers.
COMPONENTS = {
    "attention_output": "Attention output",
    "mlp_output": "MLP output",
    "head_output": "Head",
    "neuron": "Neuron",
    "ssm_output": "Mixer output",
    "per_layer_embedding_output": "Per-layer embedding",
}
#: What a component's output is replaced by.
REPLACEMENTS = Choices(
    "replacement",
    *ABLATION_VALUES.values(),
    Choice(
        "resample", "From another prompt", "its value in another prompt",
        "Resample ablation. With a chosen position of the other prompt it is activation patching.",
    ),
    help="What replaces an ablated output.",
)  # fmt: skip
#: Components with a number inside their layer, and the name of that number.
_UNITS = {"head_output": "head", "neuron": "neuron"}
#: Most characters of another prompt, and the largest strength of a steering vector.
MAX_PROMPT, MAX_STRENGTH = 2000, 1000.0

Prompt = str | tuple[int, ...]


@dataclass(frozen=True)
class Ablate:
    """Replace the output of a component by zero, by its mean, or by its value in another prompt.

    Attributes:
        component: "attention_output", "mlp_output", "head_output" or "neuron"; in models that have
            them, "ssm_output" or "per_layer_embedding_output".
        layer: The block.
        head: The head, for ``head_output``.
        pos: One position, several, or None for all.
        value: "zero"; "mean" over the positions of the same run (of the prompt, while generating);
            or "resample": the value in ``prompt``. A head's output is replaced before the output
            projection, a neuron's activation before the down projection.
        neuron: The neuron, for ``neuron``: a coordinate of the down projection's input.
        prompt: The other prompt, for "resample", as text or token ids. It is run without
            interventions.
        source_pos: The position to read in ``prompt``; negative ones count from its end. None: the
            same position. With all positions, that is each position that both prompts have.
    """

    component: str
    layer: int
    head: int | None = None
    pos: Where = None
    value: str = "zero"
    neuron: int | None = None
    prompt: Prompt = ""
    source_pos: int | None = None

    def __post_init__(self) -> None:
        convert_fields(self)
        component = _ALIASES.get(self.component, self.component)
        if component not in _ALIASES.values():
            raise SpecError(
                f"The component {self.component!r} can't be ablated.",
                f"Choose one of: {', '.join(_ALIASES.values())}.",
            )
        for owner, unit in _UNITS.items():
            given = getattr(self, unit)
            if component == owner and given is None:
                raise SpecError(f"Ablating {owner} needs a {unit}.", f"Give {unit}=.")
            if component != owner and given is not None:
                raise SpecError(
                    f"A {unit} was given for {component}.", f"Choose the component {owner}."
                )
        REPLACEMENTS.check(self.value)
        if self.value == "resample":
            _check_prompt(self.prompt)
        elif self.prompt or self.source_pos is not None:
            raise SpecError(
                f"Another prompt was given for the value {self.value!r}.",
                "Choose the value 'resample'.",
            )
        object.__setattr__(self, "component", component)


def _check_prompt(prompt: Prompt) -> None:
    if not prompt:
        raise SpecError("The other prompt is empty.", "Type the text to patch from.")
    if len(prompt) > MAX_PROMPT:
        raise SpecError(
            f"The other prompt has a length of {len(prompt)}; at most {MAX_PROMPT} can be used.",
            "Shorten it.",
        )


def _check_strength(strength: float) -> None:
    if not abs(strength) <= MAX_STRENGTH:
        raise SpecError(
            f"The strength {strength:g} is too large.",
            f"Choose one from -{MAX_STRENGTH:g} to {MAX_STRENGTH:g}.",
        )


@dataclass(frozen=True)
class KnockOut:
    """Cut an attention edge before the softmax, which renormalises the query's other edges.

    A query whose every visible key is cut gets no attention output: its pattern and its output
    are zero.

    Attributes:
        layer: The block.
        head: The head; None for all heads.
        query: The position that reads.
        key: The position that it must not read.
    """

    layer: int
    head: int | None
    query: int
    key: int

    def __post_init__(self) -> None:
        convert_fields(self)


@dataclass(frozen=True, eq=False)
class Patch:
    """Replace a state by one of another run (activation patching).

    Attributes:
        row: Residual row.
        pos: Positions to overwrite; None for all (both runs must have the same length).
        source: The other run's ``Trace``, of the same model, or the states themselves, [d_model]
            or [pos, d_model].
        source_pos: Positions to read in ``source``; the same positions unless given.
    """

    row: int
    pos: Where
    source: Any
    source_pos: Where = None

    def __post_init__(self) -> None:
        convert_fields(self)


@dataclass(frozen=True)
class Inject:
    """Put a token's embedding into a state (InTraVisTo's injection).

    Attributes:
        row: Residual row.
        pos: Positions; None for all.
        token: The token, as id or text.
        mode: "replace" replaces the state by the token's input embedding. "main_component"
            turns only the state's largest unembedding direction f, the unit row of its top
            token, into the token's unit row e: ``h + <h, f> (e - f)``.
    """

    row: int
    pos: Where
    token: int | str
    mode: str = "replace"

    def __post_init__(self) -> None:
        convert_fields(self)
        INJECTION_MODES.check(self.mode)


@dataclass(frozen=True, eq=False)
class Steer:
    """Add a vector to a state.

    Attributes:
        row: Residual row.
        pos: Positions; None for all.
        vector: [d_model].
    """

    row: int
    pos: Where
    vector: Any

    def __post_init__(self) -> None:
        convert_fields(self)


@dataclass(frozen=True)
class PatchPrompt:
    """Replace a state by the state of another prompt at the same row (activation patching).

    Attributes:
        row: Residual row.
        pos: Positions to overwrite; None for all.
        prompt: The other prompt, as text or token ids; it is run without interventions.
        source_pos: The position to read in it; negative ones count from its end.
    """

    row: int
    pos: Where
    prompt: Prompt
    source_pos: int = -1

    def __post_init__(self) -> None:
        convert_fields(self)
        _check_prompt(self.prompt)


@dataclass(frozen=True)
class SteerTokens:
    """Add the difference of two tokens' input embeddings to a state.

    Attributes:
        row: Residual row.
        pos: Positions; None for all.
        towards: The token whose embedding is added, as id or text.
        away: The token whose embedding is subtracted.
        strength: The factor of the difference, -1000 to 1000.
    """

    row: int
    pos: Where
    towards: int | str
    away: int | str
    strength: float = 1.0

    def __post_init__(self) -> None:
        convert_fields(self)
        _check_strength(self.strength)


@dataclass(frozen=True)
class SteerPrompts:
    """Add the difference of two prompts' states at the same row to a state.

    Source: Turner et al. 2023, "Steering language models with activation engineering".

    Attributes:
        row: Residual row.
        pos: Positions; None for all.
        towards: The prompt whose state is added, as text or token ids.
        away: The prompt whose state is subtracted. Both are run without interventions.
        strength: The factor of the difference, -1000 to 1000.
        towards_pos, away_pos: The positions to read in them; negative ones count from the end.
    """

    row: int
    pos: Where
    towards: Prompt
    away: Prompt
    strength: float = 1.0
    towards_pos: int = -1
    away_pos: int = -1

    def __post_init__(self) -> None:
        convert_fields(self)
        _check_prompt(self.towards)
        _check_prompt(self.away)
        _check_strength(self.strength)


@dataclass(frozen=True)
class SteerDirection:
    """Add a saved direction to a state (``analysis.save_direction``).

    Attributes:
        row: Residual row.
        pos: Positions; None for all.
        name: The direction's name. It must be saved for this model.
        strength: The factor of the direction, -1000 to 1000.
    """

    row: int
    pos: Where
    name: str
    strength: float = 1.0

    def __post_init__(self) -> None:
        convert_fields(self)
        check_direction_name(self.name)
        _check_strength(self.strength)


def check_direction_name(name: str) -> None:
    """Refuse a name that can't be the name of a file.

    Raises:
        SpecError: If it is empty, too long or has other characters.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,59}", name):
        raise SpecError(
            f"A direction can't have the name {name[:60]!r}.",
            "Use 1 to 60 letters, digits, dots, hyphens and underscores.",
        )


PATTERNS = Choices(
    "attention patterns",
    Choice("free", "Free", help="Each pattern follows from the edited states."),
    Choice("held", "Held", help="Each pattern stays as it is in the run without edits."),
    help="Whether edits change attention patterns. HoldPatterns among the edits holds them.",
)


@dataclass(frozen=True)
class HoldPatterns:
    """Keep every attention pattern as it is in the run without edits (frozen attention).

    Edits then act through values and MLPs only. The run without edits reads the same tokens. Where
    an attention edge is cut, the other edges of its query share its weight, as after a softmax of
    the baseline's scores. Layers without attention have no pattern to keep.

    Source: Elhage et al. 2021, "A mathematical framework for transformer circuits" (frozen
    attention patterns).
    """


#: Interventions of numbers and text.
RunEdit = (
    Ablate | KnockOut | Inject | PatchPrompt | SteerTokens | SteerPrompts | SteerDirection
    | HoldPatterns
)  # fmt: skip
Intervention = RunEdit | Patch | Steer
#: Most edits of one run.
MAX_EDITS = 32
