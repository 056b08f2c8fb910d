"""The tables of every result, declared once: columns, units and rows.

A data frame, a CSV or JSON file, the page's export and the command line all come from here. To add
a result, add one row to ``SHEETS``; a test goes through the registry.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from analysis.attribution.specs import Attribution, Contribution
from analysis.contract.ledger import Ledger
from analysis.contract.sheets import (
    COSINE,
    COUNT,
    FLAG,
    HEAD,
    INDEX,
    LAYER,
    LOGITS,
    NATS,
    NORM,
    NUMBER,
    POSITION,
    PROBABILITY,
    RANK,
    ROW,
    SHARE,
    TEXT,
    TOKEN,
    Frame,
    Row,
    Sheet,
    cells,
    frame,
)
from analysis.contract.specs import ModelInfo
from analysis.errors import SpecError
from analysis.experiments.component_specs import SHEETS as EDGE_SHEETS
from analysis.experiments.sheets import SHEETS as EXPERIMENT_SHEETS
from analysis.export import rows
from analysis.flow_graph.results import CausalCheck, CausalComparison, Graph, LinkReading, Neurons
from analysis.inside_block.specs import AggregationReport, Experts, OpenedBlock, ScoreParts
from analysis.lens.results import Colours, Disagreement, Grid, Promoted
from analysis.reports.specs import EmbeddingReport, NormReport, SimilarityReport
from analysis.tasks.export import SHEETS as TASK_SHEETS
from analysis.tracing.specs import Answer, PatternResult, RunResult
from analysis.trajectory.specs import Emergence, LargestSteps, Steps, Story
from analysis.weights.specs import KINDS, Circuits, StateCircuits, WeightReport

_FIVE = ("min", "lower_quartile", "median", "upper_quartile", "max")
_LINK = {"kind": TEXT, "layer": LAYER, "head": HEAD, "source_pos": POSITION, "target_pos": POSITION}
_CUT = {"flow": NUMBER, "effect": LOGITS}
_SIDE = {"side": TEXT, "rank": RANK, "id": TOKEN, "text": TEXT, "logit": LOGITS}
_ROWS, _PLACES = ("rows", ROW), ("positions", POSITION)
_SCORE = {"query_part": TEXT, "key_part": TEXT, "score": NUMBER}
_POSITIONS = {"position": (None, POSITION)}
_FACTS = Sheet("facts", {"name": TEXT, "value": TEXT}, rows.facts)
_EMERGED = {"first_top1": ROW, "emergence": ROW, "saturation": ROW}


def _token_ids(steps: Steps) -> Sequence[int]:
    return [token.id for token in steps.tokens]


def _answer(found: Answer) -> Iterator[Row]:
    for step, token in enumerate(found.tokens):
        yield step, token.id, token.text


#: The tables of each result; the first is the main one.
SHEETS: dict[type[Any], tuple[Sheet, ...]] = {
    **TASK_SHEETS,
    **EXPERIMENT_SHEETS,
    **EDGE_SHEETS,
    ModelInfo: (_FACTS,),
    RunResult: (Sheet("predictions", rows.ranked_columns, rows.run),),
    Answer: (Sheet("tokens", {"step": INDEX, "id": TOKEN, "text": TEXT}, _answer),),
    Grid: (Sheet("cells", rows.grid_columns, rows.grid),),
    Colours: (
        cells(
            "cells", {"row": _ROWS, "position": _PLACES},
            {"cross_entropy": NATS, "rank_change": NUMBER, "state_norm": NORM,
             "cosine_before": COSINE},
        ),
        Sheet(
            "shares",
            {"method": TEXT, "part": TEXT, "layer": LAYER, "position": POSITION, "share": SHARE,
             "by_norm": FLAG},
            rows.shares,
        ),
    ),
    Disagreement: (Sheet("cells", rows.disagreement_columns, rows.disagreement),),
    Promoted: (Sheet("tokens", _SIDE, rows.words), _FACTS),
    PatternResult: (
        Sheet(
            "weights",
            {"layer": LAYER, "head": HEAD, "query": POSITION, "key": POSITION, "weight": SHARE},
            rows.pattern,
        ),
        cells(
            "heads", {"head": (None, HEAD), **_POSITIONS},
            {"sink": SHARE, "head_norm": NORM, "head_share": SHARE},
        ),
    ),
    Graph: (
        Sheet(
            "links",
            {**_LINK, "source": TEXT, "target": TEXT, "share": NUMBER, "flow": NUMBER,
             "measured": FLAG},
            rows.links,
        ),
        Sheet(
            "nodes",
            {"key": TEXT, "kind": TEXT, "row": ROW, "layer": LAYER, "position": POSITION,
             "flow": NUMBER},
            lambda graph: graph.nodes,
        ),
        _FACTS,
    ),
    LinkReading: (Sheet("tokens", _SIDE, rows.words), _FACTS),
    Neurons: (
        cells(
            "neurons", {"neuron": ("neuron", INDEX)},
            {"activation": NUMBER, "logit": LOGITS, "norm": NORM},
        ),
        Sheet(
            "tokens",
            {"neuron": INDEX, "rank": RANK, "id": TOKEN, "text": TEXT, "logit": LOGITS},
            rows.neuron_words,
        ),
        _FACTS,
    ),
    CausalCheck: (Sheet("cuts", {**_LINK, "share": NUMBER, **_CUT}, rows.cuts), _FACTS),
    CausalComparison: (
        cells("methods", {"method": ("methods", TEXT)}, {"correlations": NUMBER}),
        Sheet("cuts", {"method": TEXT, **_LINK, **_CUT}, rows.compared_cuts),
        _FACTS,
    ),
    Attribution: (
        Sheet("parts", dict(zip(Contribution._fields, (TEXT, LAYER, HEAD, LOGITS), strict=True)),
              rows.parts),
        _FACTS,
    ),
    Emergence: (
        Sheet("positions", {"position": POSITION, "id": TOKEN, **_EMERGED, "causal_commit": ROW},
              rows.emergence),
        cells(
            "curves", {"row": (None, ROW), **_POSITIONS}, {"prob": PROBABILITY, "rank": RANK},
            fields={"prob": "probs", "rank": "ranks"},
        ),
    ),
    Steps: (
        cells(
            "curves", {"row": _ROWS, "id": (_token_ids, TOKEN)},
            {"prob": PROBABILITY, "log_prob": NATS, "rank": RANK, "entropy": NATS,
             "kl_to_final": NATS},
            fields={"prob": "probs", "log_prob": "log_probs", "rank": "ranks"},
        ),
        Sheet(
            "tokens",
            {"id": TOKEN, "text": TEXT, **_EMERGED, "layer": LAYER, "step": NATS,
             "component": TEXT, "attention": NATS, "mlp": NATS, "mlp_logit": LOGITS},
            rows.steps_tokens,
        ),
    ),
    LargestSteps: (
        cells(
            "positions", _POSITIONS,
            {"id": TOKEN, "layer": LAYER, "step": NATS, "attention": NATS, "mlp": NATS,
             "head": HEAD, "head_logit": LOGITS, "source": POSITION},
            fields={"id": "token_ids"},
        ),
    ),
    Story: (
        Sheet(
            "story",
            {"position": POSITION, "id": TOKEN, "text": TEXT, "prob": PROBABILITY, **_EMERGED,
             "part": TEXT, "layer": LAYER, "head": HEAD, "source_pos": POSITION, "logit": LOGITS},
            rows.story,
        ),
    ),
    Ledger: (
        Sheet(
            "identities",
            {"number": INDEX, "identity": TEXT, "error": NUMBER, "tolerance": NUMBER,
             "holds": FLAG, "note": TEXT},
            rows.identities,
        ),
    ),
    OpenedBlock: (
        Sheet(
            "steps",
            {"step": TEXT, "length": NORM, "cosine": COSINE, "id": TOKEN, "token": TEXT},
            rows.steps_of_block,
        ),
        cells(
            "scores", {"head": (None, HEAD), "key": (None, POSITION)},
            {"content": NUMBER, "rotation": NUMBER, "bias": NUMBER, "weight": SHARE,
             "brought": NORM, "brought_cosine": COSINE},
            fields={"weight": "weights", "brought_cosine": "brought_cosines"},
        ),
        cells("heads", {"head": (None, HEAD)}, {"length": NORM, "cosine": COSINE},
              fields={"length": "head_lengths", "cosine": "head_cosines"}),
        cells("norms", {"norm": ("norm_names", TEXT)}, {"factor": NUMBER, "cosine": COSINE},
              fields={"factor": "norm_factors", "cosine": "norm_cosines"}),
        cells("neurons", {"neuron": ("neurons", INDEX)}, {"activation": NUMBER, "effect": LOGITS},
              fields={"activation": "activations", "effect": "effects"}),
        Sheet("coordinates", {"of": TEXT, "rank": RANK, "coordinate": INDEX, "value": NUMBER},
              rows.coordinates),
        Sheet("tokens", {"kind": TEXT, "of": TEXT, "rank": RANK, "id": TOKEN, "text": TEXT},
              rows.words_of_block),
        _FACTS,
    ),
    Experts: (
        Sheet(
            "experts",
            {"expert": TEXT, "weight": SHARE, "length": NORM, "cosine": COSINE, "logit": LOGITS,
             "promotes": TEXT},
            rows.experts,
        ),
        _FACTS,
    ),
    ScoreParts: (
        Sheet("largest", _SCORE, rows.largest_scores),
        Sheet("parts", _SCORE, rows.all_scores),
        _FACTS,
    ),
    AggregationReport: (
        cells(
            "layers", {"layer": (None, LAYER)},
            {"attention": SHARE, "mlp": SHARE, "attention_control": SHARE, "mlp_control": SHARE},
        ),
        _FACTS,
    ),
    Circuits: (
        Sheet("readings", {"token": TEXT, "promotes": TEXT, "looks_for": TEXT}, rows.readings),
        Sheet(
            "tokens",
            {"side": TEXT, "id": TOKEN, "text": TEXT, "rank": RANK, "other_id": TOKEN,
             "other_text": TEXT, "value": NUMBER},
            rows.circuit_words,
        ),
        Sheet(
            "directions",
            {"side": TEXT, "direction": INDEX, "end": TEXT, "rank": RANK, "id": TOKEN,
             "text": TEXT},
            rows.directions,
        ),
        Sheet("values", {"circuit": TEXT, "rank": RANK, "value": NUMBER}, rows.singular_values),
        _FACTS,
    ),
    StateCircuits: (
        Sheet("states", {"position": POSITION, "token": TEXT, "own_rank": RANK, "promotes": TEXT,
                         "looks_for": TEXT}, rows.state_readings),
        Sheet(
            "tokens",
            {"side": TEXT, "position": POSITION, "rank": RANK, "id": TOKEN, "text": TEXT,
             "value": NUMBER},
            rows.state_words,
        ),
        _FACTS,
    ),
    WeightReport: (
        Sheet("heads", {"layer": LAYER, "head": HEAD, **dict.fromkeys(KINDS, SHARE)},
              rows.kinds_of_heads),
        cells("norms", {"matrix": ("norm_names", TEXT), "layer": (None, LAYER)}, {"norm": NORM},
              fields={"norm": "norms"}),
        Sheet(
            "composition",
            {"kind": TEXT, "layer": LAYER, "head": HEAD, "to_layer": LAYER, "to_head": HEAD,
             "score": SHARE},
            rows.compositions,
        ),
        _FACTS,
    ),
    EmbeddingReport: (
        _FACTS,
        Sheet("cosines", {"low": COSINE, "high": COSINE, "tokens": COUNT}, rows.cosines),
        Sheet(
            "quantiles",
            {"level": SHARE, "cosine": COSINE, "rank_in_output": NUMBER, "rank_in_input": NUMBER,
             "input_norm": NORM, "output_norm": NORM},
            rows.quantiles,
        ),
    ),
    NormReport: (
        Sheet(
            "norms",
            {"name": TEXT, "layer": LAYER, "kind": TEXT, "stores": TEXT, "size": COUNT,
             "eps": NUMBER, **{f"scale_{name}": NUMBER for name in _FIVE},
             **{f"bias_{name}": NUMBER for name in _FIVE}},
            rows.norms,
        ),
        cells("final", {"channel": (None, INDEX)}, {"scale": NUMBER, "bias": NUMBER},
              fields={"scale": "final_scale", "bias": "final_bias"}),
    ),
    SimilarityReport: (
        cells(
            "states", {"state": (None, INDEX)},
            {"row": ROW, "position": POSITION, "state_norm": NORM, "overlap_euclidean": SHARE,
             "rank_euclidean": COSINE, "overlap_dot": SHARE, "rank_dot": COSINE},
            fields={"row": "rows", "position": "positions"},
        ),
        Sheet(
            "bins",
            {"low": NORM, "high": NORM, "states": COUNT, "overlap_euclidean": SHARE,
             "rank_euclidean": COSINE, "overlap_dot": SHARE, "rank_dot": COSINE},
            rows.bins,
        ),
        cells("lengths", {"norm": ("swept_norm", NORM)}, {"overlap": SHARE, "rank": COSINE},
              fields={"overlap": "swept_overlap", "rank": "swept_rank"}),
        _FACTS,
    ),
}  # fmt: skip


def sheets_of(result: Any) -> tuple[Sheet, ...]:
    """The tables of a result's type.

    Raises:
        SpecError: If the type has none, as a part of another result.
    """
    if type(result) not in SHEETS:
        raise SpecError(
            f"{type(result).__name__} has no tables of its own.",
            "Take them from the result that contains it.",
        )
    return SHEETS[type(result)]


def frames(result: Any, tokens: Sequence[Any] = ()) -> tuple[Frame, ...]:
    """All tables of a result.

    Args:
        result: A result of ``analysis.registry``.
        tokens: [pos] of its run, for the texts of positions.
    """
    return tuple(frame(sheet, result, tokens) for sheet in sheets_of(result))


def one_frame(result: Any, tokens: Sequence[Any] = (), name: str = "") -> Frame:
    """One table of a result: the main one unless named.

    Raises:
        SpecError: If there is no table of that name.
    """
    found = sheets_of(result)
    for sheet in found:
        if name in ("", sheet.name):
            return frame(sheet, result, tokens)
    known = ", ".join(sheet.name for sheet in found)
    raise SpecError(f"There is no table {name!r}.", f"Choose one of: {known}.")
