"""What is answered: frozen, numpy on the CPU, shapes checked on construction."""

from analysis.results.attention import PatternResult
from analysis.results.base import ModelInfo, Token
from analysis.results.emergence import Attribution, Emergence, Story
from analysis.results.flow import LINK_KINDS, NODE_KINDS, Graph, Link, Node
from analysis.results.ledger import Ledger, LedgerEntry
from analysis.results.lens import Grid
from analysis.results.run import RunResult
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
)

__all__ = [
    "LINK_KINDS",
    "NODE_KINDS",
    "Attribution",
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
    "ModelInfo",
    "Node",
    "Outcome",
    "Parting",
    "PatchReport",
    "PatternResult",
    "ProbeReport",
    "Projection",
    "RunResult",
    "Share",
    "Story",
    "Token",
]
