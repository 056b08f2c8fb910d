"""Public functions beside ``decode``: colours, promoted tokens, disagreement, steps, reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from analysis.api import DecodeOptions
from analysis.capture import Trace
from analysis.lens_specs import (
    QUANTITIES,
    ColourSpec,
    DisagreementSpec,
    EmbeddingSpec,
    LargestStepSpec,
    NormSpec,
    PromotedSpec,
    SimilaritySpec,
    StepsSpec,
)
from analysis.models.handle import Model
from analysis.results import (
    Colours,
    Disagreement,
    EmbeddingReport,
    LargestSteps,
    NormReport,
    Promoted,
    SimilarityReport,
    Steps,
)
from analysis.specs import LensSpec, as_tuple
from analysis.techniques import colours as colours_technique
from analysis.techniques import disagreement as disagreement_technique
from analysis.techniques import embeddings as embeddings_technique
from analysis.techniques import norm_report as norm_technique
from analysis.techniques import promoted as promoted_technique
from analysis.techniques import similarity as similarity_technique
from analysis.techniques import steps as steps_technique


def colours(
    model: Model,
    trace: Trace,
    *,
    quantities: Sequence[str] = QUANTITIES,
    **options: Unpack[DecodeOptions],
) -> Colours:
    """What a grid's cells can be coloured by beside their tokens.

    Args:
        model: From ``load_model``.
        trace: From ``trace``.
        quantities: Of "cross_entropy" (of the true next token, nats), "rank_change" (against the
            row before), "state_norm", "cosine_before", and the shares of residual, attention and
            MLP in each block's output by "norm", "proximity", "kl" and "hidden_kl".
        **options: The grid: as in ``decode``.

    Raises:
        SpecError: If an option has no such value, or a row, position, head or source does not
            exist.
    """
    chosen: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    for name in ("rows", "positions"):
        if name in chosen:
            chosen[name] = as_tuple(chosen[name])
    asked: Any = tuple(quantities)
    return colours_technique.compute(model, trace, ColourSpec(LensSpec(**chosen), asked))


def promoted(
    model: Model,
    trace: Trace,
    component: str,
    layer: int,
    position: int = -1,
    *,
    head: int | None = None,
    source: int | None = None,
    k: int = 10,
    reading: str = "direct",
) -> Promoted:
    """Which tokens a component's output adds to the logits, and takes from them.

    Args:
        model: From ``load_model``.
        trace: From ``trace``.
        component: As in ``decode``.
        layer: Entry of its first axis (a row for "block_output").
        position: Where it writes.
        head: Which head, with "head_output" and "source_output".
        source: Which source position, with "source_output".
        k: How many tokens.
        reading: "direct" (the final norm's scale frozen at the final state: parts add up), or
            "lens" (normed on its own, as ``decode`` does).

    Raises:
        SpecError: If an option has no such value, or there is no such component.
    """
    chosen: Any = {"component": component, "reading": reading}
    spec = PromotedSpec(layer=layer, position=position, head=head, source=source, k=k, **chosen)
    return promoted_technique.compute(model, trace, spec)


def disagreement(
    model: Model,
    trace: Trace,
    decoders: Sequence[str] = ("output", "input", "linear"),
    *,
    norm: str = "full",
    rows: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
) -> Disagreement:
    """How far the readings of several decoders differ, cell by cell.

    Args:
        model: From ``load_model``.
        trace: From ``trace``.
        decoders: "output", "input", "linear", "quadratic", "learned"; at least two.
        norm: As in ``decode``.
        rows: Which rows; all unless given.
        positions: Which positions; all unless given.

    Raises:
        SpecError: If an option has no such value, or the model has no learned lens.
    """
    chosen: Any = {"decoders": tuple(decoders), "norm": norm}
    spec = DisagreementSpec(
        rows=None if rows is None else as_tuple(rows),
        positions=None if positions is None else as_tuple(positions),
        **chosen,
    )
    return disagreement_technique.compute(model, trace, spec)


def steps(
    model: Model,
    trace: Trace,
    position: int = -1,
    tokens: int | Sequence[int] | None = None,
    *,
    tau: float = 0.5,
) -> Steps:
    """How tokens come about at one position: curves over the rows, and their largest steps.

    Args:
        model: From ``load_model``.
        trace: From ``trace``.
        position: Where.
        tokens: Token ids; the model's own top token unless given.
        tau: The probability that ``emergence`` asks for.

    Raises:
        SpecError: If the position does not exist or tau is no probability.
        PromptError: If a token is not in the vocabulary.
    """
    return steps_technique.compute(model, trace, StepsSpec(position, as_tuple(tokens), tau))


def largest_steps(model: Model, trace: Trace) -> LargestSteps:
    """At every position: what made the largest step of the model's own final token.

    Args:
        model: From ``load_model``.
        trace: From ``trace``.
    """
    return steps_technique.at_every_position(model, trace, LargestStepSpec())


def similarity_report(
    model: Model,
    trace: Trace,
    *,
    norm: str = "full",
    decoder: str = "output",
    k: int = 10,
    cells: int = 128,
    seed: int = 0,
) -> SimilarityReport:
    """How far cosine, Euclidean distance and dot product rank the vocabulary alike.

    Args:
        model: From ``load_model``.
        trace: From ``trace``.
        norm: What block outputs are normed by first, as in ``decode``.
        decoder: Whose rows they are compared with, "output" or "input".
        k: How many best tokens the overlap looks at.
        cells: At most so many (row, position) cells, drawn by ``seed``.
        seed: Of the draw.

    Raises:
        SpecError: If an option has no such value.
    """
    chosen: Any = {"norm": norm, "decoder": decoder}
    spec = SimilaritySpec(k=k, cells=cells, seed=seed, **chosen)
    return similarity_technique.compute(model, trace, spec)


def embedding_report(
    model: Model, *, sample: int | None = EmbeddingSpec().sample, seed: int = 0
) -> EmbeddingReport:
    """Whether the model uses the same embeddings at its input and output.

    Args:
        model: From ``load_model``.
        sample: How many tokens have their nearest row looked for; None: all.
        seed: Of the draw.

    Raises:
        SpecError: If the two matrices have different widths.
    """
    return embeddings_technique.compute(model, EmbeddingSpec(sample, seed))


def norm_report(model: Model) -> NormReport:
    """Kind, effective scale and bias, and eps of every normalisation layer of the model.

    Args:
        model: From ``load_model``.
    """
    return norm_technique.compute(model, NormSpec())
