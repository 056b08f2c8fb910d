"""What is answered: frozen, numpy on the CPU, shapes checked on construction."""

from analysis.results.attention import PatternResult
from analysis.results.base import ModelInfo, Token
from analysis.results.causal import CausalCheck, CausalComparison
from analysis.results.emergence import Attribution, Emergence, Story
from analysis.results.flow import LINK_KINDS, NODE_KINDS, Graph, Link, Node
from analysis.results.ledger import Ledger, LedgerEntry
from analysis.results.lens import Grid
from analysis.results.reading import LinkReading, Neurons
from analysis.results.run import RunResult
from analysis.results.sinks import Sinks
from analysis.results.tasks import (
    ContributionReport,
    EmergenceCurve,
    EmergenceReport,
    FailureReport,
    Outcome,
    Parting,
    PatchReport,
    ProbeReport,
    Projection,
    Share,
    SuiteReport,
)

__all__ = [
    "LINK_KINDS",
    "NODE_KINDS",
    "Attribution",
    "CausalCheck",
    "CausalComparison",
    "ContributionReport",
    "Emergence",
    "EmergenceCurve",
    "EmergenceReport",
    "FailureReport",
    "Graph",
    "Grid",
    "Ledger",
    "LedgerEntry",
    "Link",
    "LinkReading",
    "ModelInfo",
    "Neurons",
    "Node",
    "Outcome",
    "Parting",
    "PatchReport",
    "PatternResult",
    "ProbeReport",
    "Projection",
    "RunResult",
    "Share",
    "Sinks",
    "Story",
    "SuiteReport",
    "Token",
]
