"""The spec and the result of a component graph: the edges between parts that carry one answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analysis.contract.choices import Choice, Choices, about, check_choices, one_of
from analysis.contract.sheets import (
    COUNT,
    FLAG,
    INDEX,
    LOGITS,
    NUMBER,
    POSITION,
    TEXT,
    Row,
    Sheet,
)
from analysis.contract.specs import Floats, Ints, Result, Spec, Token, check_shape
from analysis.errors import SpecError
from analysis.experiments.component_layout import Layout

EDGE_ABLATIONS = Choices(
    "ablation of edges",
    Choice(
        "resample", "Second prompt",
        help="A cut edge carries what its sender writes after the corrupted prompt, at the same"
        " position.", source="Chan et al., 2022, causal scrubbing",
    ),
    Choice(
        "mean", "Mean",
        help="A cut edge carries the mean of its sender's output over the prompt's positions.",
        source="Wang et al., 2023",
    ),
    Choice("zero", "Zero", help="A cut edge carries nothing."),
    help="What replaces a sender along the edges that are cut.",
)  # fmt: skip
EDGE_SCORES = Choices(
    "score of edges",
    Choice(
        "gradient", "Gradient", "g · (sender − ablated sender)",
        "g is the gradient for what the receiver reads, in the clean run.",
        "Syed et al., 2023, edge attribution patching",
    ),
    Choice(
        "integrated", "Integrated gradient", "mean of g over 5 runs · (sender − ablated sender)",
        "The runs lie between the ablated embedding and the clean one. Five times the cost.",
        "Hanna et al., 2024, EAP-IG",
    ),
    help="How the effect of cutting an edge is estimated.",
)  # fmt: skip
#: Runs over which the integrated gradient is averaged.
STEPS = {"gradient": 1, "integrated": 5}
EDGE_POSITIONS = Choices(
    "positions of edges",
    Choice("each", "Each position", help="An edge belongs to one position.",
           source="Haklay et al., 2025, PEAP"),
    Choice("sum", "Summed", help="Scores are summed over positions. An edge is kept or cut at all"
           " positions. Opposite effects cancel.", source="Syed et al., 2023"),
    help="Whether the positions are kept apart.",
)  # fmt: skip
MAX_EDGES = 5000


@dataclass(frozen=True, slots=True)
class ComponentGraph(Result):
    """The edges between components that carry one answer, and what graphs of them explain.

    The graph of n edges has all edges whose ``edge_size`` is at most n.

    Attributes:
        senders: [sender] names: "embedding", "head 3.5", "mlp 3".
        receivers: [receiver] names: "head 3.5 query", "mlp 3", "answer".
        edge_sender, edge_receiver: [edge] numbers of sender and receiver, in the order in which
            edges enter the graph.
        edge_pos: [edge] the position; -1: all positions.
        edge_effect: [edge] how much the target falls if the edge is cut, in logits.
        edge_measured: [edge] 1 where the edge was cut, 0 where the effect is estimated.
        edge_size: [edge] number of edges of the smallest graph that has the edge.
        full_value, empty_value: The target with all edges kept, and with all cut.
        possible: Number of edges of the model for this prompt.
        cancelled: Share of the absolute scores that cancels if positions are summed; 0 if not.
        rebuild_error: Largest relative error of a state rebuilt as the sum of its senders.
        sizes: [size] numbers of edges of the graphs that ran.
        kept: [size] share of the target that remains if all edges outside the graph are cut.
        random: [size, draw] the same for random graphs of about the same size.
        removed: [size] share of the target that remains if the graph's edges are cut instead.
        tokens, other: [pos] tokens of the prompts; ``other`` is empty without a second prompt.
        answer, foil: The target is the answer's logit minus the foil's, at the last position.
        ablation, score, positions: As in the spec.
        pairs: Number of prompt pairs over which scores and targets are averaged.
        passes: Runs of the model, apart from the gradients.
    """

    senders: tuple[str, ...]
    receivers: tuple[str, ...]
    edge_sender: Ints
    edge_receiver: Ints
    edge_pos: Ints
    edge_effect: Floats
    edge_measured: Ints
    edge_size: Ints
    full_value: float
    empty_value: float
    possible: int
    cancelled: float
    rebuild_error: float
    sizes: Ints
    kept: Floats
    random: Floats
    removed: Floats
    tokens: tuple[Token, ...]
    other: tuple[Token, ...]
    answer: Token
    foil: Token
    ablation: str
    score: str
    positions: str
    pairs: int = 1
    passes: int = 0

    def __post_init__(self) -> None:
        count = len(self.edge_sender)
        for name in ("receiver", "pos", "effect", "measured", "size"):
            check_shape(f"edge_{name}", getattr(self, f"edge_{name}"), (count,))
        for name in ("kept", "removed"):
            check_shape(name, getattr(self, name), (len(self.sizes),))
        check_shape("random", self.random, (len(self.sizes), None))

    def count(self, most: int) -> int:
        """Number of edges of the largest graph with at most ``most``: its edges come first."""
        return int((self.edge_size <= most).sum())

    @property
    def area(self) -> float:
        """Area under ``kept`` over the share of edges: CPR of the MIB benchmark; NaN if not run."""
        return self._area(self.kept)

    @property
    def distance(self) -> float:
        """Area between ``kept`` and 1: CMD of the MIB benchmark (0 is best); NaN if not run."""
        return self._area(np.abs(1.0 - self.kept), at_zero=1.0)

    def _area(self, values: Floats, at_zero: float = 0.0) -> float:
        if not len(self.sizes):
            return float("nan")
        shares = np.concatenate([[0.0], self.sizes / self.possible])
        return float(np.trapezoid(np.concatenate([[at_zero], values]), shares))


@dataclass(frozen=True, slots=True)
class ComponentGraphSpec(Spec[ComponentGraph]):
    """Which edges between heads, MLPs, embedding and answer carry the answer of one prompt."""

    model: str = field(metadata=about("A catalogue name."))
    clean: str = field(metadata=about("The prompt after which the model gives the answer."))
    corrupted: str = field(
        default="",
        metadata=about("A second prompt with as many tokens; the ablation resample needs it."),
    )
    answer: str = field(
        default="",
        metadata=about("One token, with its leading space; the clean run's top token if empty."),
    )
    foil: str = field(
        default="",
        metadata=about(
            "Another token, to compare with; the corrupted run's top token if empty, or the second"
            " token of the clean run."
        ),
    )
    ablation: str = field(default="resample", metadata=one_of(EDGE_ABLATIONS))
    score: str = field(default="gradient", metadata=one_of(EDGE_SCORES))
    positions: str = field(default="each", metadata=one_of(EDGE_POSITIONS))
    edges: int = field(default=300, metadata=about("Edges of the largest graph that is returned."))
    measured: int = field(
        default=0,
        metadata=about("How many of the strongest edges are cut one at a time, to measure them."),
    )
    curve: bool = field(
        default=True, metadata=about("Run graphs of several sizes to measure their faithfulness.")
    )
    draws: int = field(default=3, metadata=about("Random graphs of each size to compare with."))
    seed: int = field(default=0, metadata=about("The seed of the random graphs."))

    def __post_init__(self) -> None:
        check_choices(self)
        check_request(self.ablation, self.corrupted, self.edges, self.measured, self.draws)
        if not self.clean:
            raise SpecError("The clean prompt is empty.", "Type some text, or choose a pair.")
        if self.answer and self.answer == self.foil:
            raise SpecError("The foil is the answer itself.", "Choose another token.")


def check_request(ablation: str, corrupted: object, edges: int, measured: int, draws: int) -> None:
    """Refuse options that do not fit together, or numbers out of range.

    Raises:
        SpecError: Saying which.
    """
    if ablation == "resample" and (corrupted is None or corrupted == ""):
        raise SpecError(
            "The corrupted prompt is empty, but cut edges carry what senders write after it.",
            "Write a second prompt, or choose the ablation mean or zero.",
        )
    for name, value, low, high in (
        ("The number of edges", edges, 1, MAX_EDGES),
        ("The number of measured edges", measured, 0, edges),
        ("The number of random graphs", draws, 0, 20),
    ):
        if not low <= value <= high:
            raise SpecError(f"{name} can't be {value}.", f"Use {low} to {high}.")


def names_of(layout: Layout) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of a model's senders and receivers."""
    return (
        tuple(one.name for one in layout.senders), tuple(one.name for one in layout.receivers)
    )  # fmt: skip


def edge_rows(graph: ComponentGraph) -> Iterator[Row]:
    """One row for each edge, in the order in which they enter; no position: all positions."""
    columns = (graph.edge_sender, graph.edge_receiver, graph.edge_pos, graph.edge_size)
    for number, (sender, receiver, pos, size) in enumerate(zip(*columns, strict=True)):
        place, text = (int(pos), graph.tokens[pos].text) if pos >= 0 else (None, "")
        yield (
            number, graph.senders[sender], graph.receivers[receiver], place, text,
            graph.edge_effect[number], bool(graph.edge_measured[number]), int(size),
        )  # fmt: skip


def curve_rows(graph: ComponentGraph) -> Iterator[Row]:
    """One row for each size, with the mean and the ends of the random graphs."""
    for number, size in enumerate(graph.sizes.tolist()):
        random = graph.random[number]
        known = len(random) and not np.isnan(random).any()
        spread = (random.mean(), random.min(), random.max()) if known else (None,) * 3
        share = size / graph.possible
        yield size, share, graph.kept[number], graph.removed[number], *spread


def fact_rows(graph: ComponentGraph) -> Iterator[Row]:
    """Every number and choice of the result, and its answer and foil, by name."""
    for name in graph.__dataclass_fields__:
        value = getattr(graph, name)
        if isinstance(value, str | int | float):
            yield name, value
        elif name in ("answer", "foil"):
            yield name, value.text
    yield "area", graph.area
    yield "distance", graph.distance


#: The tables of a component graph; the first is the main one.
SHEETS: dict[type[Any], tuple[Sheet, ...]] = {
    ComponentGraph: (
        Sheet(
            "edges",
            {"order": INDEX, "sender": TEXT, "receiver": TEXT, "position": POSITION, "text": TEXT,
             "effect": LOGITS, "measured": FLAG, "size": COUNT},
            edge_rows,
        ),
        Sheet(
            "curve",
            {"size": COUNT, "share": NUMBER, "kept": NUMBER, "removed": NUMBER,
             "random": NUMBER, "random_low": NUMBER, "random_high": NUMBER},
            curve_rows,
        ),
        Sheet("facts", {"name": TEXT, "value": TEXT}, fact_rows),
    ),
}  # fmt: skip
