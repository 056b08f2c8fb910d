"""What is answered: frozen, numpy on the CPU, shapes checked on construction."""

from analysis.results.attention import PatternResult
from analysis.results.base import ModelInfo, Token
from analysis.results.causal import CausalCheck, CausalComparison
from analysis.results.colours import SHARE_PARTS, Colours, Disagreement
from analysis.results.emergence import Attribution, Emergence, Story
from analysis.results.failures import Answered, FailureReport, FlowChange, Parting
from analysis.results.flow import LINK_KINDS, NODE_KINDS, Graph, Link, Node
from analysis.results.ledger import Ledger, LedgerEntry
from analysis.results.lens import Grid
from analysis.results.reading import LinkReading, Neurons, Promoted
from analysis.results.reports import EmbeddingReport, NormReport, NormSummary, SimilarityReport
from analysis.results.run import RunResult
from analysis.results.sinks import Sinks
from analysis.results.steps import LargestStep, LargestSteps, Steps
from analysis.results.sums import ContributionReport, PatchReport, ProbeReport, Projection
from analysis.results.tasks import EmergenceCurve, EmergenceReport, Outcome, Share, SuiteReport

__all__ = [
    "LINK_KINDS",
    "NODE_KINDS",
    "SHARE_PARTS",
    "Answered",
    "Attribution",
    "CausalCheck",
    "CausalComparison",
    "Colours",
    "ContributionReport",
    "Disagreement",
    "EmbeddingReport",
    "Emergence",
    "EmergenceCurve",
    "EmergenceReport",
    "FailureReport",
    "FlowChange",
    "Graph",
    "Grid",
    "LargestStep",
    "LargestSteps",
    "Ledger",
    "LedgerEntry",
    "Link",
    "LinkReading",
    "ModelInfo",
    "Neurons",
    "Node",
    "NormReport",
    "NormSummary",
    "Outcome",
    "Parting",
    "PatchReport",
    "PatternResult",
    "ProbeReport",
    "Projection",
    "Promoted",
    "RunResult",
    "Share",
    "SimilarityReport",
    "Sinks",
    "Steps",
    "Story",
    "SuiteReport",
    "Token",
]
